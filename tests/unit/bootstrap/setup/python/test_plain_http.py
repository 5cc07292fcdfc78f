"""What has no hash is not taken over plain http, unless the person says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from bootstrap.commands import bootstrap
from bootstrap.errors import UserError
from bootstrap.paths import CHECKOUT
from bootstrap.setup.python.package_pins import CONDA, STACKS, read_lock
from bootstrap.setup.python.plain_http import exposed, refuse
from scripts.locks.resolve import PYTHONS

INTEL, UPSTREAM = (read_lock(CHECKOUT, stack) for stack in ("intel", "upstream"))
HTTP, HTTPS = "http://me:geheim@mirror/simple", "https://mirror/simple"


def test_of_all_but_oneccls_bindings_there_are_hashes() -> None:
    for stack in (*STACKS, CONDA):
        assert read_lock(CHECKOUT, stack).unhashed == (
            ("oneccl-bind-pt",) if stack == "intel" else ()
        )
    for stack in STACKS:
        torch = read_lock(CHECKOUT, stack).lines["torch"]
        assert torch.count("--hash=sha256:") == len(PYTHONS)


@pytest.mark.parametrize(
    ("url", "is_exposed"),
    [
        ("http://mirror/simple", True), ("http://10.0.0.9:8080/simple", True),
        ("http://127.0.0.1@mirror/simple", True), ("HTTP://mirror", True),
        ("http://localhost.mirror/simple", True), ("https://mirror/simple", False),
        ("http://127.0.0.1:8080/simple", False), ("http://[::1]/simple", False),
        ("http://localhost/simple", False), ("file:///mirror", False), (None, False),
    ],
)  # fmt: skip
def test_what_can_be_changed_on_the_way(url: str | None, is_exposed: bool) -> None:
    assert exposed(url) is is_exposed


def test_an_index_over_http_is_refused_for_what_has_no_hash() -> None:
    with pytest.raises(
        UserError, match=r"http://\*\*\*@mirror.*no hash of oneccl-bind-pt"
    ) as caught:
        refuse(INTEL, HTTP, None)
    for way in ("https://", "--without-oneccl", "--allow-http"):
        assert way in str(caught.value)
    refuse(INTEL, HTTPS, HTTPS)
    refuse(UPSTREAM, HTTP, None)
    refuse(INTEL.without(["oneccl-bind-pt"]), HTTP, None)


def test_a_channel_over_http_is_refused() -> None:
    with pytest.raises(UserError, match=r"--conda-channel http://\*\*\*@mirror.*--allow-http"):
        refuse(UPSTREAM, None, HTTP)


def test_the_command_refuses_before_it_touches_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bootstrap, "make_payload", lambda *_: pytest.fail("something was begun"))
    words = ["--inventory", "local", "--package-index", "http://mirror/simple"]
    assert bootstrap.main(words) == 1
    assert "no hash of oneccl-bind-pt" in capsys.readouterr().err
    assert bootstrap.main([*words, "--stack", "upstream", "--conda-channel", "http://mirror"]) == 1
    assert "--conda-channel http://mirror: " in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
