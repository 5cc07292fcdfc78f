"""What `fab destroy` asks of Pulumi; tests/integration has what it asks of the person."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bootstrap.commands import destroy
from bootstrap.inventory.inventory import Inventory, Node
from bootstrap.paths import node_root


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


def test_results_on_a_disk_that_is_kept_are_not_lost_and_pulumi_refuses_to_delete_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pulumi").write_text("#!/bin/sh\n")
    (tmp_path / "pulumi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    head = Node(name="vm-0", address="10.0.0.4")
    stack = Inventory("rg-nowhere", "stack", (head,), data_folder="/data")
    kept: list[bool] = []

    def losses(inventory: Inventory, accept: bool, keeps_results: bool) -> list[str]:
        kept.append(keeps_results)
        return []

    monkeypatch.setattr(destroy, "read_inventory", lambda: stack)
    monkeypatch.setattr(destroy, "losses", losses)
    assert destroy.main(["--yes", "--keep-data"]) == 0
    assert "is protected" not in capsys.readouterr().out
    assert destroy.main(["--yes"]) == 0
    assert "--keep-data keeps it" in " ".join(capsys.readouterr().out.split())
    assert kept == [True, False]


def test_what_is_ours_lies_on_the_data_disk_unless_another_folder_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("XEON_DIFFUSION_ROOT", raising=False)
    assert node_root("/home/ana") == "/home/ana/.xeon-diffusion"
    assert node_root("/home/ana", "/data") == "/data/.xeon-diffusion"
    monkeypatch.setenv("XEON_DIFFUSION_ROOT", "/scratch")
    assert node_root("/home/ana", "/data") == "/scratch/.xeon-diffusion"
