"""The program itself refuses a cluster that breaks a rule, before anything is asked of Azure."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from infra.errors import UserError
from infra.plan.matrix import SOMEBODYS
from infra.plan.recording import record
from tests.infra_plans import BASE, KEY

WITH_ALL = {
    "head_may_deallocate": "true", "data_disk_size_gb": "64", "monthly_budget": "5",
    "budget_email": "ana@example.com", "deallocate_at": "0130", "spot": "true", "zone": "2",
    "tags": "cost_center=7", "subnet_cidr": "10.0.0.0/24,10.0.1.0/24",
}  # fmt: skip
LOOKED_AT = """\
import json
import pulumi
from infra.program import checked
from infra.program.cluster import Cluster
from infra.program.stack import stack_config

seen = {}
take = checked.Checked._take


def spy(self, made):
    take(self, made)
    seen[made.name] = self.stack.resources[made.name]["inputs"]


checked.Checked._take = spy
Cluster("cluster", stack_config())
pulumi.export("seen", json.dumps(seen))
"""
OPEN = """\
from infra.program import network
from infra.program.cluster import Cluster

rules = network.security_rules
network.security_rules = lambda config: rules(config)[:-1]
for name in NAMES:
    Cluster(name, {"allowed_ssh_cidr": ["203.0.113.7/32"], "ssh_public_key": KEY})
"""


@pytest.mark.parametrize(
    "changes",
    [{}, WITH_ALL, {"existing_subnet_id": SOMEBODYS, "public_address": "false"}],
    ids=["defaults", "with all", "in a network that exists"],
)
def test_the_rules_are_held_to_what_the_program_asks_for(
    changes: dict[str, str], tmp_path: Path
) -> None:
    program = tmp_path / "looked_at.py"
    program.write_text(LOOKED_AT)
    recorded = record({**BASE, **changes}, preview=True, program=program)
    asked = {one["name"]: one["inputs"] for one in recorded["requests"] if one["custom"]}
    seen = json.loads(recorded["outputs"]["seen"])
    assert {name: seen[name] for name in asked} == asked


@pytest.mark.parametrize("names", [["cluster"], ["blue", "green"]])
def test_a_cluster_that_breaks_a_rule_is_refused(names: list[str], tmp_path: Path) -> None:
    program = tmp_path / "open.py"
    program.write_text(f"KEY, NAMES = {KEY.read_text().strip()!r}, {names!r}\n{OPEN}")
    with pytest.raises(UserError) as raised:
        record({}, program=program)
    prefix = "" if names == ["cluster"] else "blue-"
    message = str(raised.value)
    assert "The cluster would break its own rules:" in message
    assert f"workers_closed: {prefix}interface-1: rule AllowVnetInBound admits 10.200" in message


def test_a_wide_open_range_that_was_asked_for_is_none_of_the_programs_business() -> None:
    record({**BASE, "allowed_ssh_cidr": "0.0.0.0/0", "allow_ssh_from_anywhere": "true"})
