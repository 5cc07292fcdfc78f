"""What the scripts of bootstrap and clean say of one node: this machine, in a folder."""

from __future__ import annotations

import dataclasses
import io
import json
import sys
import threading
from pathlib import Path
from typing import cast

import pytest
from rich.console import Console

from bootstrap.commands import bootstrap, check, clean
from bootstrap.inventory.inventory import Inventory, Node
from bootstrap.node import run_state
from bootstrap.setup import cluster_ssh, setup_steps
from bootstrap.setup.plan import Options
from bootstrap.setup.python.package_pins import Lock
from bootstrap.setup.python.payload import Payload
from bootstrap.setup.setup_progress import PlainLines
from bootstrap.ssh import transfer
from bootstrap.ssh.command import script
from bootstrap.ssh.host import Host, local_host
from bootstrap.ssh.host_keys import HostKeyRefused


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return local_host(Node("n0", "127.0.0.1"), str(tmp_path / "root"))


@pytest.fixture(params=["flock", "python"])
def way(
    request: pytest.FixtureRequest, host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a `flock` on the PATH, and without one."""
    if request.param == "python":
        for name in ("sh", "ls", "head", "basename", "dirname", "sleep"):
            (tmp_path / name).symlink_to(f"/bin/{name}")
        monkeypatch.setenv("PATH", str(tmp_path))
        python = Path(host.python)
        python.parent.mkdir(parents=True)
        python.symlink_to(sys.executable)


@pytest.mark.usefixtures("way")
def test_a_live_run_is_named_and_nothing_is_changed(host: Host) -> None:
    assert setup_steps.live_run(host) is None
    root = Path(host.layout.root)
    for name in ("older", "of-now"):
        (root / "runs" / name).mkdir(parents=True)
        (root / "runs" / name / "state.json").write_text(json.dumps({"phase": "training"}))
    with run_state.held(root) as lock:
        assert lock is not None
        said = str(setup_steps.live_run(host))
    assert "n0: of-now is running" in said
    assert "fab stop" in said
    assert setup_steps.live_run(host) is None


def test_bootstrap_stops_before_it_chooses_while_a_run_is_live(host: Host, tmp_path: Path) -> None:
    other = local_host(Node("n1", "127.0.0.2"), str(tmp_path / "other"))
    options = Options(
        inventory=Inventory("mine", "file", (host.node, other.node)),
        lock=Lock("upstream", {}, {}),
        payload=cast(Payload, None),
        environment="auto",
        conda_lock=Lock("conda", {}, {}),
        conda_channel=None,
        package_index=None,
        inputs=[],
        hub_token=None,
    )
    with run_state.held(Path(host.layout.root)):
        watcher = PlainLines(Console(file=io.StringIO()))
        failed = setup_steps.set_up([host, other], options, watcher, pytest.fail)
    assert list(failed) == ["n0", "n1"]
    assert "is running on this cluster" in str(failed["n0"])


def test_a_refused_host_key_is_told_with_what_mends_it(host: Host) -> None:
    refused = HostKeyRefused("n0 shows another host key than before")
    (found,) = check.check([dataclasses.replace(host, unreachable=refused)], lambda text: None)
    assert found.fix == "if it was replaced: fab forget-host --node n0"


def test_who_only_looks_is_no_live_run(host: Host) -> None:
    root = Path(host.layout.root)
    with run_state.held(root):
        found: list[object] = []
        looked = threading.Thread(target=lambda: found.append(setup_steps.live_run(host)))
        looked.start()
        looked.join(0.7)
    looked.join()
    assert found == [None]


def test_a_file_s_mode_is_put_right_too(host: Host) -> None:
    path = Path(host.layout.root) / "key it's"
    files = {str(path): (b"secret\n", 0o600)}
    transfer.put(host, files)
    path.chmod(0o644)
    inode = path.stat().st_ino
    transfer.put(host, files)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.stat().st_ino == inode


def test_a_cluster_s_key_that_others_may_read_is_kept_and_closed(host: Host) -> None:
    line = script(cluster_ssh.MAKE_KEY, host.layout.cluster_key, "mark")
    public = host.run(line).stdout
    Path(host.layout.cluster_key).chmod(0o644)
    assert host.run(line).stdout == public
    assert Path(host.layout.cluster_key).stat().st_mode & 0o777 == 0o600


def test_only_folders_are_runs(host: Host) -> None:
    assert clean.runs_on(host) == []
    runs = Path(host.layout.runs)
    runs.mkdir(parents=True)
    assert clean.runs_on(host) == []
    (runs / "toy run").mkdir()
    (runs / run_state.LOCK).touch()
    assert clean.runs_on(host) == ["toy run"]


def test_check_takes_the_flag_for_scripts_and_bootstrap_no_half_flags(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert check.main(["--accept-host-keys", "--inventory", "nowhere.json"]) == 2
    assert "nowhere.json" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        bootstrap.parser().parse_args(["--accept"])
