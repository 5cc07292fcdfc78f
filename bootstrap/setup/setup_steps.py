"""The steps from a bare node to one that trains, in order; each leaves alone what is done.

The head fetches from the internet; inside the cluster, what it fetched and what the person sent is
copied from node to node. Everything is made from files on a node's own disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from bootstrap.errors import UserError
from bootstrap.node.run_state import LOCK
from bootstrap.paths import records
from bootstrap.setup import cluster_ssh, home_sharing, hub_access, model_and_data
from bootstrap.setup.broadcast import Tree, broadcast_each, seal
from bootstrap.setup.node_facts import NodeFacts, gather_facts
from bootstrap.setup.plan import ClusterFacts, Failures, Options, Plan, Refused, decide
from bootstrap.setup.python import conda, environment, packages
from bootstrap.setup.python.accelerate_config import accelerate_config
from bootstrap.setup.python.activation import activation
from bootstrap.setup.python.environment import Recipe
from bootstrap.setup.python.package_pins import Lock
from bootstrap.setup.python.payload import send_payload
from bootstrap.setup.python.rank_environment import cluster_environment
from bootstrap.setup.step_runner import (
    ClusterStep,
    Say,
    SayFor,
    SharedHomes,
    Step,
    StepListener,
    run_steps,
    without_head,
)
from bootstrap.ssh import transfer
from bootstrap.ssh.command import script
from bootstrap.ssh.host import Host
from bootstrap.ssh.host_keys import Pins

# $1: the folder of runs, $2: the lock that a run's supervisor holds, $3: the environment's Python.
# Prints the run that is live, if one is. Who only looks (fab status) holds the lock for an instant.
LIVE = """
[ -e "$2" ] || exit 0
free() {
    if command -v flock >/dev/null; then flock -n "$1" true
    else "$2" -I -c 'import fcntl, sys
fcntl.flock(open(sys.argv[1], "a"), fcntl.LOCK_EX | fcntl.LOCK_NB)' "$1" 2>/dev/null
    fi
}
for try in 1 2 3 4; do free "$2" "$3" && exit 0; sleep 0.5; done
newest=$(ls -t -- "$1"/*/state.json 2>/dev/null | head -n 1)
basename -- "$(dirname -- "${newest:-$1/a-run/state.json}")"
"""


def live_run(head: Host) -> UserError | None:
    """Why nothing may be changed now: a run goes on with what is there."""
    lock = f"{head.layout.runs}/{LOCK}"
    name = head.run(script(LIVE, head.layout.runs, lock, head.python)).stdout.strip()
    if not name:
        return None
    return UserError(
        f"{head.name}: {name} is running on this cluster, and its ranks read what fab bootstrap"
        " would replace. Nothing was changed. fab stop ends it with a checkpoint, and fab train"
        " --resume goes on with it afterwards."
    )


def set_up(
    hosts: Sequence[Host], options: Options, watcher: StepListener, say: Callable[[str], None]
) -> Failures:
    """Examine the nodes, decide what to do, and do it.

    Args:
        hosts: the cluster's nodes, the head first.
        say: told what a person should know of the nodes.

    Returns:
        The nodes that failed, by name.
    """
    facts, failed = examine(hosts, options, watcher)
    if facts is None:
        return failed
    try:
        plan = decide(facts, options)
    except Refused as refused:
        reasons = refused.nodes
        return run_steps(hosts, [ClusterStep("choose", lambda *_: reasons)], watcher, failed)
    homes: SharedHomes = {}
    return run_steps(hosts, steps(plan, hosts, homes, say), watcher, failed, homes)


def examine(
    hosts: Sequence[Host], options: Options, watcher: StepListener
) -> tuple[ClusterFacts | None, Failures]:
    """Ask the nodes what they are; None instead of facts where the head did not say.

    Returns:
        What was found, and the nodes that failed, by name.
    """
    nodes: dict[str, NodeFacts] = {}
    of_head: dict[str, Any] = {}

    def look(host: Host, say: Say) -> None:
        found = gather_facts(host, options.inventory.head.address)
        if host.name == hosts[0].name:
            of_head.update(_ask_head(host, found, options))
        nodes[host.name] = found
        say(f"{found.processor.generation}, {found.cores} cores")

    failed = run_steps(hosts, [Step("examine", look)], watcher)
    if hosts[0].name in failed:
        return None, {host.name: without_head(hosts[0]) for host in hosts} | failed
    in_order = {host.name: nodes[host.name] for host in hosts if host.name in nodes}
    return ClusterFacts(in_order, **of_head), failed


def _ask_head(head: Host, facts: NodeFacts, options: Options) -> dict[str, Any]:
    """What `ClusterFacts` has of the head alone."""
    if live := live_run(head):
        return {"live": live}
    found: dict[str, Any] = {}
    try:
        found["environment"] = environment.installed(head)["environment"]
    except UserError:
        if options.environment == "auto" and options.conda_channel is None:
            found["channel_answers"] = conda.channel_answers(head, facts.conda_python)
    try:
        if facts.conda_python:
            hub_access.refuse_unavailable(
                head, facts.conda_python, options.inputs, options.hub_token
            )
    except UserError as error:
        found["hub"] = error
    return found


def steps(
    plan: Plan, hosts: Sequence[Host], homes: SharedHomes, say: Callable[[str], None]
) -> list[Step | ClusterStep]:
    """What is done for a plan.

    Args:
        hosts: the cluster's nodes, the head first.
        homes: filled by the first steps.
        say: told the plan's notes.
    """

    def chosen(_: Sequence[Host], __: SayFor) -> Failures:
        for note in plan.notes:
            say(note)
        return plan.refused

    def join(hosts: Sequence[Host], say: SayFor) -> Failures:
        inventory = plan.options.inventory
        if inventory.kind == "local":
            cluster_ssh.set_up_single(hosts[0], inventory)
            return {}
        pins = Pins(records(inventory.name).known_hosts)
        keys = {node.name: pins.of(node.name) for node in inventory.nodes}
        return cluster_ssh.set_up(hosts, inventory, keys, say, homes)

    def broadcast(name: str, trees: Callable[[Plan, Host, Say], Iterator[Tree]]) -> ClusterStep:
        """The step that brings to every home what the head makes or fetches."""

        def run(hosts: Sequence[Host], say: SayFor) -> Failures:
            head, *others = (host for host in hosts if host.name not in homes)
            made = trees(plan, head, lambda text: say(head, text))
            try:
                return broadcast_each(made, [head], others, say)
            except UserError as error:
                return {head.name: error} | {host.name: without_head(head) for host in hosts[1:]}

        return ClusterStep(name, run)

    return [
        ClusterStep("choose", chosen),
        *home_sharing.steps(hosts, homes),
        ClusterStep("node-to-node SSH", join),
        broadcast("packages", _package_trees),
        Step("environment", lambda host, say: _make_environment(plan, host, say), each_home=True),
        broadcast("model and pictures", _input_trees),
        Step("settings", lambda host, _: _write_settings(plan, host), each_home=True),
    ]


def _package_trees(plan: Plan, head: Host, say: Say) -> Iterator[Tree]:
    payload, facts = plan.options.payload, plan.nodes[head.name]

    def wheels(lock: Lock, version: str) -> Iterator[str]:
        return packages.fetch(
            head,
            lock,
            python=facts.any_python,
            version=version,
            pip=payload.pip(head),
            package_index=plan.options.package_index,
            say=say,
        )

    yield seal(head, send_payload(head, payload))
    for folder in plan.interpreter.fetch(head, facts, wheels, say):
        yield seal(head, folder)
    recipe = _recipe(plan, head)
    for folder in wheels(recipe.lock, recipe.base.version):
        yield seal(head, folder)


def _recipe(plan: Plan, host: Host) -> Recipe:
    """Of the environment, from what `Interpreter.fetch` brought: the same on every node."""
    base = plan.interpreter.base(host)
    lock = plan.options.lock.for_python(base.version).without(plan.interpreter.replaces)
    wheels = packages.folders_of(host, lock, base.version)
    return Recipe(lock, plan.options.payload, base, wheels)


def _make_environment(plan: Plan, host: Host, say: Say) -> None:
    recipe, facts = _recipe(plan, host), plan.nodes[host.name]
    empty = plan.interpreter.empty_lines(host, facts, recipe.home(host))
    environment.set_up(host, recipe, empty, facts.tcmalloc, say)


def _input_trees(plan: Plan, head: Host, say: Say) -> Iterator[Tree]:
    if plan.options.hub_token:
        model_and_data.store_token(head, plan.options.hub_token)
    for wanted in plan.options.inputs:
        yield model_and_data.fetch_to_head(head, wanted, say)


def _write_settings(plan: Plan, host: Host) -> None:
    found = environment.installed(host)
    inventory = plan.options.inventory
    variables = cluster_environment(
        host.layout.root,
        master_address=inventory.head.address,
        interface=plan.nodes[host.name].interface,
        preload=found["preload"],
        own_libraries=plan.interpreter.own_libraries,
    )
    accelerate = accelerate_config(
        machine_rank=[node.name for node in inventory.nodes].index(host.name),
        num_machines=len(inventory.nodes),
        main_process_ip=inventory.head.address,
        mixed_precision=plan.mixed_precision,
    )
    activate = activation(host.layout.root, variables, found["oneccl_setvars"] or None)
    files = {
        host.layout.accelerate_config: (accelerate.encode(), 0o644),
        host.layout.activate: (activate.encode(), 0o644),
    }
    transfer.put(host, files)
