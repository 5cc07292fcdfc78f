"""What of a URL with a password is shown, stored, hidden, and refused without being shown."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import pytest

from bootstrap.commands import bootstrap
from bootstrap.errors import CommandFailed, UserError
from bootstrap.inventory.inventory import Node
from bootstrap.setup import model_and_data
from bootstrap.setup.python import packages
from bootstrap.ssh.host import local_host
from bootstrap.urls import checked, secrets, shown, stored

URL = "https://me:ge%40heim@mirror:8443/t/token/simple?sig=abcdef"


def test_a_url_in_a_text() -> None:
    said = f"WARNING: '{URL}' and (http://a-token@mirror/x) me@home"
    assert shown(said) == (
        "WARNING: 'https://***@mirror:8443/t/***/simple?***' and (http://***@mirror/x) me@home"
    )
    plain = 'see https://mirror/simple/, {"url": "https://mirror", "mail": "me@mirror"}'
    assert shown(plain) == plain


def test_a_url_in_a_file() -> None:
    assert stored(URL) == "https://mirror:8443/t/***/simple"
    assert stored("") == ""
    assert stored("https://mirror/simple/") == "https://mirror/simple/"


def test_what_is_secret_in_a_url() -> None:
    assert secrets(URL) == ["ge%40heim", "token", "sig=abcdef", "ge@heim"]
    assert secrets("https://a-token@mirror/simple") == ["a-token"]
    assert secrets("https://mirror/simple") == []
    assert secrets("https://me:abc@mirror") == []  # found in ordinary words


@pytest.mark.parametrize(
    "url",
    ["me:geheim@mirror/simple", "htp://me:geheim@mirror", "https://me:geheim @mirror",
     "https://me:geheim@mirror\n--extra-index-url http://x", "https://me:geheim@", "https://",
     "https://me:ge/heim@mirror", "https://me:geheim@mirror:port/", ""],
)  # fmt: skip
def test_what_is_no_url_is_refused_and_not_quoted(url: str) -> None:
    with pytest.raises(UserError, match="--package-index: is not a URL") as caught:
        checked("--package-index", url, ("https", "http"))
    assert "heim" not in str(caught.value)


def test_a_hidden_text_is_in_no_line_no_log_and_no_error(tmp_path: Path) -> None:
    host = local_host(Node("n0", "127.0.0.1"), str(tmp_path))
    host.hide(["geheim"])
    told: list[str] = []
    host = dataclasses.replace(host, log=told.append)
    finished = host.run("echo geheim; echo geheim https://a:b@c/ >&2", on_line=told.append)
    assert finished.stderr == "*** https://***@c/\n"
    with pytest.raises(CommandFailed) as caught:
        host.run("echo geheim; false")
    told += [str(caught.value)]
    assert len(told) > 4
    assert not [text for text in told if "geheim" in text]


def test_an_index_is_read_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("https://me:geheim@mirror/simple\nfile:///x\n"))
    assert bootstrap._url("--package-index", "-") == "https://me:geheim@mirror/simple"
    assert bootstrap._url("--conda-channel", "-") == "file:///x"
    assert bootstrap._url("--conda-channel", None) is None
    with pytest.raises(UserError, match="--package-index: is not a URL"):
        bootstrap._url("--package-index", "-")


def test_whether_an_index_answers_is_asked_without_its_password() -> None:
    # Without a port: the library would take what follows the user name for one.
    assert isinstance(packages.answers("http://me:geheim@localhost/simple"), bool)


def test_what_is_no_mirror_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "me:geheim@mirror")
    with pytest.raises(UserError, match="HF_ENDPOINT: is not a URL") as caught:
        model_and_data.read_input("model", "a/model").key()
    assert "geheim" not in str(caught.value)
