"""The real Pulumi program: what it asks for, what changes change, and what no plan may have."""

from __future__ import annotations

import base64
import copy
import io
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from infra.errors import UserError
from infra.inventory import SCHEMA_FILE, Inventory, main, read, schema_text
from infra.plan import changes_table, difference, picture, plan, plan_table
from infra.plan.matrix import SOMEBODYS
from infra.plan.recording import PRINCIPAL, SUBSCRIPTION, record
from infra.program.power_role import definition_id
from infra.rules import policies, rules
from infra.rules.kinds import BUDGET, ROLE, SCHEDULE
from infra.rules.packets import LOAD_BALANCER, PEERED, Packet, allows
from tests.azure_models import complaints
from tests.infra_plans import BASE, planned, resource

CHECKOUT = Path(__file__).parents[4]
GROUP_ID = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/rg-xeon-diffusion-dev"
OTHER_CONFIGS: list[dict[str, str]] = [
    {},
    {"spot": "true", "spot_max_price": "0.5", "spot_eviction_policy": "Delete", "zone": "2"},
    {"node_count": "1", "vm_size": "Standard_D8d_v5", "proximity_placement_group": "false"},
    {"os_disk_type": "Premium_LRS", "tags": "owner=ana,cost centre=42", "replace_nodes": "true"},
    {"head_may_deallocate": "true", "node_count": "2"},
    {"data_disk_size_gb": "512", "zone": "1", "subnet_cidr": "10.0.0.0/29,10.0.1.0/24",
     "node_count": "5", "allowed_ssh_cidr": "203.0.113.7/32,198.51.100.0/24"},
    {"existing_subnet_id": SOMEBODYS, "public_address": "false", "vnet_cidr": "10.0.0.0/8",
     "allowed_ssh_cidr": "10.200.0.0/24", "proximity_placement_group": "false"},
]  # fmt: skip

Plan = dict[str, Any]


@pytest.mark.parametrize("changes", OTHER_CONFIGS)
def test_every_request_is_one_that_azures_own_models_have(changes: dict[str, str]) -> None:
    made = planned(changes)
    assert [text for one in made["resources"] if one["custom"] for text in complaints(one)] == []


def _unknown_property(inputs: Plan) -> None:
    inputs["osProfile"]["adminUser"] = "ana"


def _wrong_type(inputs: Plan) -> None:
    inputs["storageProfile"]["osDisk"]["diskSizeGB"] = "128"


def _wrong_enum(inputs: Plan) -> None:
    inputs["securityProfile"]["securityType"] = "Trusted"


def _missing(inputs: Plan) -> None:
    del inputs["storageProfile"]["osDisk"]["createOption"]


def _scalar_for_list(inputs: Plan) -> None:
    inputs["zones"] = "1"


def _azures_own(inputs: Plan) -> None:
    inputs["vmId"] = "1"


@pytest.mark.parametrize(
    ("mistake", "says"),
    [
        (_unknown_property, "no such property of OSProfile"),
        (_wrong_type, "is no int"),
        (_wrong_enum, "is not a SecurityTypes"),
        (_missing, "createOption: is required"),
        (_scalar_for_list, "in the place of a list"),
        (_azures_own, "only Azure sets it"),
    ],
)
def test_a_planted_mistake_in_a_request_is_caught(
    mistake: Callable[[Plan], None], says: str
) -> None:
    machine = resource(planned(), "machine-0")
    mistake(machine["inputs"])
    (complaint,) = complaints(machine)
    assert says in complaint


@pytest.mark.parametrize("changes", OTHER_CONFIGS)
def test_plans_obey_every_rule(changes: dict[str, str]) -> None:
    assert rules.violations(planned(changes)) == []


def _inputs(made: Plan, name: str) -> Plan:
    inputs: Plan = resource(made, name)["inputs"]
    return inputs


def _rule(made: Plan, **changes: object) -> None:
    given = {
        "name": "Planted", "priority": 200, "direction": "Inbound", "access": "Allow",
        "protocol": "Tcp", "sourceAddressPrefix": "*", "destinationAddressPrefix": "*",
        "destinationPortRange": "443", "sourcePortRange": "*", **changes,
    }  # fmt: skip
    _inputs(made, "security-group")["securityRules"].append(given)


def _no_deny(made: Plan) -> None:
    kept = _inputs(made, "security-group")["securityRules"]
    kept[:] = [one for one in kept if one["access"] == "Allow"]


def _split_subnet(made: Plan) -> None:
    for one in _inputs(made, "security-group")["securityRules"]:
        if one["name"] == "AllowCluster":
            one["destinationAddressPrefix"] = "10.0.0.4/32"


def _public_worker(made: Plan) -> None:
    interface = _inputs(made, "interface-1")["ipConfigurations"][0]
    interface["publicIPAddress"] = {"id": "x"}


def _key_in_custom_data(made: Plan) -> None:
    text = base64.b64encode(b"-----BEGIN OPENSSH PRIVATE KEY-----\n" * 2).decode()
    _inputs(made, "machine-1")["osProfile"]["customData"] = text


def _set(name: str, value: object, *path: str) -> Callable[[Plan], None]:
    def plant(made: Plan) -> None:
        place: Any = next(one for one in made["resources"] if one["name"] == name)
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value

    return plant


def _role(
    definition: str, scope: str = GROUP_ID, whose: str = "machine-0"
) -> Callable[[Plan], None]:
    role = {
        "type": ROLE,
        "name": "role",
        "custom": True,
        "inputs": {"roleDefinitionId": definition, "scope": scope},
        "depends_on": [whose],
    }
    return lambda made: made["resources"].append(role)


def _subnet_of_somebody(made: Plan) -> None:
    made["resources"] = [one for one in made["resources"] if one["name"] != "subnet"]


def _planted_disk(made: Plan) -> None:
    disks = _inputs(made, "machine-1")["storageProfile"]
    disks["dataDisks"] = [{"lun": 0, "deleteOption": "Detach"}]


@pytest.mark.parametrize(
    ("rule", "plant"),
    [
        (rules.not_open_to_the_world, _rule),
        (rules.workers_closed, _no_deny),
        (
            rules.workers_closed,
            lambda made: _rule(
                made, sourceAddressPrefix="203.0.113.0/24", destinationPortRange="22"
            ),
        ),
        (rules.nodes_reach_each_other, _split_subnet),
        (rules.one_public_interface, _public_worker),
        (
            rules.static_private_addresses,
            _set("interface-1", False, "inputs", "enableAcceleratedNetworking"),
        ),
        (
            rules.static_private_addresses,
            lambda made: _inputs(made, "interface-1")["ipConfigurations"][0].update(
                privateIPAddress="10.0.0.4"
            ),
        ),
        (rules.private_subnet, _subnet_of_somebody),
        (rules.private_subnet, _set("subnet", True, "inputs", "defaultOutboundAccess")),
        (rules.no_secrets, _key_in_custom_data),
        (
            rules.no_secrets,
            _set("machine-0", "hunter2", "inputs", "osProfile", "adminPassword"),
        ),
        (
            rules.trusted_launch,
            _set("machine-2", False, "inputs", "securityProfile", "uefiSettings", "vTpmEnabled"),
        ),
        (rules.trusted_launch, _set("machine-0", {}, "inputs", "diagnosticsProfile")),
        (
            rules.least_rights,
            _set("machine-1", {"type": "SystemAssigned"}, "inputs", "identity"),
        ),
        (rules.least_rights, _role(f"{GROUP_ID}/providers/x/roleDefinitions/owner")),
        (rules.least_rights, _role(definition_id(GROUP_ID), "/subscriptions/s")),
        (rules.least_rights, _role(definition_id(GROUP_ID), whose="machine-1")),
        (rules.nothing_left_behind, _set("machine-0", True, "retain_on_delete")),
        (rules.nothing_left_behind, _set("subnet", True, "protect")),
        (rules.nothing_left_behind, _set("nat", "shared", "inputs", "resourceGroupName")),
        (
            rules.nothing_left_behind,
            _set("machine-0", "Detach", "inputs", "storageProfile", "osDisk", "deleteOption"),
        ),
        (rules.data_outlives_nodes, _planted_disk),
        (rules.tags_on_everything, _set("interface-2", {"stack": "dev"}, "inputs", "tags")),
    ],
)
def test_a_planted_violation_is_found(rule: rules.Rule, plant: Callable[[Plan], None]) -> None:
    made = planned()
    assert list(rule(made)) == []
    plant(made)
    assert list(rule(made))


def test_every_rule_has_a_planted_violation() -> None:
    (mark,) = test_a_planted_violation_is_found.pytestmark  # type: ignore[attr-defined]
    assert {case[0] for case in mark.args[1]} == set(rules.RULES)


def test_packets_are_judged_with_azures_own_rules() -> None:
    made = planned()
    (security_rules, vnet) = rules._network(made)
    head, worker = IPv4Address("10.0.0.4"), IPv4Address("10.0.0.5")
    person = IPv4Address("203.0.113.7")
    assert allows(security_rules, Packet(person, head, 22), vnet) == "AllowSshToHead"
    assert allows(security_rules, Packet(worker, head, 40000), vnet) == "AllowCluster"
    for source, destination, port in (
        (person, head, 80),
        (person, worker, 22),
        (IPv4Address("203.0.113.8"), head, 22),
        (PEERED, worker, 22),
        (LOAD_BALANCER, head, 22),
        (IPv4Address("10.0.7.7"), worker, 22),
    ):
        assert allows(security_rules, Packet(source, destination, port), vnet) is None
    # Without the last rule, Azure's own would admit peers and load balancers.
    without = [one for one in security_rules if one["access"] == "Allow"]
    assert allows(without, Packet(PEERED, worker, 22), vnet) == "AllowVnetInBound"
    own = allows(without, Packet(LOAD_BALANCER, head, 22), vnet)
    assert own == "AllowAzureLoadBalancerInBound"
    assert vnet == (IPv4Network("10.0.0.0/16"),)


def test_in_somebodys_network_the_nodes_are_as_closed() -> None:
    mine = {"existing_subnet_id": SOMEBODYS, "public_address": "false"}
    made = planned(mine, allowed_ssh_cidr="10.0.200.0/24,203.0.113.0/24")
    assert made["violations"] == []
    kinds = {one["type"].rpartition(":")[2] for one in made["resources"] if one["custom"]}
    assert not kinds & {"VirtualNetwork", "Subnet", "NatGateway", "PublicIPAddress"}
    for index in range(3):
        interface = _inputs(made, f"interface-{index}")
        (address,) = interface["ipConfigurations"]
        assert address["subnet"]["id"] == SOMEBODYS
        assert interface["networkSecurityGroup"]["id"].endswith("/nsg-xeon-diffusion-dev")
    assert made["outputs"]["gateway"] == "10.0.0.4"
    assert made["outputs"]["ssh_command"] == "ssh azureuser@10.0.0.4"
    inventory = Inventory.model_validate(made["outputs"])
    assert inventory.nodes[0].public_ip is None
    (security_rules, vnet) = rules._network(made)
    head, worker = IPv4Address("10.0.0.4"), IPv4Address("10.0.0.5")
    for person in (IPv4Address("10.0.200.9"), IPv4Address("203.0.113.1")):
        assert allows(security_rules, Packet(person, head, 22), vnet) == "AllowSshToHead"
        assert allows(security_rules, Packet(person, worker, 22), vnet) is None
    assert allows(security_rules, Packet(IPv4Address("10.0.9.9"), head, 22), vnet) is None
    assert [line["what"] for line in made["price"]["lines"]] == [
        "Standard_D16s_v5, eastus",
        "OS disk StandardSSD_LRS, 128 GB",
    ]


def test_a_wide_open_range_is_a_warning_for_the_heads_ssh_alone() -> None:
    made = planned(allowed_ssh_cidr="0.0.0.0/0", allow_ssh_from_anywhere="true")
    assert made["violations"] == []
    assert any("SSH to the head is open to 4294967296 addresses" in w for w in made["warnings"])
    told = list(rules.not_open_to_the_world(made))
    assert told == ["vm-xeon-diffusion-dev-0: rule AllowSshToHead admits anybody to Tcp port 22"]
    assert list(rules.workers_closed(made)) == []


def by_name(made: Plan) -> dict[str, Plan]:
    return {one["name"]: one for one in made["resources"]}


def test_a_fourth_node_adds_a_vm_and_an_interface_and_changes_nothing() -> None:
    three, four = by_name(planned()), by_name(planned(node_count="4"))
    assert set(four) - set(three) == {"node-3", "interface-3", "machine-3"}
    assert {name: four[name] for name in three} == three


def test_going_back_to_three_takes_the_last_node() -> None:
    three, four = by_name(planned()), by_name(planned(node_count="4"))
    assert set(four) - set(three) == {"node-3", "interface-3", "machine-3"}
    assert planned()["outputs"]["nodes"] == planned(node_count="4")["outputs"]["nodes"][:3]


def test_a_new_ssh_range_touches_the_security_group_alone() -> None:
    old, new = by_name(planned()), by_name(planned(allowed_ssh_cidr="198.18.0.0/24"))
    assert [name for name in old if old[name] != new[name]] == ["security-group"]
    assert old.keys() == new.keys()


def test_a_head_that_may_deallocate_gets_an_identity_and_one_role() -> None:
    made = planned(head_may_deallocate="true")
    without, with_role = by_name(planned()), by_name(made)
    assert set(with_role) - set(without) == {"power", "power-role"}
    assert [name for name in without if without[name] != with_role[name]] == ["machine-0"]
    role = resource(made, "power-role")
    assert role["depends_on"] == ["machine-0", "resource-group"]
    assert role["inputs"]["principalId"] == PRINCIPAL
    assert role["inputs"]["scope"].endswith("/resourceGroups/rg-xeon-diffusion-dev")
    uuid.UUID(role["inputs"]["roleAssignmentName"])
    unknown = planned(preview=True, head_may_deallocate="true")
    assert resource(unknown, "power-role")["inputs"]["principalId"] == rules.UNKNOWN


def test_a_new_image_is_ignored_until_a_key_says_so() -> None:
    image = "Canonical:ubuntu-24_04-lts:server:24.4.1"
    settled = resource(planned(image=image), "machine-0")
    assert "storageProfile.imageReference" in settled["ignore_changes"]
    assert "osProfile.customData" in settled["ignore_changes"]
    assert settled["replace_on_changes"] == []
    asked = resource(planned(image=image, replace_nodes="true"), "machine-0")
    assert asked["ignore_changes"] == []
    assert "storageProfile.imageReference" in asked["replace_on_changes"]
    assert settled["delete_before_replace"]
    assert asked["delete_before_replace"]


def test_what_keeps_the_bill_down_is_off_until_it_is_asked_for() -> None:
    kinds = {one["type"] for one in planned()["resources"]}
    assert not kinds & {BUDGET, SCHEDULE}
    made = planned(deallocate_at="0130", monthly_budget="500", budget_email="ana@example.com")
    assert made["violations"] == []
    assert "every VM is deallocated at 0130 UTC, even during a training" in made["warnings"]
    budget = _inputs(made, "budget")
    assert budget["scope"] == GROUP_ID
    assert budget["timePeriod"]["startDate"].endswith("-01T00:00:00Z")
    shares = [one["threshold"] for one in budget["notifications"].values()]
    assert sorted(shares) == [80, 100]
    for index in range(3):
        nightly = resource(made, f"nightly-{index}")
        assert nightly["depends_on"] == [f"machine-{index}", "resource-group"]
        assert nightly["inputs"]["name"] == f"shutdown-computevm-vm-xeon-diffusion-dev-{index}"
        assert nightly["inputs"]["dailyRecurrence"] == {"time": "0130"}


def test_requests_arrive_after_what_they_depend_on() -> None:
    recorded = record({**BASE, "node_count": "4"})["requests"]
    seen: set[str] = set()
    for request in recorded:
        assert set(request["depends_on"]) <= seen
        seen.add(request["name"])
    assert len(seen) == len(recorded)


def test_who_depends_on_whom() -> None:
    made = planned()
    assert resource(made, "subnet")["depends_on"] == [
        *("nat", "resource-group", "security-group", "virtual-network")
    ]
    assert resource(made, "interface-0")["depends_on"] == [
        *("head-address", "resource-group", "subnet")
    ]
    assert resource(made, "machine-1")["depends_on"] == [
        *("interface-1", "placement", "resource-group")
    ]


def test_two_runs_give_the_same_plan() -> None:
    assert json.dumps(plan.make(BASE)) == json.dumps(plan.make(BASE))


def test_a_preview_knows_no_ids_and_no_addresses() -> None:
    made = planned(preview=True)
    assert made["outputs"]["gateway"] == rules.UNKNOWN
    assert made["outputs"]["ssh_command"] == rules.UNKNOWN
    assert resource(made, "subnet")["inputs"]["natGateway"]["id"] == rules.UNKNOWN
    assert [one["name"] for one in made["resources"]] == [
        one["name"] for one in planned()["resources"]
    ]
    assert rules.violations(made) == []


def test_the_outputs_are_an_inventory(tmp_path: Path) -> None:
    file = tmp_path / "cluster.json"
    made = planned()
    file.write_text(json.dumps(made["outputs"]))
    inventory = read(file)
    assert [str(node.private_ip) for node in inventory.nodes] == [
        "10.0.0.4",
        "10.0.0.5",
        "10.0.0.6",
    ]
    assert inventory.nodes[0].public_ip == inventory.gateway
    assert all(node.public_ip is None for node in inventory.nodes[1:])
    assert inventory.ssh_private_key_path is None
    assert inventory.ssh_command == f"ssh azureuser@{inventory.gateway}"
    assert inventory.price_per_hour_usd == made["price"]["per_hour"] == pytest.approx(2.3985)
    assert set(made["outputs"]) <= set(Inventory.model_fields)


@pytest.mark.parametrize("text", ["", "{}", '{"user": "a", "nodes": []}', '{"user": "a'])
def test_what_is_no_inventory_is_refused_with_the_fix(tmp_path: Path, text: str) -> None:
    file = tmp_path / "cluster.json"
    file.write_text(text)
    with pytest.raises(UserError, match="pulumi stack output --json"):
        read(file)
    with pytest.raises(UserError, match="cannot be read"):
        read(tmp_path / "absent.json")


def test_the_committed_schema_is_current() -> None:
    assert SCHEMA_FILE.read_text() == schema_text()
    assert main(["--check"]) == 0


def test_the_program_itself_refuses_a_bad_config_in_one_message() -> None:
    with pytest.raises(UserError) as raised:
        record({**BASE, "node_cout": "3", "vm_size": "Standard_D2s_v5"})
    message = str(raised.value)
    assert "2 errors in the config of stack dev" in message
    assert "did you mean node_count?" in message
    assert "Traceback" not in message


def run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "infra.plan", *words]
    return subprocess.run(
        command, cwd=CHECKOUT, capture_output=True, text=True, timeout=120, check=False
    )


def test_the_command_prints_the_plan_as_json() -> None:
    finished = run("--json", "--set", "node_count=2", "--set", "allowed_ssh_cidr=203.0.113.7/32")
    assert finished.returncode == 0, finished.stderr
    made = json.loads(finished.stdout)
    assert {"resources", "outputs", "price"} <= set(made)
    assert len(made["outputs"]["nodes"]) == 2
    keys = {"type", "name", "inputs", "depends_on", "protect", "retain_on_delete"}
    assert all(keys <= set(one) for one in made["resources"])


def test_the_command_reads_the_stacks_config(tmp_path: Path) -> None:
    (tmp_path / "Pulumi.lab.yaml").write_text(
        "config:\n"
        "  azure-native:location: westus2\n"
        "  xeon-diffusion:allowed_ssh_cidr: 203.0.113.9/32\n"
        "  xeon-diffusion:node_count: 2\n"
        "  xeon-diffusion:proximity_placement_group: false\n"
        f"  xeon-diffusion:ssh_public_key_path: {BASE['ssh_public_key_path']}\n"
    )
    command = [sys.executable, "-m", "infra.plan", "--stack", "lab", "--json"]

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *more],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
            capture_output=True,
            text=True,
            check=False,
        )

    plan = json.loads(run().stdout)
    assert [node["name"] for node in plan["outputs"]["nodes"]] == [
        "vm-xeon-diffusion-lab-0",
        "vm-xeon-diffusion-lab-1",
    ]
    assert "the config is read from Pulumi.lab.yaml" in plan["warnings"]
    assert not [one for one in plan["resources"] if "Proximity" in one["type"]]
    assert len(json.loads(run("--set", "node_count=1").stdout)["outputs"]["nodes"]) == 1

    (tmp_path / "Pulumi.lab.yaml").write_text("config: {xeon-diffusion:tags: {secure: abc}}")
    told = run().stderr
    assert told.startswith("error: ")
    assert "tags must be plain values" in told
    (tmp_path / "Pulumi.lab.yaml").write_text("config: [")
    assert "is not valid YAML" in run().stderr


def test_the_command_refuses_without_a_traceback() -> None:
    finished = run("--set", "vm_size=Standard_D16as_v5", "--set", "nodes=3")
    assert finished.returncode == 2
    assert "2 errors" in finished.stderr
    assert "Traceback" not in finished.stderr
    assert run("--set", "vm_size").returncode == 2


CONFIGS = st.fixed_dictionaries(
    {},
    optional={
        "node_count": st.integers(-1, 12).map(str),
        "vm_size": st.sampled_from(
            ["Standard_D4s_v5", "Standard_D96ds_v5", "Standard_D16s_v6", "Standard_D8_v5", "x"]
        ),
        "zone": st.sampled_from(["", "1", "3", "9"]),
        "vnet_cidr": st.sampled_from(["10.0.0.0/16", "192.168.0.0/24", "172.16.0.0/12", "a"]),
        "subnet_cidr": st.sampled_from(
            ["10.0.0.0/24", "10.0.0.0/29", "172.16.1.0/26", "10.0.0.0/8"]
        ),
        "allowed_ssh_cidr": st.sampled_from(
            ["203.0.113.0/24", "198.51.100.1", "0.0.0.0/0", "10.0.0.0/9", "::/0"]
        ),
        "allow_ssh_from_anywhere": st.sampled_from(["true", "false", "maybe"]),
        "os_disk_type": st.sampled_from(["Premium_LRS", "Standard_LRS"]),
        "spot": st.sampled_from(["true", "false"]),
        "spot_max_price": st.sampled_from(["-1", "0.25", "nan", "-3"]),
        "tags": st.text(max_size=12),
        "admin_username": st.text(max_size=8) | st.just("ana"),
    },
)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(CONFIGS)
def test_any_config_gives_a_plan_that_obeys_the_rules_or_a_clear_refusal(
    changes: dict[str, str],
) -> None:
    try:
        made = plan.make({**BASE, **changes})
    except UserError as error:
        refusal = str(error)
    else:
        refusal = ""
    if refusal:
        assert "in the config:" in refusal.splitlines()[0]
        assert "Traceback" not in refusal
        return
    assert made["violations"] == []
    assert [text for one in made["resources"] if one["custom"] for text in complaints(one)] == []


def test_the_caller_may_edit_a_shared_plan() -> None:
    made = planned()
    before = copy.deepcopy(made)
    made["resources"].clear()
    assert planned() == before


def test_the_picture_in_the_docs_is_that_of_the_plan() -> None:
    drawn = picture.draw(planned())
    assert (CHECKOUT / "docs" / "cluster.svg").read_text() == drawn, (
        "stale: python -m infra.plan --svg docs/cluster.svg"
    )
    ElementTree.fromstring(drawn)
    assert picture.draw(planned(subnet_cidr="10.0.9.0/24")) != drawn
    assert "7 more workers" in picture.draw(planned(node_count="10"))


def test_the_docs_show_the_plan_as_it_is() -> None:
    console = Console(width=100, file=io.StringIO(), record=True, highlight=False)
    plan_table.show(planned(), console)
    shown = console.export_text()
    text = (CHECKOUT / "docs" / "azure.md").read_text()
    for title in ("What pulumi up would create", "Addresses", "Price"):
        assert title in text
    rows = [line.rstrip() for line in shown.splitlines() if line.startswith("│")]
    assert [row for row in rows if row not in text] == [], "stale: make plan, into docs/azure.md"


def test_words_with_brackets_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    words = "[/subscriptions/x] y [red]z"
    made = {**planned(), "warnings": [words], "violations": [words]}
    plan_table.show(made)
    step = difference.Step("vm", "VM", "refused", (words,), words)
    changes_table.show([step], [words], exact=True)
    assert capsys.readouterr().out.count(words) == 5


def _as_a_pack_is_told(made: Plan) -> list[str]:
    """The violations where the plan's resources come as a policy pack's do, children too."""
    stack = policies.Stack()
    urn = "urn:pulumi:dev::xeon-diffusion::{type}::{name}".format
    urns = {one["name"]: urn(**one) for one in made["resources"]}
    for one in made["resources"]:
        inputs = policies.plain(one["inputs"], lambda values, key: values[key])
        before = one["delete_before_replace"]
        stack.add(urns[one["name"]], one["type"], inputs, one["protect"], before)
    return stack.violations(
        {urns[one["name"]]: [urns[name] for name in one["depends_on"]] for one in made["resources"]}
    )


def test_the_policy_pack_finds_what_the_plan_finds() -> None:
    for changes in ({}, {"head_may_deallocate": "true", "node_count": "1"}):
        assert _as_a_pack_is_told(planned(changes)) == []
    made = planned()
    _public_worker(made)
    _rule(made)
    found = _as_a_pack_is_told(made)
    assert any(text.startswith("one_public_interface: interface-1") for text in found)
    assert any(text.startswith("not_open_to_the_world: interface-0") for text in found)


def test_a_preview_has_values_that_a_pack_cannot_read() -> None:
    known = {"id": "x", "list": [1, {"deep": 2}]}

    def look(values: Any, key: Any) -> Any:
        return rules.UNKNOWN if key == "deep" else values[key]

    assert policies.plain(known, look) == {"id": "x", "list": [1, {"deep": rules.UNKNOWN}]}
