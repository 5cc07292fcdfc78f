"""A cluster in a resource group that exists: nothing beyond its own resources is touched."""

from __future__ import annotations

from pathlib import Path

import pytest

from bootstrap.inventory.read_inventory import read_inventory
from infra.azure import preflight
from infra.config import settings
from infra.errors import UserError
from infra.inventory import Inventory
from infra.plan import living
from infra.plan.recording import SUBSCRIPTION
from infra.rules import rules
from infra.rules.kinds import GROUP, ROLE
from tests.arm_server import Answer, serving
from tests.infra_plans import BASE, planned

TEAM = {"existing_resource_group": "rg-team"}


def test_everything_lies_in_it_and_it_is_none_of_the_stacks() -> None:
    made = planned(TEAM)
    assert made["violations"] == []
    assert rules.of_type(made, GROUP) == []
    created = [one for one in made["resources"] if one["custom"]]
    assert {one["inputs"].get("resourceGroupName", "rg-team") for one in created} == {"rg-team"}
    inventory = Inventory.model_validate(made["outputs"])
    assert inventory.resource_group == "rg-team"
    assert inventory.subscription_id == SUBSCRIPTION
    assert inventory.location == "eastus"


def test_the_head_may_switch_the_clusters_vms_and_no_others() -> None:
    made = planned({**TEAM, "head_may_deallocate": "true"})
    assert made["violations"] == []
    scopes = [one["inputs"]["scope"].rpartition("/")[2] for one in rules.of_type(made, ROLE)]
    assert scopes == [node["name"] for node in made["outputs"]["nodes"]]
    role = rules.of_type(made, ROLE)[0]
    role["inputs"]["scope"] = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/rg-team"
    (found,) = rules.least_rights(made)
    assert "gives rights beyond the cluster" in found


def test_what_lies_in_another_group_is_found() -> None:
    made = planned(TEAM)
    made["resources"][-1]["inputs"]["resourceGroupName"] = "rg-other"
    assert any("lies outside" in text for text in rules.nothing_left_behind(made))


def test_two_clusters_of_one_group_are_told_apart(tmp_path: Path) -> None:
    names = set()
    for name in ("blue", "green"):
        outputs = Inventory.model_validate(planned({**TEAM, "name": name})["outputs"])
        file = tmp_path / "cluster.json"
        file.write_text(outputs.model_dump_json(exclude_none=True))
        read = read_inventory(str(file))
        assert read.resource_group == "rg-team"
        names.add(read.name)
        assert living.read(file, "dev").name == name
    assert names == {"rg-blue", "rg-green"}


def test_a_data_disk_is_where_fab_puts_what_is_ours(tmp_path: Path) -> None:
    for size, folder in (("0", None), ("64", "/data")):
        outputs = Inventory.model_validate(planned(data_disk_size_gb=size)["outputs"])
        file = tmp_path / "cluster.json"
        file.write_text(outputs.model_dump_json(exclude_none=True))
        assert read_inventory(str(file)).data_folder == outputs.data_folder == folder


@pytest.mark.parametrize("name", ["a/b", "ends.", "x" * 91, "with space"])
def test_what_is_no_groups_name_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="existing_resource_group = "):
        settings.validate({**BASE, "existing_resource_group": name})


def test_preflight_asks_for_the_group_and_for_rights_in_it_alone(tmp_path: Path) -> None:
    config = settings.validate({**BASE, **TEAM})
    with serving(tmp_path) as (server, azure):
        server.actions = {"actions": ["Microsoft.Network/*", "Microsoft.Compute/*"]}
        server.planted["/resourcegroups/rg-team"] = [Answer(404), Answer(204)]
        found = {check.what: check for check in preflight.checks(azure, config)}
        assert found["rights"].well
        assert not found["resource group"].well
        assert found["resource group"].fix.startswith("az group create --name rg-team")
        found = {check.what: check for check in preflight.checks(azure, config)}
        assert found["resource group"].well
        asked = [path for _, path in server.asked if path.endswith("/permissions")]
        assert all("/resourceGroups/rg-team/providers/" in path for path in asked)
        own = {check.what: check for check in preflight.checks(azure, settings.validate(BASE))}
        assert not own["rights"].well
