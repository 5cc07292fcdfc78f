"""The rig is what it claims to be: bare, separate and cut off from outside."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.inventory import Inventory
from tests.hub import serving
from tests.rig import anchors
from tests.rig.commands import RigError, in_network
from tests.rig.fixtures import MakeRig
from tests.rig.rig import Rig, rig_of
from tests.rig.stand_in import serving_packages

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.rig


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    """Three hosts that the tests of this module look at and leave as they are."""
    with rig_of(3, rate="1gbit") as rig:
        yield rig


def refused(command: str) -> str:
    """A shell command that ends well only when `command` does not."""
    return f"! timeout 2 {command}"


def connects(address: object, port: int = 22) -> str:
    return f"bash -c 'exec 3<>/dev/tcp/{address}/{port}' 2>/dev/null"


def test_hosts_are_bare(rig: Rig) -> None:
    for host in rig.hosts:
        answer = host.run("/usr/bin/python3 -c 'import torch'", check=False)
        assert "No module named 'torch'" in answer.stderr
        found = host.run("find /tmp /opt /usr/local /srv /root /home -type f", user="root").stdout
        given = [".ssh/authorized_keys", *(path.name for path in Path("/etc/skel").iterdir())]
        assert sorted(found.split()) == sorted(f"{host.home}/{name}" for name in given)
        assert host.run("sudo -n true", check=False).returncode
        assert str(ROOT) not in host.run("cat /proc/mounts; env").stdout
        assert host.run(f"test ! -e {ROOT} && test ! -e {sys.prefix}/bin/pytest").returncode == 0


def test_a_hosts_python_makes_environments_and_knows_no_index_of_this_machines(rig: Rig) -> None:
    assert rig.head.run("python3 -m venv ~/v && ~/v/bin/pip config list; rm -r ~/v").stdout == ""


def test_hosts_are_separate_machines(rig: Rig) -> None:
    for path in ("/tmp/mine", "~/mine", "/dev/shm/mine"):
        for host in rig.hosts:
            host.run(f"echo {host.name} >{path}")
        assert [host.run(f"cat {path}").stdout.strip() for host in rig.hosts] == [
            host.name for host in rig.hosts
        ]
        for host in rig.hosts:
            host.run(f"rm {path}")
    names = [host.run("hostname").stdout.strip() for host in rig.hosts]
    assert names == ["vm-rig-0", "vm-rig-1", "vm-rig-2"]
    head, worker, _ = rig.hosts
    assert not Path("/dev/shm/mine").exists()
    assert str(head.address) in head.run("ip -4 -o address").stdout
    assert str(head.address) not in worker.run("ip -4 -o address").stdout
    assert len({host.fingerprint for host in rig.hosts}) == 3
    process = subprocess.Popen(
        ["nsenter", f"--target={head.pid}", "--pid", "--mount", "sleep", "7654"]
    )
    try:
        while not head.run("pgrep -f 'sleep 7654'", check=False).stdout:
            assert process.poll() is None
        assert not worker.run("pgrep -f 'sleep 7654'", check=False).stdout
    finally:
        process.kill()
        process.wait()
        head.run("pkill -f 'sleep 7654'", user="root")


def test_a_person_reaches_workers_only_through_the_head(rig: Rig) -> None:
    for host in rig.hosts:
        assert rig.ssh(host, "hostname").stdout.strip() == host.name
    worker = rig.workers[0]
    routes = subprocess.run(["ip", "route"], capture_output=True, text=True, check=True).stdout
    assert str(rig.network.private) not in routes
    # Whatever may answer at that address outside of the rig, it does not let us in.
    direct = [
        "ssh",
        "-F",
        str(rig.ssh_config()),
        "-o",
        "ProxyCommand=none",
        "-o",
        "ConnectTimeout=2",
    ]
    assert subprocess.run([*direct, worker.name, "true"], check=False).returncode == 255


def test_workers_have_no_way_outside(rig: Rig) -> None:
    for worker in rig.workers:
        assert worker.run("ip route show default").stdout == ""
        assert "unreachable" in worker.run(f"ip route get {rig.outside}", check=False).stderr
        worker.run(refused(connects(rig.outside)))
        worker.run(refused("getent hosts pypi.org"))
    # The head has one, and it ends at this machine's own address.
    assert rig.outside in rig.head.run("ip route show default").stdout
    assert not rig.head.run("getent hosts pypi.org", check=False).stdout


def test_nodes_reach_each_other_and_know_their_names(rig: Rig) -> None:
    for host in rig.hosts:
        for other in rig.hosts:
            host.run(connects(other.name))


def test_the_rate_holds_both_ways_and_can_be_changed(make_rig: MakeRig) -> None:
    rig = make_rig(2, rate="1gbit")
    for rate, shown in (("1gbit", "1Gbit"), ("100mbit", "100Mbit")):
        rig.set_rate(rate)
        for host in rig.hosts:
            assert (
                f"rate {shown}" in in_network(host.pid, "tc", "qdisc", "show", "dev", "eth0").stdout
            )
            port = f"port{host.index}"
            switch = anchors.find(f"{rig.slot}/switch")[0]
            assert f"rate {shown}" in in_network(switch, "tc", "qdisc", "show", "dev", port).stdout
    rig.set_rate(None)
    assert "tbf" not in in_network(rig.head.pid, "tc", "qdisc").stdout


def test_bytes_are_counted_on_each_interface(make_rig: MakeRig) -> None:
    rig = make_rig(2)
    head, worker = rig.hosts
    before = head.bytes(), worker.bytes()
    copy = f"head -c 1000000 /dev/zero | {sys_ssh(rig)} {worker.address} 'cat >/dev/null'"
    head.run(copy)
    after = head.bytes(), worker.bytes()
    assert 1_000_000 < after[0].private_out - before[0].private_out < 1_200_000
    assert 1_000_000 < after[1].private_in - before[1].private_in < 1_200_000
    assert after[0].uplink_out == before[0].uplink_out
    rig.ssh(head, "head -c 1000000 /dev/zero")
    assert 1_000_000 < head.bytes().uplink_out - after[0].uplink_out < 1_200_000
    # The last segments of the copy before may come after it.
    assert worker.bytes().private_in - after[1].private_in < 1000


def sys_ssh(rig: Rig) -> str:
    """An ssh for the head, with the person's key lent to it."""
    rig.head.path("/tmp/key").write_bytes(rig.key.read_bytes())
    rig.head.run("chmod 600 /tmp/key && chown azureuser: /tmp/key", user="root")
    options = "-o StrictHostKeyChecking=accept-new -o LogLevel=ERROR -o ConnectTimeout=3"
    return f"ssh -i /tmp/key {options}"


def test_cut_and_mended(make_rig: MakeRig) -> None:
    rig = make_rig(3)
    head, worker, other = rig.hosts
    worker.cut()
    head.run(refused(connects(worker.address)))
    head.run(connects(other.address))
    worker.mend()
    head.run(connects(worker.address))

    worker.block(other)
    worker.run(refused(connects(other.address)))
    other.run(refused(connects(worker.address)))
    head.run(f"{connects(worker.address)} && {connects(other.address)}")
    worker.unblock(other)
    worker.run(connects(other.address))

    rig.cut_person()
    subprocess.run(["bash", "-c", refused(connects(rig.network.public))], check=True)
    head.run(connects(worker.address))
    rig.mend_person()
    assert rig.ssh(worker, "hostname").stdout.strip() == worker.name


def test_power_off_and_on_again(make_rig: MakeRig) -> None:
    rig = make_rig(2, rate="1gbit")
    head, worker = rig.hosts
    key, boot = worker.host_key, worker.run("cat /etc/machine-id").stdout
    worker.run("echo kept >~/note; echo lost >/dev/shm/note")
    worker.kill()
    assert not worker.is_on
    with pytest.raises(RigError, match="vm-rig-1 is off"):
        worker.run("true")
    head.run(refused(connects(worker.address)))
    worker.start()
    assert worker.run("cat ~/note; ls /dev/shm").stdout == "kept\n"
    assert (worker.host_key, worker.run("cat /etc/machine-id").stdout) == (key, boot)
    assert "tbf" in in_network(worker.pid, "tc", "qdisc").stdout
    assert rig.ssh(worker, "hostname").stdout.strip() == worker.name
    head.reboot()
    assert rig.ssh(worker, "hostname").stdout.strip() == worker.name


def test_a_replaced_machine_is_a_stranger(make_rig: MakeRig) -> None:
    rig = make_rig(2)
    worker = rig.workers[0]
    key = worker.host_key
    config = rig.ssh_config()
    worker.run("touch ~/note")
    worker.replace()
    assert worker.host_key != key
    assert worker.run("ls ~").stdout == ""
    stale = subprocess.run(
        ["ssh", "-F", config, worker.name, "true"], capture_output=True, text=True, check=False
    )
    assert stale.returncode == 255
    assert rig.ssh(worker, "hostname").stdout.strip() == worker.name


def test_a_full_disk(make_rig: MakeRig) -> None:
    rig = make_rig(2, home_size="32M")
    head, worker = rig.hosts
    worker.fill_home(leave=100_000)
    answer = worker.run("head -c 1000000 /dev/zero >~/more", check=False)
    assert "No space left on device" in answer.stderr
    head.run("head -c 1000000 /dev/zero >~/more")
    worker.run("rm ~/more")
    worker.reboot()
    worker.run("test -e ~/.full")
    worker.empty_home()
    worker.run("head -c 1000000 /dev/zero >~/more")


def test_a_shared_home(make_rig: MakeRig) -> None:
    rig = make_rig(2, shared_home=True)
    head, worker = rig.hosts
    head.run("echo from the head >~/note; echo mine >/tmp/note")
    assert worker.run("cat ~/note").stdout == "from the head\n"
    worker.run("test ! -e /tmp/note")
    assert rig.ssh(worker, "cat note").stdout == "from the head\n"


def test_a_skewed_clock(make_rig: MakeRig) -> None:
    rig = make_rig(2)
    head, worker = rig.hosts
    worker.skew_clock(3600)
    for clock in ("date +%s", "python3 -c 'import time; print(int(time.time()))'"):
        apart = int(rig.ssh(worker, clock).stdout) - int(rig.ssh(head, clock).stdout)
        assert 3590 < apart < 3610
    worker.skew_clock(0)
    assert abs(int(worker.run("date +%s").stdout) - int(head.run("date +%s").stdout)) < 10


def test_the_inventory_has_the_shape_of_the_stacks_outputs(rig: Rig) -> None:
    inventory = rig.inventory(package_index_url="http://198.18.0.1:1/simple/")
    Inventory.model_validate_json(json.dumps(inventory))
    assert [node["private_ip"] for node in inventory["nodes"]] == [
        str(host.address) for host in rig.hosts
    ]
    assert ["public_ip" in node for node in inventory["nodes"]] == [True, False, False]


def test_intel_mpi_from_the_package_index(make_rig: MakeRig, impi_wheels: Path) -> None:
    """Real pip, real wheels with digests, real mpirun over ssh between two hosts."""
    rig = make_rig(2)
    head, worker = rig.hosts
    with serving_packages(impi_wheels, rig.outside) as index:
        install = (
            f"env/bin/pip install --no-deps impi-rt==2021.17.2 --retries 0"
            f" --index-url {index.simple} --trusted-host {rig.outside}"
        )
        head.run("python3 -m venv env")
        index.fail("error")
        assert head.run(install, check=False).returncode
        index.mend()
        index.fail("wrong", only=".whl")
        assert "THESE PACKAGES DO NOT MATCH THE HASHES" in head.run(install, check=False).stderr
        index.mend()
        before = index.total
        head.run(install)
        served = index.total - before
        wheel = next(impi_wheels.glob("impi_rt-*.whl"))
        assert wheel.stat().st_size <= served < wheel.stat().st_size + 10_000
        assert set(index.clients) == {str(rig.network.public)}
    ssh = sys_ssh(rig)
    head.run(f"tar cf - env | {ssh} {worker.address} tar xf -")
    head.run(f"printf '{head.address}\\n{worker.address}\\n' >nodefile")
    head.run(f"printf '#!/bin/sh\\nexec {ssh} \"$@\"\\n' >ssh && chmod +x ssh")
    answer = head.run(
        "PATH=$HOME/env/bin:$PATH I_MPI_HYDRA_BOOTSTRAP_EXEC=$HOME/ssh"
        " mpirun -f nodefile -n 2 -ppn 1 hostname"
    )
    assert sorted(answer.stdout.split()) == [head.name, worker.name]


def test_the_hub_answers_the_head(make_rig: MakeRig, tmp_path: Path) -> None:
    for folder in ("model", "pictures"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "file.txt").write_text(folder)
    rig = make_rig(1)
    with serving({"a/b": tmp_path / "model"}, {"c/d": tmp_path / "pictures"}, rig.outside) as hub:
        fetch = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1]).read().decode())"
        for path, body in (
            ("a/b/resolve/main/file.txt", "model"),
            ("datasets/c/d/resolve/main/file.txt", "pictures"),
        ):
            answer = rig.head.run(f"python3 -c '{fetch}' {hub.endpoint}/{path}")
            assert answer.stdout == f"{body}\n"
        assert hub.sent == len("model") + len("pictures")
