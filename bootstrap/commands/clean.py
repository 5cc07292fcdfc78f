"""Remove from the nodes what `fab bootstrap` and `fab train` have put there, and nothing else.

That is the folder ~/.xeon-diffusion (environment, models, pictures, runs and their results), one
line of ~/.ssh/authorized_keys and, with idle_minutes, one of the head's crontab. Packages of the
system were never touched. `fab fetch` brings results home first; `fab destroy` is for machines in
Azure that should be gone altogether.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence

from bootstrap.commands import command_line
from bootstrap.errors import UserError
from bootstrap.inventory.inventory import Inventory
from bootstrap.inventory.last_inventory import inventory_to_remove
from bootstrap.runs import idle
from bootstrap.setup import cluster_ssh
from bootstrap.setup.cluster_lock import cluster_locked
from bootstrap.setup.setup_progress import step_progress
from bootstrap.setup.step_runner import Say, Step, run_steps
from bootstrap.ssh.command import script
from bootstrap.ssh.host import Host
from bootstrap.ssh.host_keys import ACCEPT_FLAG
from bootstrap.ssh.open_hosts import open_hosts
from bootstrap.terminal import exit_status, say

# Standard input: the root, so that no process's words hold it on our account. Prints who runs.
LIVE = """
read -r root
for words in /proc/[0-9]*/cmdline; do
  pid=${words#/proc/}; pid=${pid%/cmdline}
  [ -O "/proc/$pid" ] || continue
  grep -aqsF -- "$root/" "$words" && echo "$pid $(tr '\\0' ' ' < "$words" | cut -c1-100)"
done
:
"""
# $1: the folder of runs; only folders in it are runs.
RUNS = """
cd -- "$1" 2>/dev/null || exit 0
for run in */; do [ ! -d "$run" ] || printf '%s\\n' "${run%/}"; done
"""
# $1: the root, whose name is ours. What pip and conda made read-only goes too. The lock that this
# command holds stays for as long, so that nobody begins anew before all nodes are through.
REMOVE = """
[ -d "$1" ] || exit 0
all() { find "$root" -mindepth 1 -maxdepth 1 ! -name 'setup.l*' -exec "$@" {} +; }
root=$1
all rm -rf -- 2>/dev/null || { all chmod -R u+w --; all rm -rf --; }
rmdir -- "$1" 2>/dev/null || :
"""


def live_processes(host: Host) -> list[str]:
    """What runs on a node out of our folder: a line each."""
    found = host.run(["sh", "-c", LIVE], stdin=f"{host.layout.root}\n".encode())
    return found.stdout.splitlines()


def runs_on(host: Host) -> list[str]:
    """The names of the runs whose results lie on a node."""
    return host.run(script(RUNS, host.layout.runs)).stdout.splitlines()


def refuse_while_live(hosts: Sequence[Host]) -> None:
    """Raises UserError where something of ours is running."""
    busy = [
        f"  {host.name}: {line}" for host in hosts if not host.unreachable
        for line in live_processes(host)
    ]  # fmt: skip
    if busy:
        raise UserError(
            "A run is going on; nothing was removed. `fab stop` ends it with a checkpoint.\n"
            + "\n".join(busy)
        )


def remove(host: Host, inventory: Inventory, say: Say) -> None:
    """Remove everything of ours from one node."""
    idle.stop(host)
    if inventory.kind != "local":
        cluster_ssh.remove(host, inventory)
    say(f"removing {host.layout.root}")
    host.run(script(REMOVE, host.layout.root))


def clean(inventory: Inventory, hosts: Sequence[Host], sure: bool, where: str = "") -> int:
    """Ask, then remove, and say what is gone; 1 where a node failed or does not answer.

    Args:
        where: --inventory as it was given, for the command that removes the rest.

    Raises:
        UserError: no node answers, or nothing may be removed.
    """
    answering = [host for host in hosts if not host.unreachable]
    if not answering:
        problems = "\n".join(str(host.unreachable) for host in hosts)
        raise UserError(f"no node answers; nothing was removed.\n{problems}")
    with cluster_locked(answering, "fab clean", gone=True):
        failed = _clean(inventory, hosts, answering, sure)
    for error in failed.values():
        say(f"error: {error}", error=True)
    say(f"clean: {_names(host for host in hosts if host.name not in failed)}")
    if failed:
        left = _names(host for host in hosts if host.name in failed)
        say(
            f"not clean: {left}. When that is fixed, continue with:"
            f" {command_line.typed('clean', where)}"
        )
    return 1 if failed else 0


def _clean(
    inventory: Inventory, hosts: Sequence[Host], answering: Sequence[Host], sure: bool
) -> dict[str, UserError]:
    refuse_while_live(hosts)
    runs = sorted({name for host in answering for name in runs_on(host)})
    say(f"This removes {answering[0].layout.root} from: {_names(answering)}")
    if len(answering) < len(hosts):
        say(f"Not from these, which do not answer: {_names(h for h in hosts if h.unreachable)}")
    if runs:
        say(
            "The results of these runs are removed too (fab fetch copies them here):"
            f" {', '.join(runs)}"
        )
    if not sure and not _agreed():
        raise UserError("Nothing was removed.")
    with step_progress(hosts) as watcher:
        step = Step("clean", lambda host, say: remove(host, inventory, say))
        return run_steps(hosts, [step], watcher)


def _names(hosts: Iterable[Host]) -> str:
    return ", ".join(host.name for host in hosts) or "none"


def _agreed() -> bool:
    if not sys.stdin.isatty():
        raise UserError("There is no terminal to ask in: pass --yes. Nothing was removed.")
    return input("Remove it? [yes/no] ").strip().lower() == "yes"


@exit_status()
def main(argv: Sequence[str] | None = None) -> int:
    """`fab clean`."""
    parser = argparse.ArgumentParser(prog="fab clean", description=__doc__)
    parser.add_argument(
        "--inventory", default="", metavar="FILE", help="cluster.json, a nodefile, or local"
    )
    parser.add_argument("--yes", action="store_true", help="do not ask for confirmation")
    parser.add_argument(ACCEPT_FLAG, action="store_true", help="pin new host keys without asking")
    chosen = parser.parse_args(argv)
    inventory = inventory_to_remove(chosen.inventory)
    with open_hosts(inventory, command_line.question_of(chosen)) as hosts:
        return clean(inventory, hosts, chosen.yes, chosen.inventory)
