"""The cluster that was set up last is the one that later commands mean, and only those."""

from __future__ import annotations

from pathlib import Path

import pytest

from bootstrap.commands import bootstrap, clean, command_line
from bootstrap.errors import UserError
from bootstrap.inventory import last_inventory


@pytest.fixture(autouse=True)
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a nodefile, and no `pulumi` on the PATH."""
    (tmp_path / "mine").write_text("me@192.0.2.7\n")
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_later_commands_mean_what_was_set_up_last(
    capsys: pytest.CaptureFixture[str], checkout: Path
) -> None:
    inventory, where = last_inventory.to_set_up("mine")
    assert (inventory.name, where) == ("mine", "mine")
    last_inventory.remember(where)
    assert last_inventory.inventory_or_last("").name == "mine"
    assert capsys.readouterr().err == "--inventory mine, as it was given to fab bootstrap last\n"
    (checkout / "other").write_text("me@192.0.2.8\n")
    assert last_inventory.inventory_or_last("other").name == "other"
    assert last_inventory.to_set_up("")[1] == "mine"
    last_inventory.remember("local")
    assert last_inventory.inventory_or_last("").kind == "local"


def test_bootstrap_keeps_what_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise UserError("nobody answers")

    monkeypatch.setattr(bootstrap, "_options", lambda *_: None)
    monkeypatch.setattr(bootstrap, "open_hosts", unreachable)
    assert bootstrap.main(["--inventory", "mine"]) == 1
    assert last_inventory.last() == "mine"


def test_a_file_that_is_gone_is_not_meant(checkout: Path) -> None:
    last_inventory.remember("mine")
    (checkout / "mine").unlink()
    with pytest.raises(UserError, match="no `pulumi` on the PATH"):
        last_inventory.inventory_or_last("")


def test_a_stack_that_is_set_up_takes_its_place(checkout: Path) -> None:
    last_inventory.remember("mine")
    last_inventory.remember("")
    assert last_inventory.last() == ""


def test_what_removes_never_goes_by_it(capsys: pytest.CaptureFixture[str]) -> None:
    last_inventory.remember("mine")
    assert clean.main(["--yes"]) == 1
    said = capsys.readouterr().err
    assert "no `pulumi` on the PATH" in said
    assert said.endswith("--inventory mine\n")


def test_what_is_next_can_be_pasted(
    monkeypatch: pytest.MonkeyPatch, checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fab = checkout / "bin" / "fab"
    fab.parent.mkdir()
    fab.touch(mode=0o755)
    monkeypatch.setattr("sys.argv", ["bin/fab", "bootstrap"])
    assert command_line.typed("train", "my rig.json") == "bin/fab train --inventory 'my rig.json'"
    monkeypatch.setenv("PATH", str(fab.parent))
    assert command_line.typed("train", "") == "fab train"


def test_the_commands_about_runs_go_by_it(capsys: pytest.CaptureFixture[str]) -> None:
    last_inventory.remember("local")
    chosen = command_line.parser("status", "").parse_args([])
    met: list[str] = []

    def act(_: object, inventory: object, hosts: list[object]) -> int:
        met.append(getattr(inventory, "kind", ""))
        return 0

    assert command_line.run_command(chosen, act) == 0  # type: ignore[arg-type]
    assert met == ["local"]
    assert "--inventory local" in capsys.readouterr().err
