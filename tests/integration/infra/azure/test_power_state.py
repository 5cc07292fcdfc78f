"""What `fab status` says of VMs that do not answer; and where Azure has no room to start them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.azure import power, power_state
from infra.azure.arm import Azure
from infra.errors import UserError
from infra.inventory import Inventory
from tests.arm_server import Answer, ArmServer, serving
from tests.infra_plans import planned

Pair = tuple[ArmServer, Azure]
VMS = [f"vm-xeon-diffusion-dev-{index}" for index in range(3)]


@pytest.fixture
def arm(tmp_path: Path) -> Iterator[Pair]:
    with serving(tmp_path) as pair:
        yield pair


def inventory(**changes: str) -> Inventory:
    return Inventory.model_validate(planned(changes)["outputs"])


def test_a_spot_vm_that_was_taken_back_is_told_from_one_that_is_gone(arm: Pair) -> None:
    server, azure = arm
    server.priority = "Spot"
    server.power = {VMS[0]: "running", VMS[1]: "deallocated"}
    said = power_state.of_nodes(azure, inventory(spot="true", spot_eviction_policy="Delete"))
    assert said[VMS[0]] == "runs, as Azure sees it"
    assert "a Spot VM that Azure has taken back. fab resume" in said[VMS[1]]
    assert "spot_eviction_policy Delete. pulumi refresh" in said[VMS[2]]


def test_an_ordinary_vm_is_not_called_evicted(arm: Pair) -> None:
    server, azure = arm
    server.power = {VMS[0]: "stopped", VMS[1]: "deallocated"}
    said = power_state.of_nodes(azure, inventory())
    assert "still paid for" in said[VMS[0]]
    assert not any("Spot" in text for text in said.values())
    assert said[VMS[2]].startswith("does not exist any more: pulumi refresh")


def test_a_question_that_azure_does_not_answer_is_told(arm: Pair) -> None:
    server, azure = arm
    server.power = dict.fromkeys(VMS, "running")
    server.planted[VMS[1]] = [Answer(403)]
    said = power_state.of_nodes(azure, inventory())
    assert said[VMS[1]].startswith("could not be looked at in Azure: this account lacks")
    assert said[VMS[2]] == "runs, as Azure sees it"


def test_without_a_stack_nothing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert power_state.of_stack(VMS) == {}


def test_resume_without_room_says_once_what_to_change(arm: Pair) -> None:
    server, azure = arm
    failed = {"status": "Failed", "error": {"code": "AllocationFailed", "message": "no capacity"}}
    for name in VMS[1:]:
        server.planted[f"{name}/done"] = [Answer(200, json.dumps(failed).encode())]
    with pytest.raises(UserError) as raised:
        power.resume(azure, inventory(), lambda text: None, poll=0.01)
    message = str(raised.value)
    assert message.startswith("2 of 3 VMs did not start:\n  vm-xeon-diffusion-dev-1: ")
    for change in ("proximity_placement_group false", "vm_size", "zone", "replace_nodes true"):
        assert message.count(change) == 1 + (change == "vm_size")
    assert "lose their OS disks (not a data disk)" in message
