"""Host keys: fingerprints as ssh-keygen prints them, pins, and what is said of changed ones."""

from __future__ import annotations

import argparse
import base64
import subprocess
from pathlib import Path

import paramiko
import pytest

from bootstrap.commands import destroy
from bootstrap.commands.forget_host import main as forget
from bootstrap.errors import UserError
from bootstrap.inventory.inventory import Inventory, Node
from bootstrap.ssh.host_keys import (
    HostKeyRefused,
    Pins,
    ask_on_terminal,
    compare,
    question,
    refused,
)

HEAD = Node("xeon-0", "10.0.0.4", public_address="20.1.2.3")
WORKER = Node("xeon-1", "10.0.0.5", port=2222)


def made(path: Path, kind: str = "ed25519") -> tuple[paramiko.PKey, str]:
    """A new key, and what ssh-keygen -l prints of it."""
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", str(path)], check=True)
    public = path.with_name(f"{path.name}.pub")
    listed = subprocess.run(
        ["ssh-keygen", "-l", "-f", str(public)], check=True, capture_output=True, text=True
    )
    name, blob = public.read_text().split()[:2]
    return paramiko.PKey.from_type_string(name, base64.b64decode(blob)), listed.stdout


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_fingerprints_are_ssh_keygens(tmp_path: Path, kind: str) -> None:
    key, listed = made(tmp_path / "key", kind)
    assert key.fingerprint == listed.split()[1]
    assert f"({key.algorithm_name})" in listed


def test_pins_are_kept_in_the_form_that_ssh_keygen_reads(tmp_path: Path) -> None:
    pins = Pins(tmp_path / "cluster" / "known_hosts")
    head, _ = made(tmp_path / "head")
    worker, _ = made(tmp_path / "worker")
    pins.add({HEAD: head, WORKER: worker})
    assert pins.of("xeon-0") == [head]
    assert pins.of("xeon-1") == [worker]
    assert pins.of("xeon-2") == []
    for name, key in (("20.1.2.3", head), ("10.0.0.4", head), ("[10.0.0.5]:2222", worker)):
        found = subprocess.run(
            ["ssh-keygen", "-l", "-F", name, "-f", str(pins.file)],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        assert key.fingerprint in found.stdout


def test_a_forgotten_node_alone_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    pins = Pins(Path(".cluster/mine/known_hosts"))
    key, _ = made(tmp_path / "key")
    pins.add({HEAD: key, WORKER: key})
    assert forget(["--node", "xeon-1"]) == 0
    assert pins.names() == ["xeon-0"]
    assert forget(["--node", "xeon-1"]) == 1
    assert "Known: xeon-0" in capsys.readouterr().err


def test_what_does_not_change_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    one, empty = Pins(Path(".cluster/one/known_hosts")), Path(".cluster/two/logs")
    empty.mkdir(parents=True)
    key, _ = made(tmp_path / "key")
    one.add({HEAD: key})
    one.file.write_text(f"# by hand\n{one.file.read_text()}")
    assert forget(["--node", "xeon-1"]) == 1
    assert one.file.read_text().startswith("# by hand")
    assert not Path(".cluster/two/known_hosts").exists()


def test_all_are_forgotten_and_kept_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    key, _ = made(tmp_path / "key")
    clusters = [Pins(Path(f".cluster/{name}/known_hosts")) for name in ("one", "two", "three")]
    for pins in clusters:
        pins.add({HEAD: key, WORKER: key})
    assert forget(["--all", "--cluster", "one"]) == 0
    assert [pins.names() for pins in clusters] == [[], *[["xeon-0", "xeon-1"]] * 2]
    assert forget(["--all"]) == 0
    assert not any(pins.names() for pins in clusters)
    assert Pins(Path(".cluster/two/known_hosts.old")).names() == ["xeon-0", "xeon-1"]


@pytest.mark.parametrize("code", [0, 255])
def test_destroyed_machines_keys_are_forgotten(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pulumi = tmp_path / "bin" / "pulumi"
    pulumi.parent.mkdir()
    pulumi.write_text(f"#!/bin/sh\nexit {code}\n")
    pulumi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{pulumi.parent}:/usr/bin:/bin")
    monkeypatch.setattr(destroy, "losses", lambda *_: [])
    inventory = Inventory("mine", "stack", (HEAD, WORKER))
    pins = Pins(Path(".cluster/mine/known_hosts"))
    key, _ = made(tmp_path / "key")
    pins.add({HEAD: key, WORKER: key})
    asked = argparse.Namespace(yes=True, accept_host_keys=False, keep_data=False)
    assert destroy.destroy(inventory, asked) == code
    assert pins.names() == ([] if code == 0 else ["xeon-0", "xeon-1"])


def test_what_is_said_of_a_changed_key_names_both_and_the_way_out(tmp_path: Path) -> None:
    before, _ = made(tmp_path / "before")
    after, _ = made(tmp_path / "after")
    said = str(refused(WORKER, [before], after, tmp_path / "known_hosts"))
    for part in (
        "xeon-1", before.fingerprint, after.fingerprint, "fab forget-host --node xeon-1", "replaced"
    ):  # fmt: skip
        assert part in said
    own = str(refused(WORKER, [before], after, Path("/home/anna/.ssh/known_hosts")))
    assert "ssh-keygen -R '[10.0.0.5]:2222'" in own


def test_first_contact_is_one_question_about_all(tmp_path: Path) -> None:
    head, _ = made(tmp_path / "head")
    worker, _ = made(tmp_path / "worker")
    offered = {HEAD: head, WORKER: worker}
    said = compare(offered, {"xeon-0": [head.fingerprint]})
    lines = question(offered, said).splitlines()
    assert "2 machines" in lines[0]
    assert lines[1].split()[:3] == ["xeon-0", "ED25519", head.fingerprint]
    assert lines[1].endswith("same in its boot log")
    assert lines[2].split() == ["xeon-1", "ED25519", worker.fingerprint]


def test_a_boot_log_that_names_another_key_is_no_question(tmp_path: Path) -> None:
    head, _ = made(tmp_path / "head")
    with pytest.raises(HostKeyRefused, match=r"boot log says SHA256:other"):
        compare({HEAD: head}, {"xeon-0": ["SHA256:other"]})


def test_without_a_terminal_the_flag_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with (Path("/dev/null")).open() as nobody:
        monkeypatch.setattr("sys.stdin", nobody)
        with pytest.raises(UserError, match="--accept-host-keys"):
            ask_on_terminal("First contact")
