"""Connections and clusters on a rig: own addresses, workers behind the head, machines that die."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Collection
from pathlib import Path

import paramiko
import pytest

from bootstrap.commands import clean
from bootstrap.commands.forget_host import forget
from bootstrap.errors import ConnectionLost, UserError
from bootstrap.inventory.inventory import Inventory
from bootstrap.inventory.read_inventory import read_inventory
from bootstrap.paths import records
from bootstrap.setup import cluster_ssh, home_sharing
from bootstrap.setup.setup_progress import step_progress
from bootstrap.setup.step_runner import Step, run_steps
from bootstrap.ssh import connection, ssh_transport
from bootstrap.ssh.host import Host
from bootstrap.ssh.host_keys import HostKeyRefused, Pins
from bootstrap.ssh.open_hosts import open_hosts
from tests.rig.fixtures import MakeRig
from tests.rig.rig import Rig

pytestmark = pytest.mark.rig

CHECKOUT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def person(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A person with a folder of their own, and neither ~/.ssh nor an agent."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "person"))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)


def inventory_of(rig: Rig) -> Inventory:
    path = Path("rig.json")
    path.write_text(json.dumps(rig.inventory()))
    return read_inventory(str(path))


def yes(question: str) -> bool:
    return True


def remember(asked: list[str]) -> Callable[[str], bool]:
    """Accept the host keys, and keep what was asked."""

    def ask(question: str) -> bool:
        asked.append(question)
        return True

    return ask


def never(question: str) -> bool:
    pytest.fail(f"asked: {question}")


def pinned(inventory: Inventory) -> dict[str, list[paramiko.PKey]]:
    pins = Pins(records(inventory.name).known_hosts)
    return {node.name: pins.of(node.name) for node in inventory.nodes}


def join(
    hosts: list[Host], inventory: Inventory, homes: Collection[str] = ()
) -> dict[str, UserError]:
    return cluster_ssh.set_up(hosts, inventory, pinned(inventory), lambda host, text: None, homes)


def all_reach_all(hosts: list[Host]) -> None:
    for host in hosts:
        for other in hosts:
            said = host.run([host.layout.ssh, other.node.address, "hostname"]).stdout
            assert said == f"{other.name}\n"


def test_workers_answer_through_the_head_and_their_keys_are_shown_once(make_rig: MakeRig) -> None:
    rig = make_rig(hosts=3)
    asked: list[str] = []
    with open_hosts(inventory_of(rig), remember(asked)) as hosts:
        names = [host.run("hostname").stdout.strip() for host in hosts]
        assert names == [host.name for host in rig.hosts]
        callers = [host.run("echo ${SSH_CONNECTION%% *}").stdout.strip() for host in hosts]
        assert callers == [rig.outside, str(rig.head.address), str(rig.head.address)]
    (question,) = asked
    assert all(host.fingerprint in question for host in rig.hosts)


def test_a_cluster_logs_in_to_itself_and_a_second_time_changes_nothing(make_rig: MakeRig) -> None:
    rig = make_rig(hosts=3)
    inventory = inventory_of(rig)
    with open_hosts(inventory, yes) as hosts:
        before = [host.run("cat ~/.ssh/authorized_keys").stdout for host in hosts]
        assert join(hosts, inventory) == {}
        all_reach_all(hosts)
        state = "cd; stat -c '%n %Y %i' .ssh/* .xeon-diffusion/cluster/*"
        first = [host.run(state).stdout for host in hosts]
        assert join(hosts, inventory) == {}
        assert [host.run(state).stdout for host in hosts] == first
        for host, text in zip(hosts, before, strict=True):
            lines = host.run("cat ~/.ssh/authorized_keys").stdout.removeprefix(text)
            assert lines.count("\n") == 1
            assert lines.startswith('restrict,from="10.77.0.4,10.77.0.5,10.77.0.6" ssh-ed25519 ')
            mode = host.run(["stat", "-c", "%a", host.layout.cluster_key]).stdout
            assert mode == "600\n"
    # The private key is on the nodes alone.
    for path in Path().rglob("*"):
        assert not path.is_file() or b"PRIVATE KEY" not in path.read_bytes()


def test_the_key_opens_nothing_from_elsewhere(make_rig: MakeRig) -> None:
    rig = make_rig(hosts=2)
    inventory = inventory_of(rig)
    with open_hosts(inventory, yes) as hosts:
        assert join(hosts, inventory) == {}
        stolen = Path("stolen")
        stolen.write_bytes(hosts[0].read(hosts[0].layout.cluster_key))
    stolen.chmod(0o600)
    tried = subprocess.run(
        ["ssh", "-F", "none", "-i", str(stolen), "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes",
         "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
         f"{inventory.user}@{inventory.gateway}", "true"],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert tried.returncode == 255
    assert "Permission denied" in tried.stderr


def test_a_replaced_node_is_refused_explained_forgotten_and_joined_again(
    make_rig: MakeRig,
) -> None:
    rig = make_rig(hosts=3)
    inventory = inventory_of(rig)
    with open_hosts(inventory, yes) as hosts:
        assert join(hosts, inventory) == {}
    rig.hosts[1].replace()
    with open_hosts(inventory, never) as hosts:
        refused = hosts[1].unreachable
        assert isinstance(refused, HostKeyRefused)
        assert rig.hosts[1].fingerprint in str(refused)
        assert "fab forget-host --node vm-rig-1" in str(refused)
        assert hosts[2].run("true").exit_code == 0
    forget("vm-rig-1")
    with open_hosts(inventory, yes) as hosts:
        assert join(hosts, inventory) == {}
        all_reach_all(hosts)


def test_a_replaced_head_makes_a_new_key(make_rig: MakeRig) -> None:
    rig = make_rig(hosts=2)
    inventory = inventory_of(rig)
    with open_hosts(inventory, yes) as hosts:
        assert join(hosts, inventory) == {}
        old = hosts[1].read(hosts[1].layout.cluster_key)
    rig.head.replace()
    forget("vm-rig-0")
    with open_hosts(inventory, yes) as hosts:
        assert join(hosts, inventory) == {}
        all_reach_all(hosts)
        assert hosts[1].read(hosts[1].layout.cluster_key) != old
        assert hosts[1].run("grep -c xeon-diffusion: ~/.ssh/authorized_keys").stdout == "1\n"


def test_one_host_is_down_and_the_others_finish(make_rig: MakeRig) -> None:
    rig = make_rig(hosts=3)
    rig.hosts[1].kill()
    with open_hosts(inventory_of(rig), yes) as hosts, step_progress(hosts) as watcher:
        step = Step("mark", lambda host, say: host.write(f"{host.layout.root}/mark", b""))
        failed = run_steps(hosts, [step], watcher)
        assert list(failed) == ["vm-rig-1"]
        assert "does not answer" in str(failed["vm-rig-1"])
        assert hosts[2].read(f"{hosts[2].layout.root}/mark") == b""


def test_a_shared_home_is_noticed(make_rig: MakeRig) -> None:
    rig = make_rig(hosts=3, shared_home=True)
    inventory = inventory_of(rig)
    with open_hosts(inventory, yes) as hosts, step_progress(hosts) as watcher:
        homes: dict[str, str] = {}
        assert run_steps(hosts, home_sharing.steps(hosts, homes), watcher) == {}
        assert homes == {"vm-rig-1": "vm-rig-0", "vm-rig-2": "vm-rig-0"}
        assert join(hosts, inventory, homes) == {}
        all_reach_all(hosts)


def test_homes_of_their_own_are_not_taken_for_one(make_rig: MakeRig) -> None:
    rig = make_rig(hosts=2)
    with open_hosts(inventory_of(rig), yes) as hosts, step_progress(hosts) as watcher:
        homes: dict[str, str] = {}
        assert run_steps(hosts, home_sharing.steps(hosts, homes), watcher) == {}
        assert homes == {}


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes minutes to be noticed, in seconds."""
    monkeypatch.setattr(connection, "KEEPALIVE_SECONDS", 1)
    monkeypatch.setattr(connection, "UNANSWERED_MILLISECONDS", 3000)
    monkeypatch.setattr(ssh_transport, "IDLE_SECONDS", 1.0)
    monkeypatch.setattr(ssh_transport, "CONNECT_SECONDS", 4)


@pytest.mark.usefixtures("impatient")
def test_a_worker_that_loses_power_is_noticed_though_nothing_says_so(make_rig: MakeRig) -> None:
    rig = make_rig(hosts=2)
    with open_hosts(inventory_of(rig), yes) as hosts:
        worker = hosts[1].during("environment")
        with pytest.raises(ConnectionLost, match="vm-rig-1: the connection broke during environme"):
            worker.run("echo up; sleep 1000", on_line=lambda line: rig.hosts[1].kill())
        assert hosts[0].run("true").exit_code == 0


@pytest.mark.usefixtures("impatient")
def test_a_person_who_is_cut_off_is_told(make_rig: MakeRig) -> None:
    rig = make_rig(hosts=2)
    with open_hosts(inventory_of(rig), yes) as hosts:
        with pytest.raises(ConnectionLost):
            hosts[1].run("echo up; sleep 1000", on_line=lambda line: rig.cut_person())
        rig.mend_person()
    with open_hosts(inventory_of(rig), never) as hosts:
        assert hosts[1].run("true").exit_code == 0


def test_clean_leaves_nothing_and_refuses_while_something_runs(make_rig: MakeRig) -> None:
    rig = make_rig(hosts=2)
    inventory = inventory_of(rig)
    with open_hosts(inventory, yes) as hosts:
        before = [host.run("find ~ -type f | sort | xargs sha256sum").stdout for host in hosts]
        assert join(hosts, inventory) == {}
        for host in hosts:
            host.write(f"{host.layout.env}/bin/run", b"#!/bin/sh\nsleep 1000\n", 0o755)
        hosts[1].run(f"nohup {hosts[1].layout.env}/bin/run >/dev/null 2>&1 </dev/null &")
        with pytest.raises(UserError, match="A run is going on"):
            clean.clean(inventory, hosts, sure=True)
        assert hosts[0].run(["test", "-e", hosts[0].layout.ssh]).exit_code == 0
        pid = clean.live_processes(hosts[1])[0].split()[0]
        hosts[1].run(["kill", pid])
        assert clean.clean(inventory, hosts, sure=True) == 0
        after = [host.run("find ~ -type f | sort | xargs sha256sum").stdout for host in hosts]
        assert after == before


@pytest.mark.parametrize(
    "step", ["Step('work', work)", "ClusterStep('work', lambda hosts, say: each(hosts))"]
)
def test_ctrl_c_ends_what_runs_on_the_nodes(make_rig: MakeRig, step: str) -> None:
    rig = make_rig(hosts=2)
    inventory = inventory_of(rig)
    with open_hosts(inventory, yes):
        pass
    program = (
        "import os\n"
        "from bootstrap.ssh.open_hosts import open_hosts\n"
        "from bootstrap.inventory.read_inventory import read_inventory\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from bootstrap.setup.step_runner import Step, ClusterStep, run_steps\n"
        "from bootstrap.setup.setup_progress import step_progress\n"
        "def work(host, say):\n"
        # In one piece each, as both nodes speak at once.
        "    host.run('echo up; sleep 1000', on_line=lambda line: os.write(1, b'up\\n'))\n"
        "def each(hosts):\n"
        "    with ThreadPoolExecutor(len(hosts)) as threads:\n"
        "        list(threads.map(lambda host: work(host, None), hosts))\n"
        "with open_hosts(read_inventory('rig.json'), lambda text: False) as hosts:\n"
        "    with step_progress(hosts) as watcher:\n"
        f"        run_steps(hosts, [{step}], watcher)\n"
    )
    running = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
    )  # fmt: skip
    assert running.stdout is not None
    assert [running.stdout.readline(), running.stdout.readline()] == ["up\n", "up\n"]
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=60)
    assert "KeyboardInterrupt" in errors
    with open_hosts(inventory, never) as hosts:
        for host in hosts:
            assert "1000" not in host.run("pgrep -x -a sleep", check=False).stdout
