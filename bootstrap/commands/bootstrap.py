"""Set up every node of the cluster, from bare machines to ones that train.

Nodes come from the selected Pulumi stack, or from --inventory: a file that `pulumi stack output
--json` wrote; a nodefile, one user@host:port per line, the head first (your own machines: no sudo
is needed, ~/.ssh/config and the agent are respected); or `local`, this machine alone, without SSH.
Only the head has to be reachable from here: everything else goes through it, and the head alone
fetches from the internet.

It can be repeated at any time: finished steps are skipped, interrupted ones are completed.
`fab clean` removes all of it from the nodes.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from bootstrap.commands import command_line
from bootstrap.errors import UserError
from bootstrap.inventory import last_inventory
from bootstrap.inventory.inventory import Inventory
from bootstrap.paths import CHECKOUT, ROOT_VARIABLE, records
from bootstrap.runs import idle
from bootstrap.setup.cluster_lock import cluster_locked
from bootstrap.setup.model_and_data import DEFAULT_MODEL, DEFAULT_PICTURES, read_input
from bootstrap.setup.plan import Options
from bootstrap.setup.python import plain_http
from bootstrap.setup.python.package_pins import (
    CONDA,
    EXTRAS,
    ONECCL_PACKAGE,
    STACKS,
    read_lock,
)
from bootstrap.setup.python.payload import make_payload
from bootstrap.setup.setup_progress import step_progress
from bootstrap.setup.setup_steps import set_up
from bootstrap.ssh.host import Host
from bootstrap.ssh.host_keys import ACCEPT_FLAG
from bootstrap.ssh.node_log import log_file
from bootstrap.ssh.open_hosts import BootLog, open_hosts
from bootstrap.terminal import exit_status, say, say_on
from bootstrap.urls import checked

WAIT_SECONDS = 600
EXAMPLES = f"""examples:
  fab bootstrap                                   the stack's nodes, Stable Diffusion 1.5
  fab bootstrap --inventory nodefile --stack upstream
  fab bootstrap --train-data-dir my-pictures      pictures from this machine
  fab bootstrap --inventory local --package-index https://mirror/simple

Where home folders are small, {ROOT_VARIABLE}=/scratch/me puts everything there on the nodes.
A complete log of each node is in .cluster/<cluster>/logs/."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="fab bootstrap",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = made.add_argument
    add("--inventory", default="", metavar="FILE", help="cluster.json, a nodefile, or local")
    add("--stack", choices=STACKS, default="intel",
        help="intel: torch 2.8 with Intel's extension and oneCCL; upstream: current torch and gloo"
             " (default: %(default)s)")  # fmt: skip
    add("--with", dest="extras", action="append", choices=EXTRAS, default=[],
        help="openvino: what fab export, fab generate --engine openvino and fab playground need on"
             " the nodes; give it each time, or the next bootstrap does without")  # fmt: skip
    add("--without-oneccl", action="store_true",
        help="leave out oneCCL's bindings, where Intel's index does not answer: the intel stack"
             " then uses gloo")  # fmt: skip
    add("--environment", choices=("auto", "conda", "venv"), default="auto",
        help="venv needs only a package index; auto: conda where its channel answers")  # fmt: skip
    add("--conda-channel", metavar="URL",
        help="channel in place of conda-forge; - reads the URL from standard input")  # fmt: skip
    add("--package-index", metavar="URL",
        help="index in place of PyPI, PyTorch's and Intel's; - reads the URL from standard input,"
             " which keeps a password out of the shell's history")  # fmt: skip
    add(plain_http.ALLOW_FLAG, action="store_true",
        help="download over http:// also what has no hash in a lock (conda packages, oneCCL's"
             " bindings): whoever controls the network can run code on every node")  # fmt: skip
    add("--pretrained-model-name-or-path", default=DEFAULT_MODEL, metavar="MODEL",
        help="a repository on the hub or a folder here (default: %(default)s)")  # fmt: skip
    add("--revision", help="revision of that repository")
    add("--train-data-dir", default=DEFAULT_PICTURES, metavar="FOLDER",
        help="a folder of pictures here, or a repository on the hub (default: %(default)s)",
        )  # fmt: skip
    add("--hub-token-file", metavar="PATH",
        help="file with a token for gated models (`hf auth login` writes"
             " ~/.cache/huggingface/token); - reads it from standard input. The head keeps it in a"
             " file that only its owner can read",
        )  # fmt: skip
    add("--wait", type=float, default=WAIT_SECONDS, metavar="SECONDS",
        help="how long a node may take to answer (default: %(default)s)")  # fmt: skip
    add(ACCEPT_FLAG, action="store_true", help="pin new host keys without asking, for scripts")
    return made


@exit_status(interrupted="interrupted; repeat the command to continue")
def main(argv: Sequence[str] | None = None, boot_log: BootLog | None = None) -> int:
    """`fab bootstrap`; 1 when a node failed.

    Args:
        argv: the command line.
        boot_log: says what host keys the machines' boot logs name, where those can be read.
    """
    chosen = parser().parse_args(argv)
    console = Console()
    begun = time.monotonic()
    inventory, chosen.inventory = last_inventory.to_set_up(chosen.inventory)
    options = _options(chosen, inventory, console)
    last_inventory.remember(chosen.inventory)
    waits: set[str] = set()

    def on_wait(text: str) -> None:
        if text not in waits:
            waits.add(text)
            say_on(console, f"waiting up to {chosen.wait:.0f} s: {text}")

    opened = open_hosts(
        inventory,
        command_line.question_of(chosen),
        wait_seconds=chosen.wait,
        boot_log=boot_log,
        on_wait=on_wait,
    )
    with opened as hosts, _one_at_a_time(hosts), step_progress(hosts, console) as watcher:
        failed = set_up(hosts, options, watcher, lambda text: say_on(console, text))
        if hosts[0].name not in failed:
            idle.follow_config(hosts[0], inventory)
    return _report(inventory, failed, time.monotonic() - begun, console, chosen.inventory)


def _one_at_a_time(hosts: Sequence[Host]) -> contextlib.AbstractContextManager[None]:
    return (
        contextlib.nullcontext() if hosts[0].unreachable else cluster_locked(hosts, "fab bootstrap")
    )


def _options(chosen: argparse.Namespace, inventory: Inventory, console: Console) -> Options:
    lock = read_lock(CHECKOUT, chosen.stack, tuple(dict.fromkeys(chosen.extras)))
    if chosen.without_oneccl:
        lock = lock.without([ONECCL_PACKAGE])
        say_on(console, "oneCCL's bindings are left out: ranks on several nodes use gloo.")
    index = _url("--package-index", chosen.package_index)
    channel = _url("--conda-channel", chosen.conda_channel)
    if not chosen.allow_http:
        plain_http.refuse(lock, index, channel)
    wanted = [
        read_input("model", chosen.pretrained_model_name_or_path, chosen.revision),
        read_input("pictures", chosen.train_data_dir),
    ]
    return Options(
        inventory=inventory,
        lock=lock,
        payload=make_payload(CHECKOUT, records(inventory.name).folder.absolute()),
        environment=chosen.environment,
        conda_lock=read_lock(CHECKOUT, CONDA),
        conda_channel=channel,
        package_index=index,
        inputs=wanted,
        hub_token=_hub_token(chosen.hub_token_file),
    )


def _url(flag: str, given: str | None) -> str | None:
    """The URL that a flag gives; "-": a line of standard input, for one with a password."""
    if given is None:
        return None
    url = sys.stdin.readline().strip() if given == "-" else given
    return checked(flag, url, ("https", "http", "file"))


def _hub_token(source: str | None) -> str | None:
    if source is None:
        return None
    try:
        token = sys.stdin.readline() if source == "-" else Path(source).expanduser().read_text()
    except OSError as error:
        raise UserError(f"--hub-token-file {source}: {error.strerror}.") from error
    if not token.strip():
        raise UserError(f"--hub-token-file {source}: there is no token in it.")
    return token.strip()


def _report(
    inventory: Inventory,
    failed: dict[str, UserError],
    seconds: float,
    console: Console,
    where: str,
) -> int:
    logs = records(inventory.name).logs
    for name, error in failed.items():
        say(f"error: {error}\n    (log: {log_file(logs, name)})", error=True)
    ready = [node.name for node in inventory.nodes if node.name not in failed]
    count = f"{len(ready)} of {len(inventory.nodes)}"
    say_on(console, f"{count} nodes are ready after {seconds:.0f} s.")
    if failed:
        say("Repeat the command to continue.", error=True)
        return 1
    say_on(console, f"Next: {command_line.typed('train', where)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
