"""A rig whose hosts hold an environment without having been bootstrapped.

Bootstrapping is tested elsewhere and takes minutes. Here the faults of a running training matter:
so the environment, the code, a tiny model and pictures are put on the hosts' disks, and the nodes'
own SSH is set up as bootstrap does it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

from bootstrap.inventory.inventory import Inventory
from bootstrap.inventory.read_inventory import read_inventory
from bootstrap.paths import Layout, records
from bootstrap.setup import cluster_ssh
from bootstrap.setup.node_facts import gather_facts
from bootstrap.setup.python.activation import activation
from bootstrap.setup.python.rank_environment import cluster_environment
from bootstrap.ssh.host_keys import Pins, accept_all
from bootstrap.ssh.open_hosts import open_hosts
from tests.local_cluster import CHECKOUT, make_root, training_environment
from tests.rig.file_system import UID
from tests.rig.host import RigHost
from tests.rig.rig import Rig

CODE = "/opt/checkout"


def equip(rig: Rig, folder: Path) -> Inventory:
    """Make every host able to train; returns the inventory as a person would have it.

    Args:
        folder: of the test's own; the person works there.
    """
    file = folder / "rig.json"
    file.write_text(json.dumps(rig.inventory()))
    inputs = make_root(folder / "inputs")
    root = Layout(f"{RigHost.home}/.xeon-diffusion")
    for host in rig.hosts:
        put_on(host, inputs, root)
    inventory = read_inventory(str(file))
    join(inventory)
    return inventory


def put_on(host: RigHost, inputs: Path, root: Layout) -> None:
    """Environment, code, model and pictures on one host's disk."""
    disk = host.path("/")
    environment = training_environment().resolve()
    base = Path(_setting(environment, "home")).parent
    for source in (environment, base):
        _put(host, source, disk / str(source).lstrip("/"))
    for folder in (*environment.parents, *base.parents):
        (disk / str(folder).lstrip("/")).chmod(0o755 if str(folder) != "/tmp" else 0o1777)
    for package in ("training", "bootstrap"):
        shutil.copytree(CHECKOUT / package, disk / CODE.lstrip("/") / package, dirs_exist_ok=True)
    there = disk / root.root.lstrip("/")
    for kind in ("models", "data"):
        shutil.copytree(inputs / kind, there / kind)
    (there / "cluster").mkdir(mode=0o700)
    for record, kind, name in (("model", "models", "tiny"), ("data", "data", "five")):
        about = {"name": name, "path": f"{root.root}/{kind}/{name}", "source": f"tests/{name}"}
        (there / "cluster" / f"{record}.json").write_text(json.dumps(about))
    _write_environment(there / "env", environment)
    for path in (there, *there.rglob("*")):
        os.chown(path, UID, UID, follow_symlinks=False)


def _write_environment(env: Path, environment: Path) -> None:
    """A folder that looks like the environment, whose Python finds the checkout's code first."""
    env.mkdir()
    for name in ("lib", "include", "opt", "pyvenv.cfg", "share", "etc"):
        if (environment / name).exists():
            (env / name).symlink_to(environment / name)
    (env / "bin").mkdir()
    for path in (environment / "bin").iterdir():
        if path.name != "python":
            (env / "bin" / path.name).symlink_to(path)
    python = env / "bin" / "python"
    python.write_text(
        f'#!/bin/sh\nexport PYTHONPATH={CODE} OMP_WAIT_POLICY=PASSIVE\n'
        f'exec {environment}/bin/python "$@"\n'
    )  # fmt: skip
    python.chmod(0o755)


def _setting(environment: Path, name: str) -> str:
    for line in (environment / "pyvenv.cfg").read_text().splitlines():
        key, _, value = line.partition(" = ")
        if key == name:
            return value
    raise KeyError(name)


def _put(host: RigHost, source: Path, target: Path) -> None:
    """Copy a folder to a host's disk; as links to the same files where the disk is the same."""
    real = Path(str(target).replace(str(host.path("/")), str(host._folder / "disk" / "root"), 1))
    real.parent.mkdir(parents=True, exist_ok=True)
    for how in ("-al", "-a"):
        copied = subprocess.run(["cp", how, source, real], check=False, capture_output=True)
        if copied.returncode == 0:
            return
        shutil.rmtree(real, ignore_errors=True)
    raise OSError(f"{source} could not be put on {host.name}")


def join(inventory: Inventory) -> None:
    """The cluster's SSH and each node's `activate`, as bootstrap makes them."""
    with open_hosts(inventory, accept_all) as hosts:
        pins = Pins(records(inventory.name).known_hosts)
        keys = {host.name: pins.of(host.name) for host in hosts}
        problems = cluster_ssh.set_up(hosts, inventory, keys, lambda host, text: None)
        assert not problems, problems
        for host in hosts:
            variables = cluster_environment(
                host.layout.root,
                master_address=inventory.head.address,
                interface=gather_facts(host, inventory.head.address).interface,
            )
            text = activation(host.layout.root, variables)
            host.write(host.layout.activate, text.encode(), 0o644)
