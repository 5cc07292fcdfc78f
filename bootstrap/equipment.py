"""What bootstrap puts on the nodes, as steps: from bare hosts to an environment with its inputs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bootstrap import conda, environment, inputs, packages, readiness
from bootstrap.accelerate_config import accelerate_config, write_accelerate_config
from bootstrap.activation import activation, write_activation
from bootstrap.cluster_environment import MASTER_PORT, cluster_environment
from bootstrap.errors import UserError
from bootstrap.handout import Tree, hand_out, seal
from bootstrap.hosts import Host
from bootstrap.inputs import Input
from bootstrap.kit import Kit, make_kit, send_kit
from bootstrap.lock import read_lock
from bootstrap.probe import Probe, probe
from bootstrap.steps import Say, SayFor, Step, Together

ENVIRONMENTS = ("auto", "conda", "venv")
PROBE = "probe.json"
HEAD_PROBLEM = "waits for the head, which cannot be used (see its own message)"


@dataclass(frozen=True)
class Wanted:
    """What a person asked for.

    Attributes:
        checkout: the project's folder.
        records: the cluster's folder on the person's machine.
        head_address: the head's private address.
        stack: "intel" or "upstream".
        environment: "conda", "venv" or "auto": conda where its channel answers.
        package_index: asked instead of every index that the lock names; None: those.
        inputs: base model and pictures.
        hub_token: for the hub; None: without.
        master_port: where the ranks meet on the head.
    """

    checkout: Path
    records: Path
    head_address: str
    stack: str = "intel"
    environment: str = "auto"
    package_index: str | None = None
    inputs: tuple[Input, ...] = (
        Input("model", inputs.DEFAULT_MODEL),
        Input("pictures", inputs.DEFAULT_PICTURES),
    )
    hub_token: str | None = field(default=None, repr=False)
    master_port: int = MASTER_PORT


class Equipment:
    """The steps, and what they find out on the way.

    Attributes:
        probes: by node, what it was found to be.
        warnings: what the person should be told.
    """

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        self.lock = read_lock(wanted.checkout, wanted.stack)
        self.probes: dict[str, Probe] = {}
        self.warnings: list[str] = []
        self._conda = False
        self._plan: environment.Plan | None = None
        self._kit: Kit | None = None
        self._trees: list[Tree] = []
        self._names: list[str] = []

    def first_steps(self) -> list[Step | Together]:
        """Look at the nodes, and refuse what will not do. They need nothing of each other yet."""
        return [
            Step("look at the node", self._look),
            Together("check the cluster", self._check),
        ]

    def later_steps(self) -> list[Step | Together]:
        """Everything else; the nodes reach each other over the cluster's own ssh by now."""
        return [
            Step("fetch packages", self._fetch, only="head"),
            Together("hand out packages", self._hand_out),
            Step("environment", self._environment),
            Step("model and pictures", self._inputs, only="head"),
            Together("hand out model and pictures", self._hand_out),
            Step("configuration", self._configure),
        ]

    @property
    def plan(self) -> environment.Plan:
        """What the environments are made of; known once the cluster was checked."""
        assert self._plan is not None
        return self._plan

    def _look(self, host: Host, say: Say) -> None:
        found = probe(host, self.wanted.head_address)
        self.probes[host.name] = found
        say(f"{found.processor.generation}, {found.processor.abilities}, {found.cores} cores")

    def _check(self, hosts: Sequence[Host], say: SayFor) -> dict[str, UserError]:
        self._names = [host.name for host in hosts]
        head = hosts[0]
        choice = self.wanted.environment
        self._conda = choice == "conda" or (choice == "auto" and conda.channel_answers(head))
        failed = {}
        for host in hosts:
            known = host.run(["test", "-d", host.layout.envs], check=False).exit_code == 0
            found = readiness.refusals(
                host.name,
                self.probes[host.name],
                stack=self.wanted.stack,
                root=host.layout.root,
                conda=self._conda,
                equipped=known,
            )
            if found:
                failed[host.name] = UserError("\n".join(found))
        fit = [host for host in hosts if host.name not in failed]
        if head.name in failed:
            return failed | {host.name: UserError(HEAD_PROBLEM) for host in fit}
        probes = {host.name: self.probes[host.name] for host in fit}
        self.warnings = readiness.warnings(probes, stack=self.wanted.stack)
        version = conda.PYTHON if self._conda else readiness.common_python(probes)
        self._kit = make_kit(self.wanted.checkout, self.wanted.records)
        wheels = packages.folder_of(head, self.lock, version)
        self._plan = environment.Plan(self.lock, self._kit, self._conda, version, wheels)
        return failed

    def _fetch(self, head: Host, say: Say) -> None:
        plan = self.plan
        self._trees = [seal(head, send_kit(head, plan.kit))]
        if self._conda:
            self._trees.append(seal(head, conda.fetch(head, say)))
            python = f"{conda.conda_home(head)}/bin/python"
        else:
            python = self._python(head)
        folder = packages.fetch(
            head,
            plan.lock,
            python=python,
            version=plan.version,
            pip=plan.kit.pip(head),
            package_index=self.wanted.package_index,
            say=say,
        )
        self._trees.append(seal(head, folder))

    def _hand_out(self, hosts: Sequence[Host], say: SayFor) -> dict[str, UserError]:
        head, *others = (host for host in hosts if host.shares_home_of is None)
        failed: dict[str, UserError] = {}
        for tree in self._trees:
            left = [host for host in others if host.name not in failed]
            failed |= hand_out(tree, [head], left, say)
        return failed

    def _environment(self, host: Host, say: Say) -> None:
        if host.shares_home_of:
            say(f"its home folder is {host.shares_home_of}'s")
            return
        home = self.plan.home(host)
        empty = (
            conda.empty_lines(host, home)
            if self._conda
            else environment.venv_lines(self._python(host), home)
        )
        environment.set_up(host, self.plan, empty, self.probes[host.name].tcmalloc, say)

    def _inputs(self, head: Host, say: Say) -> None:
        if self.wanted.hub_token:
            inputs.store_token(head, self.wanted.hub_token)
        self._trees = [inputs.bring(head, each, say) for each in self.wanted.inputs]

    def _configure(self, host: Host, say: Say) -> None:
        """This node's own files; they are small, and written each time."""
        found = self.probes[host.name]
        host.write(
            f"{host.layout.cluster}/{PROBE}", found.model_dump_json(indent=1).encode(), mode=0o644
        )
        if host.shares_home_of:
            return
        installed = environment.installed(host)
        probes = {name: self.probes[name] for name in self._names}
        text = accelerate_config(
            machine_rank=self._names.index(host.name),
            num_machines=len(self._names),
            main_process_ip=self.wanted.head_address,
            main_process_port=self.wanted.master_port,
            mixed_precision=readiness.mixed_precision(probes),
        )
        write_accelerate_config(host, text)
        variables = cluster_environment(
            host.layout.root,
            master_address=self.wanted.head_address,
            master_port=self.wanted.master_port,
            interface=found.interface,
            preload=installed["preload"],
            conda=self._conda,
        )
        setvars = installed["oneccl_setvars"] or None
        write_activation(host, activation(host.layout.root, variables, setvars))

    def _python(self, host: Host) -> str:
        return readiness.python_of(self.probes[host.name], self.plan.version).path


def read_probe_of(host: Host) -> Probe:
    """What a node was found to be when it was set up.

    Raises:
        UserError: it was not.
    """
    return Probe.model_validate(json.loads(host.read(f"{host.layout.cluster}/{PROBE}")))
