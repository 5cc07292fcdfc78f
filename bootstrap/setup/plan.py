"""What is to be done to a cluster: decided from what was asked and from what its nodes are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bootstrap.errors import UserError
from bootstrap.inventory.inventory import Inventory
from bootstrap.setup import node_requirements
from bootstrap.setup.model_and_data import Input
from bootstrap.setup.node_facts import NodeFacts
from bootstrap.setup.python.interpreter import Conda, Interpreter, Venv
from bootstrap.setup.python.package_pins import Lock
from bootstrap.setup.python.payload import Payload

Failures = dict[str, UserError]


@dataclass(frozen=True)
class Options:
    """What `fab bootstrap` was asked for.

    Attributes:
        inventory: the cluster.
        lock: of the stack.
        payload: the checkout's own code.
        environment: "auto", "conda" or "venv".
        conda_lock: of what makes conda environments.
        conda_channel: None: conda-forge's own.
        package_index: asked in place of all that the lock names; None: those.
        inputs: the model and the pictures.
        hub_token: None: none is sent.
    """

    inventory: Inventory
    lock: Lock
    payload: Payload
    environment: str
    conda_lock: Lock
    conda_channel: str | None
    package_index: str | None
    inputs: Sequence[Input]
    hub_token: str | None


@dataclass(frozen=True)
class ClusterFacts:
    """A cluster as it was found.

    Attributes:
        nodes: those that could be examined, by name, the head first.
        live: why nothing may be changed now: a run goes on; None: none does.
        environment: the kind that the head has, "conda" or "venv"; None: it has none.
        channel_answers: whether conda's own channel answers the head, where that matters.
        hub: why the head cannot have what is wanted from the hub; None: it can.
    """

    nodes: Mapping[str, NodeFacts]
    live: UserError | None = None
    environment: str | None = None
    channel_answers: bool = False
    hub: UserError | None = None


@dataclass(frozen=True)
class Plan:
    """What is done, and to which nodes.

    Attributes:
        options: what was asked for.
        nodes: what those are that it is done to, by name.
        interpreter: makes the environments' Python.
        mixed_precision: the accelerate configs' value.
        notes: what a person should know of the nodes, line by line.
        refused: the other nodes, and why they will not do.
    """

    options: Options
    nodes: Mapping[str, NodeFacts]
    interpreter: Interpreter
    mixed_precision: str
    notes: tuple[str, ...] = ()
    refused: Failures = field(default_factory=dict)


class Refused(Exception):
    """The head will not do, or the nodes do not fit together; `nodes`: why, by name."""

    def __init__(self, nodes: Failures) -> None:
        super().__init__("; ".join(map(str, nodes.values())))
        self.nodes = nodes


def decide(facts: ClusterFacts, options: Options) -> Plan:
    """What to do, from facts alone.

    Raises:
        Refused: nothing can be done.
    """
    head, *others = facts.nodes
    if facts.live:
        left = {name: UserError(f"{name}: left as it is, for the same reason") for name in others}
        raise Refused({head: facts.live} | left)
    kind = Conda if _by_conda(facts, options) else Venv
    refused = _refused(facts.nodes, options.lock.stack, kind)
    if head in refused:
        raise Refused(refused)
    if facts.hub:
        raise Refused(refused | {head: facts.hub})
    nodes = {name: found for name, found in facts.nodes.items() if name not in refused}
    interpreter: Interpreter
    if kind is Conda:
        interpreter = Conda(options.payload, options.conda_lock, options.conda_channel)
    else:
        try:
            interpreter = Venv(node_requirements.common_python(nodes))
        except UserError as error:
            raise Refused(refused | dict.fromkeys(nodes, error)) from error
    precision = node_requirements.mixed_precision(facts.nodes)
    return Plan(options, nodes, interpreter, precision, _notes(nodes, options.lock.stack), refused)


def _by_conda(facts: ClusterFacts, options: Options) -> bool:
    if options.environment != "auto":
        return options.environment == "conda"
    if options.conda_channel is not None:
        return True
    if facts.environment is not None:  # Changing it would build everything anew.
        return facts.environment == "conda"
    return facts.channel_answers


def _refused(nodes: Mapping[str, NodeFacts], stack: str, kind: type[Interpreter]) -> Failures:
    head = next(iter(nodes.values()))
    refused: Failures = {}
    for name, facts in nodes.items():
        reasons = node_requirements.refusals(name, facts, stack=stack, kind=kind)
        if facts.root != head.root:
            reasons.append(
                f"{name}: its home is not where the head's is ({facts.root}, not {head.root}):"
                " set XEON_DIFFUSION_ROOT to a folder that all have."
            )
        if reasons:
            refused[name] = UserError("\n".join(reasons))
    return refused


def _notes(nodes: Mapping[str, NodeFacts], stack: str) -> tuple[str, ...]:
    found = [
        f"{name}: {facts.processor.generation} ({facts.processor.abilities}),"
        f" {facts.cores} cores, {facts.memory / 2**30:.0f} GiB, {facts.system}"
        for name, facts in nodes.items()
    ]
    warnings = node_requirements.warnings(nodes, stack=stack)
    return (*found, *(f"warning: {text}" for text in warnings))
