"""oneCCL's bindings broken on one node of three: it is named, and no two ranks use two backends.

The bindings are on no index at hand: a stand-in registers a backend of their name, over gloo's.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bootstrap.commands import train
from bootstrap.commands.checks import links, nodes
from bootstrap.ssh.host_keys import accept_all
from bootstrap.ssh.open_hosts import open_hosts
from tests.equipped_rig import CODE, equip
from tests.oneccl import BROKEN, WHOLE, put_intel_packages
from tests.rig.fixtures import MakeRig
from tests.rig.host import RigHost

pytestmark = pytest.mark.rig
FLAGS = [
    "--inventory", "rig.json", "--accept-host-keys", "--resolution", "32",
    "--placeholder-token", "<new>", "--max-train-steps", "2", "--learning-rate", "1e-2",
    "--stack", "intel", "--frozen", "native", "--mixed-precision", "no", "--report-to", "none",
    "--num-evaluation-samples", "2", "--save-as-full-pipeline", "false",
]  # fmt: skip


def started(head: RigHost, run: str) -> dict[str, object]:
    """A run's start event."""
    path = head.path(f"{RigHost.home}/.xeon-diffusion/runs/{run}/events.jsonl")
    first: dict[str, object] = json.loads(path.read_text().splitlines()[0])
    return first


def test_the_node_is_named_and_the_run_goes_on_with_gloo_everywhere(
    make_rig: MakeRig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    rig = make_rig(3)
    inventory = equip(rig, tmp_path)
    for host in rig.hosts:
        put_intel_packages(host.path(CODE), WHOLE)
    assert train.main([*FLAGS, "--run", "whole"]) == 0
    assert started(rig.head, "whole")["backend"] == "ccl"

    broken = rig.hosts[1]
    put_intel_packages(broken.path(CODE), BROKEN)
    with open_hosts(inventory, accept_all) as hosts:
        found = [nodes.oneccl(host) for host in hosts]
        summed = links.all_reduce(hosts[0], hosts, "ccl")
    assert [finding.passed for finding in found] == [True, False, True]
    assert found[1].where == broken.name
    assert "libccl.so.1.0" in found[1].found
    assert not summed.passed
    assert f"rank 1 ({broken.name} pid " in summed.found
    capfd.readouterr()
    assert train.main([*FLAGS, "--run", "broken"]) == 0
    assert started(rig.head, "broken")["backend"] == "gloo"
    assert started(rig.head, "broken")["ranks"] == 3
    said = capfd.readouterr()
    assert f"oneCCL is not available on rank 1 ({broken.name} pid " in said.out + said.err
