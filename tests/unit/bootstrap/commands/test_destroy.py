"""What `fab destroy` asks of Pulumi; tests/integration has what it asks of the person."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bootstrap.commands import destroy
from bootstrap.inventory.inventory import Inventory, Node


@pytest.mark.parametrize(
    ("flags", "asked"),
    [
        (["--yes"], "destroy --yes\n"),
        (["--yes", "--keep-data"], "destroy --exclude-protected --yes\n"),
    ],
)
def test_a_data_disk_is_kept_on_request(
    flags: list[str], asked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pulumi").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    (tmp_path / "pulumi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    stack = Inventory("rg-nowhere", "stack", (Node(name="vm-0", address="10.0.0.4"),))
    monkeypatch.setattr(destroy, "read_inventory", lambda: stack)
    monkeypatch.setattr(destroy, "losses", lambda *_: [])
    assert destroy.main(flags) == 0
    assert (tmp_path / "asked").read_text() == asked
