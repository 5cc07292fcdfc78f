"""What is done to a cluster, decided from facts alone: no host is asked anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bootstrap.errors import UserError
from bootstrap.inventory.inventory import Inventory, Node
from bootstrap.setup.node_facts import NodeFacts, read_facts
from bootstrap.setup.plan import ClusterFacts, Options, Refused, decide
from bootstrap.setup.python.interpreter import Conda, Venv
from bootstrap.setup.python.package_pins import Lock
from bootstrap.setup.python.payload import Payload
from tests.unit.bootstrap.setup.test_node_facts import recorded
from tests.unit.bootstrap.setup.test_processor import ICE_LAKE

BOTH = "3.12 /usr/bin/python3.12\n3.11 /usr/bin/python3.11"
HERE = "/home/me/.xeon-diffusion"


def node(root: str = HERE, **changes: str) -> NodeFacts:
    return read_facts(recorded(**changes)).model_copy(update={"root": root})


def options(**changes: Any) -> Options:
    asked: dict[str, Any] = {
        "inventory": Inventory("mine", "file", (Node("n0", "10.0.0.4"), Node("n1", "10.0.0.5"))),
        "lock": Lock("upstream", {}, {}),
        "payload": Payload(Path("payload"), "project.whl", "key"),
        "environment": "auto",
        "conda_lock": Lock("conda", {}, {}),
        "conda_channel": None,
        "package_index": None,
        "inputs": [],
        "hub_token": None,
    }
    return Options(**asked | changes)


def cluster(*nodes: NodeFacts, **head: Any) -> ClusterFacts:
    return ClusterFacts({f"n{i}": facts for i, facts in enumerate(nodes)}, **head)


def refused(facts: ClusterFacts, **asked: Any) -> dict[str, str]:
    with pytest.raises(Refused) as caught:
        decide(facts, options(**asked))
    return {name: str(error) for name, error in caught.value.nodes.items()}


def test_a_venv_of_the_newest_python_that_all_have() -> None:
    plan = decide(cluster(node(pythons=BOTH), node(pythons="3.11 /opt/python")), options())
    assert plan.interpreter == Venv("3.11")
    assert list(plan.nodes) == ["n0", "n1"]
    assert plan.refused == {}
    assert plan.notes[0].startswith("n0: Sapphire Rapids (AMX), 8 cores, 63 GiB, Ubuntu")


@pytest.mark.parametrize(
    ("asked", "head", "kind"),
    [
        ({}, {}, Venv),
        ({}, {"channel_answers": True}, Conda),
        ({}, {"environment": "venv", "channel_answers": True}, Venv),
        ({}, {"environment": "conda"}, Conda),
        ({"conda_channel": "https://mirror"}, {"environment": "venv"}, Conda),
        ({"environment": "venv"}, {"environment": "conda", "channel_answers": True}, Venv),
        ({"environment": "conda"}, {"environment": "venv"}, Conda),
    ],
)
def test_conda_or_venv(asked: dict[str, Any], head: dict[str, Any], kind: type) -> None:
    assert type(decide(cluster(node(), **head), options(**asked)).interpreter) is kind


def test_a_worker_that_will_not_do_is_left_out_and_the_others_go_on() -> None:
    facts = cluster(node(), node(system="aarch64\nn1"), node(root="/scratch"))
    plan = decide(facts, options())
    assert list(plan.nodes) == ["n0"]
    assert "n1: is aarch64" in str(plan.refused["n1"])
    assert f"n2: its home is not where the head's is (/scratch, not {HERE})" in str(
        plan.refused["n2"]
    )


def test_precision_is_that_of_every_node_and_a_mixed_cluster_is_told() -> None:
    plan = decide(cluster(node(), node(cpuinfo=ICE_LAKE)), options())
    assert plan.mixed_precision == "no"
    assert any(note.startswith("warning: mixed cluster") for note in plan.notes)
    assert decide(cluster(node()), options()).mixed_precision == "bf16"


def test_a_head_that_will_not_do_refuses_all() -> None:
    assert list(refused(cluster(node(pythons="3.9 /usr/bin/python3"), node()))) == ["n0"]


def test_a_live_run_or_a_hub_that_shows_nothing_refuses_all() -> None:
    said = refused(cluster(node(), node(), live=UserError("n0: toy is running")))
    assert said == {"n0": "n0: toy is running", "n1": "n1: left as it is, for the same reason"}
    assert refused(cluster(node(), hub=UserError("no such model"))) == {"n0": "no such model"}


def test_nodes_without_a_common_python_are_refused_and_conda_needs_none() -> None:
    facts = cluster(node(pythons="3.12 /a"), node(pythons="3.13 /b"))
    said = refused(facts)
    assert list(said) == ["n0", "n1"]
    assert "no Python in common" in said["n1"]
    assert isinstance(decide(facts, options(environment="conda")).interpreter, Conda)
