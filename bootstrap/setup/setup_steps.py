"""The steps from a bare node to one that trains, in order; each leaves alone what is done.

The head fetches from the internet; inside the cluster, what it fetched and what the person sent is
copied from node to node. Everything is made from files on a node's own disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from bootstrap.errors import UserError
from bootstrap.inventory.inventory import Inventory
from bootstrap.node.run_state import LOCK
from bootstrap.paths import records
from bootstrap.setup import (
    cluster_ssh,
    home_sharing,
    hub_access,
    model_and_data,
    node_requirements,
)
from bootstrap.setup.broadcast import Tree, broadcast_each, seal
from bootstrap.setup.model_and_data import Input
from bootstrap.setup.node_facts import NodeFacts, gather_facts
from bootstrap.setup.python import conda, environment, packages
from bootstrap.setup.python.accelerate_config import accelerate_config
from bootstrap.setup.python.activation import activation
from bootstrap.setup.python.environment import Plan
from bootstrap.setup.python.package_pins import Lock
from bootstrap.setup.python.payload import Payload, send_payload
from bootstrap.setup.python.rank_environment import cluster_environment
from bootstrap.setup.step_runner import ClusterStep, Say, SayFor, Step, without_head
from bootstrap.ssh import transfer
from bootstrap.ssh.command import script
from bootstrap.ssh.host import Host
from bootstrap.ssh.host_keys import Pins

Failures = dict[str, UserError]

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


@dataclass
class NodeSetup:
    """What the steps share.

    Attributes:
        inventory: the cluster.
        lock: of the stack.
        payload: the checkout's own code.
        environment: "auto", "conda" or "venv".
        conda_lock: of what makes conda environments.
        conda_channel: None: conda-forge's own.
        package_index: asked in place of all that the lock names; None: those.
        wanted: the model and the pictures.
        hub_token: None: none is sent.
        say: told what a person should know of the nodes.
    """

    inventory: Inventory
    lock: Lock
    payload: Payload
    environment: str
    conda_lock: Lock
    conda_channel: str | None
    package_index: str | None
    wanted: Sequence[Input]
    hub_token: str | None
    say: Callable[[str], None]
    facts: dict[str, NodeFacts] = field(default_factory=dict)
    by_conda: bool = False
    conda_packages: conda.Packages | None = None
    plan: Plan | None = None

    def steps(self, hosts: Sequence[Host]) -> list[Step | ClusterStep]:
        """All of them; `hosts` are the cluster's nodes, the head first."""
        return [
            Step("examine", self._examine),
            ClusterStep("choose", self._choose),
            *home_sharing.steps(hosts),
            ClusterStep("node-to-node SSH", self._join),
            ClusterStep("packages", self._packages),
            Step("environment", self._make_environment, each_home=True),
            ClusterStep("model and pictures", self._inputs),
            Step("settings", self._settings, each_home=True),
        ]

    @property
    def head_address(self) -> str:
        """Where the ranks meet."""
        return self.inventory.head.address

    def _examine(self, host: Host, say: Say) -> None:
        self.facts[host.name] = found = gather_facts(host, self.head_address)
        say(f"{found.processor.generation}, {found.cores} cores")

    def _choose(self, hosts: Sequence[Host], say: SayFor) -> Failures:
        head = hosts[0]
        live = live_run(head)
        if live:
            return {head.name: live} | {
                host.name: UserError(f"{host.name}: left as it is, for the same reason")
                for host in hosts[1:]
            }
        self.by_conda = self._by_conda(head)
        failed: Failures = {}
        for host in hosts:
            there = host.exists(host.layout.env)
            refused = node_requirements.refusals(
                host.name,
                self.facts[host.name],
                stack=self.lock.stack,
                root=host.layout.root,
                conda=self.by_conda,
                equipped=there,
            )
            if host.layout.root != head.layout.root:
                refused.append(
                    f"{host.name}: its home is not where the head's is ({host.layout.root}, not"
                    f" {head.layout.root}): set XEON_DIFFUSION_ROOT to a folder that all have."
                )
            if refused:
                failed[host.name] = UserError("\n".join(refused))
        left = {host.name: self.facts[host.name] for host in hosts if host.name not in failed}
        if head.name in left:
            try:
                hub_access.refuse_unavailable(
                    head, self._conda_python(head), self.wanted, self.hub_token
                )
            except UserError as error:
                return failed | {head.name: error}
            if not self.by_conda:
                self.plan = self._plan_of(
                    head, self.lock, node_requirements.common_python(left), None
                )
            self._tell(left)
        return failed

    def _plan_of(self, head: Host, lock: Lock, version: str, by_conda: str | None) -> Plan:
        wheels = packages.folders_of(head, lock, version)
        return Plan(lock, self.payload, by_conda, version, wheels)

    def _by_conda(self, head: Host) -> bool:
        if self.environment != "auto":
            return self.environment == "conda"
        if self.conda_channel is not None:
            return True
        try:  # What was chosen once is kept: changing it would build everything anew.
            return bool(environment.installed(head)["environment"] == "conda")
        except UserError:
            return conda.channel_answers(head, self.facts[head.name].conda_python, conda.CHANNEL)

    def _tell(self, facts: dict[str, NodeFacts]) -> None:
        for name, found in facts.items():
            self.say(
                f"{name}: {found.processor.generation} ({found.processor.abilities}),"
                f" {found.cores} cores, {found.memory / 2**30:.0f} GiB, {found.system}"
            )
        for warning in node_requirements.warnings(facts, stack=self.lock.stack):
            self.say(f"warning: {warning}")

    def _join(self, hosts: Sequence[Host], say: SayFor) -> Failures:
        if self.inventory.kind == "local":
            cluster_ssh.set_up_single(hosts[0], self.inventory)
            return {}
        pins = Pins(records(self.inventory.name).known_hosts)
        keys = {node.name: pins.of(node.name) for node in self.inventory.nodes}
        return cluster_ssh.set_up(hosts, self.inventory, keys, say)

    def _packages(self, hosts: Sequence[Host], say: SayFor) -> Failures:
        return _broadcast(
            self._package_trees(hosts[0], lambda text: say(hosts[0], text)), hosts, say
        )

    def _package_trees(self, head: Host, say: Say) -> Iterator[Tree]:
        yield seal(head, send_payload(head, self.payload))
        if self.by_conda:
            yield from self._conda_trees(head, say)
        plan = self._planned()
        yield from self._wheel_trees(head, plan.lock, plan.version, say)

    def _conda_trees(self, head: Host, say: Say) -> Iterator[Tree]:
        """What makes conda environments, and their packages; the plan goes by what these are."""
        yield from self._wheel_trees(head, self.conda_lock, conda.WHEEL_PYTHON, say)
        channel = self.conda_channel or conda.CHANNEL
        self.conda_packages = conda.fetch(
            head, self.payload, self._conda_python(head), self._conda_wheels(head), channel, say
        )
        yield seal(head, self.conda_packages.folder)
        lock = self.lock.without(conda.REPLACED)
        found = self.conda_packages
        self.plan = self._plan_of(head, lock, found.python, found.digest)

    def _wheel_trees(self, head: Host, lock: Lock, version: str, say: Say) -> Iterator[Tree]:
        for folder in packages.fetch(
            head,
            lock,
            python=self._conda_python(head),
            version=version,
            pip=self.payload.pip(head),
            package_index=self.package_index,
            say=say,
        ):
            yield seal(head, folder)

    def _conda_python(self, host: Host) -> str:
        conda_python = self.facts[host.name].conda_python
        assert conda_python is not None, "a node without one has been refused"
        return conda_python

    def _conda_wheels(self, host: Host) -> str:
        (folder,) = packages.folders_of(host, self.conda_lock, conda.WHEEL_PYTHON)
        return folder

    def _make_environment(self, host: Host, say: Say) -> None:
        plan = self._planned()
        found, home = self.facts[host.name], plan.home(host)
        empty: Sequence[Sequence[str] | str]
        if self.conda_packages:
            payload = f"{self.payload.path(host)}/{self.payload.wheel}"
            wheels, folder = self._conda_wheels(host), self.conda_packages.folder
            empty = conda.install_lines(payload, self._conda_python(host), wheels, folder, home)
        else:
            python = node_requirements.python_of(found, plan.version).path
            empty = environment.venv_lines(python, home)
        environment.set_up(host, plan, empty, found.tcmalloc, say)

    def _inputs(self, hosts: Sequence[Host], say: SayFor) -> Failures:
        return _broadcast(self._input_trees(hosts[0], lambda text: say(hosts[0], text)), hosts, say)

    def _input_trees(self, head: Host, say: Say) -> Iterator[Tree]:
        if self.hub_token:
            model_and_data.store_token(head, self.hub_token)
        for wanted in self.wanted:
            yield model_and_data.fetch_to_head(head, wanted, say)

    def _settings(self, host: Host, say: Say) -> None:
        del say
        found = environment.installed(host)
        ranks = {node.name: rank for rank, node in enumerate(self.inventory.nodes)}
        variables = cluster_environment(
            host.layout.root,
            master_address=self.head_address,
            interface=self.facts[host.name].interface,
            preload=found["preload"],
            conda=found["environment"] == "conda",
        )
        accelerate = accelerate_config(
            machine_rank=ranks[host.name],
            num_machines=len(self.inventory.nodes),
            main_process_ip=self.head_address,
            mixed_precision=node_requirements.mixed_precision(self.facts),
        )
        script_text = activation(host.layout.root, variables, found["oneccl_setvars"] or None)
        files = {
            host.layout.accelerate_config: (accelerate.encode(), 0o644),
            host.layout.activate: (script_text.encode(), 0o644),
        }
        transfer.put(host, files)

    def _planned(self) -> Plan:
        assert self.plan is not None, "nothing was chosen"
        return self.plan


def _broadcast(trees: Iterator[Tree], hosts: Sequence[Host], say: SayFor) -> Failures:
    """Bring to every home what the head makes or fetches."""
    head, *others = home_sharing.own_homes(hosts)
    try:
        return broadcast_each(trees, [head], others, say)
    except UserError as error:
        return {head.name: error} | {host.name: without_head(head) for host in hosts[1:]}
