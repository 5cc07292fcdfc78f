"""The head asks the hub for what is wanted before anything is installed: a small hub here."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from bootstrap.errors import UserError
from bootstrap.inventory.inventory import Node
from bootstrap.setup.hub_access import refuse_unavailable
from bootstrap.setup.model_and_data import Input
from bootstrap.ssh.host import Host, local_host
from tests.hub import serving
from tests.sshd import free_port

MODEL = Input("model", "a/model")


@pytest.fixture
def head(tmp_path: Path) -> Host:
    return local_host(Node("n0", "127.0.0.1"), str(tmp_path / "root"))


def ask(head: Host, *wanted: Input) -> None:
    refuse_unavailable(head, sys.executable, wanted, None)


def test_what_the_hub_shows(head: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving({"a/model": tmp_path}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        ask(head, MODEL, Input("model", "a/model", revision="main"))
        with pytest.raises(UserError, match="n0: a/moddel: the hub refuses access"):
            ask(head, MODEL, Input("model", "a/moddel"))


def test_a_hub_that_is_not_reached(head: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("HF_ENDPOINT", hub)
    with pytest.raises(UserError) as raised:
        ask(head, MODEL)
    said = str(raised.value)
    assert f"n0: a/model: {hub} cannot be reached" in said
    assert "refused" in said
    assert "Nothing was installed" in said


def test_nothing_is_asked_for_what_is_here_or_there(
    head: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    Path(MODEL.path(head)).mkdir(parents=True)
    Path(head.layout.cluster).mkdir(parents=True)
    Path(head.layout.cluster, "model.json").write_text(
        json.dumps({"path": MODEL.path(head), "key": MODEL.key()})
    )
    ask(head, MODEL, Input("pictures", "mine", local=tmp_path))
