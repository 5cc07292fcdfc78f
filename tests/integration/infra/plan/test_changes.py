"""What a second `pulumi up` does: the real program before and after each change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pulumi
import pytest

from infra.config.config import ClusterConfig
from infra.errors import UserError
from infra.plan import difference, living, matrix, plan
from infra.plan.plan import main
from infra.plan.recording import SUBSCRIPTION
from infra.program import changes
from infra.program.settled import refuse
from infra.rules.kinds import NAME_KEYS, VM
from tests.infra_plans import BASE, planned, resource

CHECKOUT = Path(__file__).parents[4]


def alive(**before: str) -> dict[str, dict[str, Any]]:
    """The resources of a cluster that was made with some keys."""
    made = planned(before)
    return {one["name"]: one for one in made["resources"] if one["custom"]}


def after(old: dict[str, dict[str, Any]], **values: str) -> list[difference.Step]:
    made = plan.make({**BASE, **values}, living=old)
    return difference.between(old, made)


@pytest.mark.parametrize("row", matrix.ROWS, ids=lambda row: f"{row.key}: {row.change}")
def test_a_change_of_each_key_does_what_the_matrix_says(row: matrix.Row, tmp_path: Path) -> None:
    other = tmp_path / "other.pub"
    other.write_text(matrix.OTHER_KEY)
    values = {key: text.format(other_key=other) for key, text in row.after.items()}
    old = alive(**row.before)
    assert difference.summary(after(old, **{**row.before, **values})) == row.plain
    if row.key == "replace_nodes":
        return
    replacing = {**row.before, "replace_nodes": "true", **values}
    assert difference.summary(after(old, **replacing)) == row.replacing


def test_the_matrix_has_every_key() -> None:
    assert {row.key for row in matrix.ROWS} == set(ClusterConfig.model_fields)


def test_a_refusal_names_what_to_do_and_stops_the_update() -> None:
    machine = resource(planned(), "machine-0")
    assert machine["hooks"] == ["cluster-settled"]

    def hook(new: dict[str, Any], kind: str = VM) -> None:
        refuse(pulumi.ResourceHookArgs("urn", "id", "machine-0", kind, new, machine["inputs"]))

    hook(machine["inputs"])
    tagged = {**machine["inputs"], "tags": {"owner": "ana"}}
    hook(tagged)
    with pytest.raises(pulumi.RunError, match=r"machine-0: zones cannot become 2: .*replace_nodes"):
        hook({**tagged, "zones": ["2"]})
    # As `pulumi refresh` may have written it into the state.
    placed = machine["inputs"]["proximityPlacementGroup"]["id"]
    hook({**tagged, "proximityPlacementGroup": {"id": placed.upper()}})
    # Pulumi's wire has one kind of number.
    storage = {**machine["inputs"]["storageProfile"]}
    storage["osDisk"] = {**storage["osDisk"], "diskSizeGB": 256.0}
    with pytest.raises(pulumi.RunError, match=r"diskSizeGB cannot become 256: "):
        hook({**tagged, "storageProfile": storage})
    # A state that was written before the priority was named.
    del machine["inputs"]["priority"]
    hook({**machine["inputs"], "priority": "Regular"})


def test_a_renamed_stack_deletes_nothing() -> None:
    old = alive()
    made = plan.make({**BASE, "node_count": "4"}, stack="prod", living=old)
    steps = difference.between(old, made)
    assert {step.action for step in steps} == {"kept", "update", "create"}
    assert {path for step in steps if step.action == "update" for path in step.paths} == {
        "tags.stack"
    }
    names = [node["name"] for node in made["outputs"]["nodes"]]
    assert names == [
        *(f"vm-xeon-diffusion-dev-{index}" for index in range(3)),
        "vm-xeon-diffusion-prod-3",
    ]
    assert made["outputs"]["resource_group"] == "rg-xeon-diffusion-dev"


def test_a_node_that_is_added_goes_where_the_others_are() -> None:
    made = plan.make({**BASE, "node_count": "4", "location": "westus2"}, living=alive())
    assert resource(made, "machine-3")["inputs"]["location"] == "eastus"
    assert made["outputs"]["location"] == "eastus"


def test_a_new_head_gets_the_role_again() -> None:
    image = "Canonical:ubuntu-24_04-lts:server:24.4.1"
    role = {"head_may_deallocate": "true"}
    steps = after(alive(**role), **role, image=image, replace_nodes="true")
    assert difference.summary(steps) == {"replace": ["machine", "power-role"]}


@pytest.mark.parametrize(
    ("before", "after", "fits"),
    [
        ("Standard_D4s_v5", "Standard_D64_v5", True),
        ("Standard_D4ds_v5", "Standard_D64d_v5", True),
        ("Standard_D4s_v5", "Standard_D4ds_v5", False),
        ("Standard_D4s_v5", "Standard_D4s_v6", False),
        ("Standard_D4s_v6", "Standard_D8s_v7", True),
    ],
)
def test_which_sizes_azure_resizes_between(before: str, after: str, fits: bool) -> None:
    assert changes.resizable(before, after) == fits


def exported(made: dict[str, Any]) -> dict[str, Any]:
    """A plan as `pulumi stack export` would print it once it is made."""
    stack = "urn:pulumi:dev::xeon-diffusion::pulumi:pulumi:Stack::xeon-diffusion-dev"
    rest = [
        {
            "urn": f"urn:pulumi:dev::xeon-diffusion::{one['type']}::{one['name']}",
            "type": one["type"],
            "custom": one["custom"],
            "id": one["id"],
            "inputs": {**one["inputs"], "__defaults": []},
            "outputs": {**one["inputs"], "name": one["inputs"].get(NAME_KEYS.get(one["type"]))},
        }
        for one in made["resources"]
    ]
    for one in rest:
        if one["type"].endswith(":PublicIPAddress"):
            one["outputs"]["ipAddress"] = "198.51.100.77"
    first = {"urn": stack, "type": "pulumi:pulumi:Stack", "outputs": made["outputs"]}
    state = {"version": 3, "deployment": {"resources": [first, *rest]}}
    real: dict[str, Any] = json.loads(json.dumps(state).replace(SUBSCRIPTION, "real"))
    return real


def test_the_command_says_what_would_change(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    state, outputs = tmp_path / "state.json", tmp_path / "cluster.json"
    state.write_text(json.dumps(exported(planned())))
    outputs.write_text(json.dumps(planned()["outputs"]))

    def asked(file: Path, *words: str) -> tuple[int, str]:
        rc = main(["--against", str(file), *words])
        return rc, capsys.readouterr().out

    for file in (state, outputs):
        rc, said = asked(file, "--set", "zone=2")
        assert rc == 1
        assert "REFUSED: machine-0: zones cannot become 2" in said
        rc, said = asked(file, "--set", "allowed_ssh_cidr=198.18.0.0/24", "--json")
        assert rc == 0
        steps = [one for one in json.loads(said)["changes"] if one["action"] != "kept"]
        assert [(one["name"], one["action"]) for one in steps] == [("security-group", "update")]


def test_what_is_no_cluster_is_refused_with_the_fix(tmp_path: Path) -> None:
    file = tmp_path / "cluster.json"
    for text in ("", "[]", "{}"):
        file.write_text(text)
        with pytest.raises(UserError, match="pulumi stack export --file"):
            living.read(file, "dev")
    with pytest.raises(UserError, match="cannot be read"):
        living.read(tmp_path / "absent.json", "dev")


def test_the_docs_show_the_matrix_as_it_is() -> None:
    text = (CHECKOUT / "docs" / "azure.md").read_text()
    assert matrix.markdown() in text, "stale: python -m infra.plan --matrix, into docs/azure.md"


def test_the_data_disk_outlives_nodes_and_is_never_deleted_along() -> None:
    disk = {"data_disk_size_gb": "64"}
    old = alive(**disk)
    image = "Canonical:ubuntu-24_04-lts:server:24.4.1"
    steps = after(old, **disk, replace_nodes="true", image=image)
    assert difference.summary(steps) == {"replace": ["machine"]}
    moved = after(old, **disk, replace_nodes="true", location="westus2")
    assert difference.summary(moved) == {"refused": ["data-disk"]}
    assert "pulumi state unprotect" in next(one.says for one in moved if one.action == "refused")
    zone = after(old, **disk, replace_nodes="true", zone="2")
    assert difference.summary(zone) == {"refused": ["data-disk"]}
