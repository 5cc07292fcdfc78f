"""`fab train`: start a training on the cluster, and watch it.

With no flags it teaches <dicoo> from five pictures in 200 steps, on every node. Flags are the
training's own (`--flags` lists them); what is not given stays as in that run. `--config dicoo.toml`
takes them from a file instead; what is not in it has the training's own defaults.

The run goes on without you: Ctrl-C or a lost connection detaches, `fab logs` attaches again,
`fab status` looks, `fab stop` ends it with a checkpoint, `fab train --resume` goes on. When ranks,
nodes or the network die, it goes on by itself from its last checkpoint on the nodes that still
answer.
"""

from __future__ import annotations

import argparse
import contextlib
import shlex
import sys
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from rich.console import Console

from bootstrap.commands import command_line
from bootstrap.errors import UserError
from bootstrap.inventory.inventory import Inventory
from bootstrap.node import mpi, run_state
from bootstrap.node.job import FILE_NAME, METHOD, QUANTIZE, Job
from bootstrap.runs import (
    attach,
    deallocation,
    flags,
    results_owner,
    resume,
    runs_on_head,
)
from bootstrap.runs.flags import TrainOptions
from bootstrap.runs.placement import rank_placement, tuned
from bootstrap.runs.placement.core_pinning import too_little_memory
from bootstrap.runs.placement.rank_placement import NodePlacement
from bootstrap.runs.placement.tuned import Tuned
from bootstrap.runs.run_names import check_name, free_name
from bootstrap.runs.training_inputs import PICTURES, inputs_of, inputs_of_resumed
from bootstrap.setup.cluster_lock import cluster_locked
from bootstrap.setup.node_facts import NodeFacts
from bootstrap.setup.python.rank_environment import MASTER_PORT
from bootstrap.ssh.host import Host
from bootstrap.terminal import exit_status, say, say_on

START_SECONDS = 60.0


def answering(hosts: Sequence[Host], minimum: int, console: Console) -> list[Host]:
    """The nodes that answer; the others are named.

    Raises:
        UserError: they are fewer than asked for.
    """
    for host in hosts:
        if host.unreachable is not None:
            say_on(console, f"left out: {host.unreachable}")
    there = [host for host in hosts if host.unreachable is None]
    if len(there) < minimum:
        raise UserError(
            f"{len(there)} of {len(hosts)} nodes answer; at least {minimum} are required."
        )
    return there


def refuse_while_training(runs: Sequence[dict[str, Any]]) -> None:
    """Raises UserError where a run is going on."""
    for run in runs:
        if run_state.is_live(run["state"]):
            raise UserError(
                f"{run['name']} is {run['state']['phase']} on this cluster. fab logs attaches to "
                "it, fab stop ends it with a checkpoint."
            )


def refuse_taken(name: str, runs: Sequence[dict[str, Any]], overwrite: bool) -> None:
    """Raises UserError where the name of a new run is another's, on the head or here."""
    if not overwrite and name in {run["name"] for run in runs}:
        raise UserError(
            f"--run {name}: the head holds a run of that name. Resume it: fab train --resume "
            f"--run {name}; start it afresh: --overwrite-output-dir; or choose another name."
        )
    results_owner.refuse_taken(name)


def make_job(
    asked: TrainOptions,
    inventory: Inventory,
    hosts: Sequence[Host],
    placed: Sequence[NodePlacement],
    name: str,
    values: dict[str, Any],
) -> Job:
    """The job that the supervisor is given."""
    head, own = hosts[0], asked.own
    values = {**values, "output_dir": head.layout.run(name)}
    afterwards = deallocation.command(head, inventory) if own.get("then_pause") else ()
    own_environment = rank_placement.method_environment(head, asked.method)
    environment = {"MASTER_ADDR": head.node.address, **own_environment}
    return Job(
        name=name,
        root=head.layout.root,
        nodes=tuple(each.node for each in placed),
        arguments=flags.arguments(values),
        environment=environment,
        ssh=head.layout.ssh if len(hosts) > 1 else None,
        resume=bool(own.get("resume")),
        minimum_nodes=own.get("minimum_nodes", 1),
        tries=own.get("tries", 3),
        afterwards=afterwards,
        method=asked.method,
    )


def describe(job: Job, placed: Sequence[NodePlacement], head: Host) -> str:
    """What would be started, for people."""
    more = ["--resume_from_checkpoint=latest"] if job.resume else []
    nodefile = f"{job.folder}/nodefile"
    words = mpi.command(job, job.nodes, nodefile, MASTER_PORT, more)
    activation = head.text_of(head.layout.activate).strip()
    parts = [
        "# placement", rank_placement.shown(placed),
        f"# {nodefile}", mpi.nodefile_text(job.nodes).strip(),
        f"# environment: {head.layout.activate}, and what the command sets",
        activation or f"export PATH={shlex.quote(head.layout.env)}/bin:$PATH",
        "# command (MASTER_PORT is chosen free at each start)", mpi.shown(words),
    ]  # fmt: skip
    return "\n".join(parts)


def start(head: Host, job: Job) -> None:
    """Start a job's supervisor, detached, which writes the job where none is going on.

    Raises:
        UserError: it did not start; says why.
    """
    path = f"{job.folder}/{FILE_NAME}"
    words = [head.python, "-P", "-m", "bootstrap.node.supervisor", path, "--given", "--detach"]
    finished = head.run(words, stdin=job.text().encode(), timeout=START_SECONDS, check=False)
    if finished.exit_code != 0:
        said = (finished.stderr or finished.stdout).strip()
        raise UserError(f"{head.name}: {said.removeprefix('error: ')}")


def train(asked: TrainOptions, inventory: Inventory, hosts: list[Host]) -> int:
    """Start what was asked for, or print it.

    Raises:
        UserError: it cannot be started.
    """
    console, own = Console(stderr=True), asked.own
    hosts = answering(hosts, own.get("minimum_nodes", 1), console)
    head = hosts[0]
    with cluster_locked(hosts, "fab train") if not own.get("dry_run") else contextlib.nullcontext():
        job, placed = _prepare(asked, inventory, hosts, console)
        if own.get("dry_run"):
            say(describe(job, placed, head))
            return 0
        start(head, job)
    say_on(console, f"{job.name}: started on {head.name}, in {job.folder}")
    if own.get("detach"):
        say_on(console, "fab logs attaches, fab status looks, fab stop ends it.")
        return 0
    return attach.attach(head, inventory.name, job.name, console)


def _prepare(
    asked: TrainOptions, inventory: Inventory, hosts: Sequence[Host], console: Console
) -> tuple[Job, list[NodePlacement]]:
    head, own = hosts[0], asked.own
    runs = runs_on_head.all_runs(head)
    refuse_while_training(runs)
    ccl = rank_placement.uses_ccl(head)
    if asked.method == QUANTIZE:
        rank_placement.refuse_without_nncf(hosts)
    if own.get("resume"):
        name, method, values = resume.find(hosts, own.get("run", ""))
        if method != asked.method:
            raise UserError(f"{name} is a run of {method}: go on with it with --method {method}.")
        values = inputs_of_resumed(asked, values, hosts, console, send=not own.get("dry_run"))
    else:
        word = flags.REFERENCE[flags.WORD] if asked.method == METHOD else asked.method
        token = asked.training.get(flags.WORD, word)
        if token == flags.AUTO:  # the words are on the nodes: it is called like their folder
            token = PurePath(asked.training.get(PICTURES, "words")).name
        name = check_name(own["run"]) if "run" in own else free_name(token, runs)
        refuse_taken(name, runs, bool(asked.training.get("overwrite_output_dir")))
        values = inputs_of(asked, hosts, console, send=not own.get("dry_run"))
    facts = rank_placement.examine(hosts, inventory.head.address)
    found = None if own.get("resume") else _tuned(asked, head, values, facts, console)
    ppn, threads = own.get("ppn"), None
    if found is not None:
        values = tuned.take(found, asked.training, values)
        if "n" not in own and ppn is None:
            ppn, threads = found.ranks, found.threads
    placed = rank_placement.place(
        hosts, facts, own.get("n"), ppn, ccl, rank_placement.preloaded(head), asked.method,
        threads,
    )  # fmt: skip
    for each in placed:
        warning = too_little_memory(each.machine, each.node.ranks, asked.method)
        if warning:
            say_on(console, f"warning: {warning}")
    return make_job(asked, inventory, hosts, placed, name, values), placed


def _tuned(
    asked: TrainOptions,
    head: Host,
    values: dict[str, Any],
    facts: Sequence[NodeFacts],
    console: Console,
) -> Tuned | None:
    """What `fab tune` found, where it holds for this training; says so."""
    found = tuned.read(head, asked.method)
    if found is None:
        return None
    if unlike := tuned.unlike(found, values, facts):
        say_on(console, f"what fab tune found is not taken: it is of {unlike}")
        return None
    say_on(console, f"from fab tune, where no flag says otherwise: {found}")
    return found


@exit_status()
def main(argv: Sequence[str] | None = None) -> int:
    """`fab train`."""
    words = list(sys.argv[1:] if argv is None else argv)
    if any(word in ("-h", "--help", "--flags") for word in words):
        about = __doc__ if "--flags" not in words else ""
        say(f"{about}\n{flags.described(flags.method_in(words))}")
        return 0
    asked = flags.parse(words)
    chosen = argparse.Namespace(
        inventory=asked.own.get("inventory", ""),
        accept_host_keys=asked.own.get("accept_host_keys", False),
    )
    return command_line.run_command(
        chosen, lambda _, inventory, hosts: train(asked, inventory, hosts), all_nodes=True,
        interrupted=attach.GOES_ON,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
