"""The cluster as a component: two in one program, and as programs in other languages see it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from pulumi.provider.experimental.component import ComponentProvider

from infra.config.config import ClusterConfig
from infra.errors import UserError
from infra.plan.recording import record
from infra.program.cluster import Cluster
from infra.rules.kinds import NAME_KEYS
from tests.infra_plans import KEY

CHECKOUT = Path(__file__).parents[4]
PROGRAM = """\
import pulumi
from infra.program.cluster import Cluster

base = {"allowed_ssh_cidr": ["203.0.113.7/32"], "ssh_public_key": KEY}
for name, more in (("blue", {"node_count": 1, "location": "westus2"}), ("green", EXTRA)):
    cluster = Cluster(name, {**base, **more})
    pulumi.export(name, [cluster.names, cluster.location, cluster.machine_ids])
"""


def run(folder: Path, extra: dict[str, Any]) -> dict[str, Any]:
    program = folder / "two.py"
    key = KEY.read_text().strip()
    program.write_text(f"KEY, EXTRA = {key!r}, {extra!r}\n{PROGRAM}")
    return record({}, program=program)


def test_two_clusters_in_one_program_share_nothing(tmp_path: Path) -> None:
    made = run(tmp_path, {"node_count": 2, "vnet_cidr": ["10.0.0.0/16", "10.1.0.0/16"]})
    names = [one["name"] for one in made["requests"]]
    assert len(names) == len(set(names))
    assert {name.partition("-")[0] for name in names} == {"blue", "green"}
    in_azure = [
        (one["type"], one["inputs"].get("resourceGroupName"), one["inputs"][NAME_KEYS[one["type"]]])
        for one in made["requests"]
        if one["custom"]
    ]
    assert len(in_azure) == len(set(in_azure))
    groups = {group for _, group, _ in in_azure}
    assert groups == {"rg-xeon-diffusion-blue-dev", "rg-xeon-diffusion-green-dev"}
    machines, location, ids = made["outputs"]["green"]
    assert machines == [f"vm-xeon-diffusion-green-dev-{index}" for index in range(2)]
    assert location == "eastus"
    assert ids[1].endswith("/virtualMachines/vm-xeon-diffusion-green-dev-1")
    for one in made["requests"]:
        mine, others = one["name"].partition("-")[0], {"blue", "green"}
        others.remove(mine)
        assert not any(
            name.startswith(f"{other}-") for name in one["depends_on"] for other in others
        )
        assert one["hooks"] in ([], [f"{mine}-settled"])


def test_wrong_arguments_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="2 errors in the arguments of green") as raised:
        run(tmp_path, {"node_count": 0, "vm_sise": "x"})
    assert "did you mean vm_size?" in str(raised.value)


def test_other_languages_see_every_key_and_the_outputs() -> None:
    provider = ComponentProvider([Cluster], "xeon-diffusion", None, "0.0.0")
    found = next(text for text in vars(provider).values() if str(text).startswith('{"name"'))
    schema = json.loads(found)["resources"]["xeon-diffusion:index:Cluster"]
    camel = {
        key.partition("_")[0] + key.partition("_")[2].title().replace("_", "")
        for key in ClusterConfig.model_fields
    }
    assert set(schema["inputProperties"]) == camel
    assert schema["requiredInputs"] == ["allowedSshCidr"]
    assert set(schema["properties"]) == {
        *("resourceGroup", "location", "gateway", "subnetId", "machineIds", "names", "sshCommand")
    }
    plugin = yaml.safe_load((CHECKOUT / "component" / "PulumiPlugin.yaml").read_text())
    assert plugin == {"runtime": "python"}
