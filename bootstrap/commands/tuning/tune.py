"""`fab tune`: find out on the head how the nodes train fastest; `fab train` takes it from then on.

Takes fab train's flags: model, pictures, resolution, batch and method decide. On the head short
real trainings are run, some steps each, for --budget seconds in all: engines (native, ipex,
compiled) and precisions first, then more ranks per node as long as that gains, then fewer threads
per rank. --frozen, --mixed-precision and -ppn are tried as given and nothing else in their place.
Memory is watched: what would use it up is ended, or not begun.

The table shows images per second of the node, seconds per image, and the memory of its largest
rank. The fastest is kept on the head, one result per method. fab train takes it where model,
resolution, batch and processors are the same, and says so; flags that are given win, and
`fab train --dry-run` shows what comes of it. Ctrl-C ends the trial, and nothing is kept.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from bootstrap.commands import command_line
from bootstrap.commands.train import refuse_while_training
from bootstrap.errors import UserError
from bootstrap.inventory.inventory import Inventory
from bootstrap.runs import flags, runs_on_head
from bootstrap.runs.drawing import head_program
from bootstrap.runs.flags import TrainOptions
from bootstrap.runs.placement import rank_placement, tuned
from bootstrap.runs.training_inputs import inputs_of
from bootstrap.setup.cluster_lock import cluster_locked
from bootstrap.ssh.host import Host
from bootstrap.terminal import exit_status, say, say_on

MODULE = "training.tune"
LEFT_OUT = ("frozen", "mixed_precision", "save_as_full_pipeline", "checkpointing_steps")
TAKEN = {"inventory", "config", "method", "ppn", "accept_host_keys"}
"""Of fab train's own flags."""

FLAGS = """
  --budget SECONDS      for all trials together [120]; the compiled engine needs ten minutes, as its
                        first trial compiles
  --method METHOD       what is trained [textual_inversion]
  -ppn N                try this number of ranks per node alone
  --frozen, --mixed-precision
                        try this engine, this precision alone
  --config FILE         a TOML file with the training's keys; flags win over it
  --inventory FILE      cluster.json, a nodefile, or local
  --accept-host-keys    pin new host keys without asking
All other flags are the training's: fab train --flags."""


def words(head: Host, asked: TrainOptions, values: dict[str, Any], budget: float) -> list[str]:
    """The program's flags; the file that they name is on the head after this."""
    output = tuned.path(head, asked.method)
    placement = f"{output}.placement"
    head.write(placement, json.dumps(environments(head, asked.method)).encode())
    found = [f"--method={asked.method}", f"--budget={budget:g}", f"--output={output}",
             f"--placement={placement}"]  # fmt: skip
    if asked.training.get("frozen", "auto") != "auto":
        found += ["--frozen", str(asked.training["frozen"])]
    if asked.training.get("mixed_precision", "auto") != "auto":
        found += ["--precision", str(asked.training["mixed_precision"])]
    if "ppn" in asked.own:
        found += ["--ranks", str(asked.own["ppn"])]
    kept = {key: value for key, value in values.items() if key not in LEFT_OUT}
    return [*found, *flags.arguments(kept)]


def environments(head: Host, method: str) -> dict[int, dict[str, str]]:
    """What ranks would have on the head in a training on it alone, by their number."""
    (facts,) = rank_placement.examine([head], head.node.address)
    ccl, preload = rank_placement.uses_ccl(head), rank_placement.preloaded(head)
    more = rank_placement.method_environment(head, method)
    found = {}
    for ranks in range(1, facts.cores + 1):
        (placed,) = rank_placement.place([head], [facts], None, ranks, ccl, preload, method)
        found[ranks] = {**more, **placed.node.environment}
    return found


def tune(asked: TrainOptions, budget: float, hosts: list[Host]) -> int:
    """Try it on the head.

    Raises:
        UserError: a training is going on, or nothing could be measured.
    """
    console, head = Console(stderr=True), hosts[0]
    with cluster_locked(hosts, "fab tune"):
        refuse_while_training(runs_on_head.all_runs(head))
        values = inputs_of(asked, [head], console)
        say_on(console, f"{head.name}: trying what trains fastest, {budget:g} s at most")
        program = words(head, asked, values, budget)
        try:
            head_program.run(head, MODULE, program, lambda line: say_on(console, line))
        finally:
            head.run(["rm", "-f", f"{tuned.path(head, asked.method)}.placement"], check=False)
    say(f"fab train takes this from now on, where no flag says otherwise "
        f"({tuned.path(head, asked.method)} on {head.name})")  # fmt: skip
    return 0


def read(argv: Sequence[str]) -> tuple[argparse.Namespace, TrainOptions]:
    """The command line: its own flags, and fab train's.

    Raises:
        UserError: names all that is wrong with it.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--budget", default="120")
    own, rest = parser.parse_known_args(list(argv))
    try:
        own.budget = float(own.budget)
    except ValueError:
        raise UserError(f"--budget {own.budget}: must be a number of seconds.") from None
    asked = flags.parse(rest)
    if wrong := sorted(asked.own.keys() - TAKEN):
        named = ", ".join(f"--{key.replace('_', '-')}" for key in wrong)
        raise UserError(f"{named}: fab train takes it, fab tune does not.")
    return own, asked


@exit_status()
def main(argv: Sequence[str] | None = None) -> int:
    """`fab tune`."""
    typed = list(sys.argv[1:] if argv is None else argv)
    if any(word in ("-h", "--help") for word in typed):
        say(f"{__doc__}{FLAGS}")
        return 0
    own, asked = read(typed)
    chosen = argparse.Namespace(
        inventory=asked.own.get("inventory", ""),
        accept_host_keys=asked.own.get("accept_host_keys", False),
    )

    def act(chosen: argparse.Namespace, inventory: Inventory, hosts: list[Host]) -> int:
        del chosen, inventory
        return tune(asked, own.budget, hosts)

    return command_line.run_command(
        chosen, act, interrupted="interrupted: the trial is ended on the head, nothing was kept"
    )


if __name__ == "__main__":
    sys.exit(main())
