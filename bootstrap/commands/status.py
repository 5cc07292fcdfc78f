"""`fab status`: loss, images/s, time left, load of each node, money, what is not fetched yet."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from rich.console import Console

from bootstrap.commands import command_line
from bootstrap.commands.command_line import InAzure
from bootstrap.errors import UserError
from bootstrap.inventory.inventory import Inventory
from bootstrap.node import run_state
from bootstrap.runs import idle, results, runs_on_head
from bootstrap.runs.idle import Idle
from bootstrap.runs.run_names import local_folder
from bootstrap.ssh.host import Host
from bootstrap.terminal import Rows, draw, say_on

SECONDS = 20.0
# The first line of /proc/stat twice, and two of /proc/meminfo.
LOAD = """
head -n 1 /proc/stat; sleep 1; head -n 1 /proc/stat
grep -E '^(MemTotal|MemAvailable):' /proc/meminfo
"""
GIB = 1 << 20
"""In the KiB of /proc/meminfo."""


@dataclass(frozen=True)
class Load:
    """What a node is busy with.

    Attributes:
        cpu: share of all its CPUs' time in the last second that was not idle.
        used, total: memory, GiB.
    """

    cpu: float
    used: float
    total: float


def load(host: Host) -> Load | str:
    """A node's load, or why it could not be told."""
    if host.unreachable is not None:
        return str(host.unreachable).splitlines()[0]
    try:
        return read_load(host.run(["sh", "-c", LOAD], timeout=SECONDS).stdout)
    except (UserError, ValueError, IndexError) as error:
        return str(error).splitlines()[0]


def read_load(text: str) -> Load:
    """Take `LOAD`'s output apart."""
    lines = [line.split() for line in text.splitlines()]
    (idle, all_), (idle_later, all_later) = (
        (int(words[4]) + int(words[5]), sum(map(int, words[1:9]))) for words in lines[:2]
    )
    memory = {words[0]: int(words[1]) for words in lines[2:4]}
    total, free = memory["MemTotal:"], memory["MemAvailable:"]
    busy = 1 - (idle_later - idle) / max(1, all_later - all_)
    return Load(max(0.0, busy), (total - free) / GIB, total / GIB)


def seconds_left(run: dict[str, Any]) -> float | None:
    """Until the last step, at the pace of the last ones."""
    start, step, rate = run["start"], run["step"], run["images_per_second"]
    if not start or not step or not rate:
        return None
    return (start["max_train_steps"] - step["step"]) * start["global_batch"] / float(rate)


def spent(run: dict[str, Any], price_per_hour: float, now: float) -> float:
    """What the machines have cost from this run's start to its end, or to now."""
    state = run["state"]
    began = run["began"] or state.get("started")
    if began is None:
        return 0.0
    return max(0.0, (state.get("ended") or now) - began) / 3600 * price_per_hour


def lines_of(run: dict[str, Any], inventory: Inventory, now: float) -> list[str]:
    """A run, for people."""
    state, step, start = run["state"], run["step"], run["start"]
    phase = state.get("phase", "not started")
    running = run_state.is_live(state)
    ranks = (
        f", {state.get('ranks')} ranks on {', '.join(state.get('nodes', []))}" if running else ""
    )
    lines = [f"{run['name']}: {phase}{ranks}"]
    if state.get("reason"):
        lines.append(f"  {state['reason']}")
    if phase == "lost":
        lines.append(f"  its supervisor is gone: fab train --resume --run {run['name']} goes on")
    if step and start:
        left = seconds_left(run) if running else None
        eta = f", {duration(left)} left" if left is not None else ""
        lines.append(
            f"  step {step['step']} of {start['max_train_steps']}, loss {step['loss']:.4f}, "
            f"{run['images_per_second']:.2f} images/s{eta}"
        )
    if run["restarts"]:
        lines.append(f"  restarted {run['restarts']} times; the last: {run['last_words']}")
    if run["checkpoint"] is not None:
        lines.append(f"  newest checkpoint: {run['checkpoint']}")
    if inventory.price_per_hour_usd is not None:
        money = spent(run, inventory.price_per_hour_usd, now)
        as_of = f", prices of {inventory.price_as_of}" if inventory.price_as_of else ""
        lines.append(
            f"  ${money:.2f} from its start{'' if running else ' to its end'} "
            f"(${inventory.price_per_hour_usd:.2f} per hour for the whole cluster{as_of}; "
            "the time before and after is not counted)"
        )
    left_there = results.unfetched(inventory.name, run)
    if left_there:
        lines.append(f"  not fetched: {left_there}")
    elif run["results_until"]:
        lines.append(f"  everything is in {local_folder(run['name'])}/")
    return lines


def idle_line(told: Idle, wanted: int) -> str:
    """When the VMs deallocate themselves; empty where they do not.

    Args:
        told: by the head.
        wanted: `idle_minutes` of the stack.
    """
    minutes = told["minutes"]
    if minutes != wanted:
        return f"idle_minutes is {wanted} in the stack and {minutes} on the head: fab bootstrap"
    if not minutes:
        return ""
    if told.get("refused"):
        return f"Azure did not deallocate the VMs, and they cost money: {told['refused']}"
    if told.get("busy"):
        return f"the VMs are deallocated when nothing has run for {minutes} min (idle_minutes)"
    left = duration(told.get("due_in", 0.0))
    awake = f" (fab stay-awake: {duration(for_)})" if (for_ := told.get("awake_for", 0.0)) else ""
    return (
        f"warning: nothing runs, and the VMs are deallocated in {left}{awake}; fab stay-awake keeps"
        " them on"
    )


def duration(seconds: float) -> str:
    """A time span as people say it."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def table_of(hosts: Sequence[Host], loads: Sequence[Load | str]) -> Rows:
    """CPU and memory of each node."""
    table = Rows("node", "CPU", "memory")
    for host, found in zip(hosts, loads, strict=True):
        if isinstance(found, str):
            table.add(host.name, found, "", style="red")
        else:
            table.add(host.name, f"{found.cpu:.0%}", f"{found.used:.1f} of {found.total:.1f} GiB")
    return table


def act(
    chosen: argparse.Namespace,
    inventory: Inventory,
    hosts: list[Host],
    in_azure: InAzure | None = None,
) -> int:
    """Print it.

    Args:
        in_azure: asked about nodes that do not answer.
    """
    console = Console()
    with ThreadPoolExecutor(len(hosts)) as pool:
        asked = [pool.submit(load, host) for host in hosts]
        runs = runs_on_head.all_runs(hosts[0])
        told: Idle = {"minutes": 0} if inventory.resource_group is None else idle.told(hosts[0])
        loads = [each.result() for each in asked]
    if chosen.run:
        runs = [runs_on_head.the_run(hosts[0], chosen.run)]
    for run in runs:
        for line in lines_of(run, inventory, time.time()):
            say_on(console, line)
    if not runs:
        say_on(console, "no run yet: fab train starts one")
    if line := idle_line(told, inventory.idle_minutes):
        say_on(console, line)
    draw(console, table_of(hosts, loads))
    silent = [host.name for host in hosts if host.unreachable is not None]
    for name, says in in_azure(silent).items() if in_azure and silent else ():
        say_on(console, f"{name} {says}.")
    return 0


def main(argv: Sequence[str] | None = None, in_azure: InAzure | None = None) -> int:
    """`fab status`; `in_azure` is asked about nodes that do not answer."""
    chosen = command_line.parser("status", __doc__).parse_args(argv)
    told = partial(act, in_azure=in_azure)
    return command_line.run_command(chosen, told, all_nodes=True, in_azure=in_azure)
