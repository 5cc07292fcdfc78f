"""`fab check`: is every node as it was set up, and do they reach each other?"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rich.console import Console

from bootstrap import check_links, check_nodes
from bootstrap.environment import installed
from bootstrap.errors import UserError
from bootstrap.finding import Finding, show
from bootstrap.host_keys import ask_on_terminal
from bootstrap.hosts import Host, open_hosts
from bootstrap.inputs import RECORD
from bootstrap.inventory import CHECKOUT, read_inventory
from bootstrap.lock import read_lock

Say = Callable[[str], None]


def check(hosts: Sequence[Host], say: Say, *, steps: bool = True) -> list[Finding]:
    """Check all nodes, then what lies between them; a node that fails one check is asked the rest.

    Args:
        hosts: the head first.
        say: told what is being looked at.
        steps: whether to train one step on each node.
    """
    findings = [_reached(host) for host in hosts]
    alive = [host for host in hosts if host.unreachable is None]
    head = hosts[0]
    if head not in alive:
        return findings
    with ThreadPoolExecutor(max_workers=len(alive)) as threads:
        say("packages, models, pictures and disk of each node")
        reports = dict(zip(alive, threads.map(_report, alive), strict=True))
        findings += _of_reports(reports, head)
        say("clocks")
        clocks = list(threads.map(check_nodes.read_clock, alive))
        findings += [
            check_nodes.clock(host.name, mine, clocks[0])
            for host, mine in zip(alive, clocks, strict=True)
        ]
        say("every pair of nodes over SSH")
        pairs = threads.map(
            lambda one: check_links.pairs(one, [other for other in alive if other is not one]),
            alive,
        )
        findings += [finding for found in pairs for finding in found]
        working = _usable(alive, reports, findings)
        if head in working and len(working) > 1:
            findings += _between(head, working, say)
        if steps:
            findings += _steps(threads, head, working, say)
    return findings


def _reached(host: Host) -> Finding:
    error = host.unreachable
    if error is None:
        return Finding("reached from here", host.name, True, "answers")
    return Finding("reached from here", host.name, False, str(error), "fab resume, if it is paused")


def _report(host: Host) -> dict[str, Any] | UserError:
    try:
        return check_nodes.read_report(host)
    except UserError as error:
        return error


def _of_reports(reports: dict[Host, dict[str, Any] | UserError], head: Host) -> list[Finding]:
    findings = []
    of_head = reports[head]
    for host, report in reports.items():
        if isinstance(report, UserError):
            findings.append(
                Finding("environment", host.name, False, str(report), check_nodes.BOOTSTRAP)
            )
            continue
        lock = read_lock(
            CHECKOUT, json.loads(host.read(f"{host.layout.env}/installed.json"))["stack"]
        )
        findings.append(check_nodes.packages(host.name, report, lock))
        if not isinstance(of_head, UserError):
            findings += check_nodes.files(host.name, report, of_head)
        findings.append(check_nodes.disk(host.name, report, host.layout.root))
    return findings


def _usable(
    alive: Sequence[Host], reports: dict[Host, dict[str, Any] | UserError], found: Sequence[Finding]
) -> list[Host]:
    """Nodes that have an environment and reach the head both ways: mpirun would wait for others."""
    cut = {
        finding.where
        for finding in found
        if finding.what == "ssh between nodes" and not finding.well
    }
    head = alive[0]
    return [
        host
        for host in alive
        if not isinstance(reports[host], UserError)
        and f"{head.name} to {host.name}" not in cut
        and f"{host.name} to {head.name}" not in cut
    ]


def _between(head: Host, hosts: Sequence[Host], say: Say) -> list[Finding]:
    say(f"mpirun over {len(hosts)} nodes")
    findings = [check_links.hostnames(head, hosts)]
    if not findings[0].well:
        return findings
    backends = (
        ["ccl", "gloo"] if "oneccl-bind-pt" in _normal(installed(head)["packages"]) else ["gloo"]
    )
    for backend in backends:
        say(f"a timed all-reduce ({backend})")
        findings.append(check_links.all_reduce(head, hosts, backend))
    return findings


def _normal(packages: dict[str, str]) -> set[str]:
    return {name.lower().replace("_", "-") for name in packages}


def _steps(
    threads: ThreadPoolExecutor, head: Host, hosts: Sequence[Host], say: Say
) -> list[Finding]:
    try:
        model, pictures = (
            json.loads(head.read(f"{head.layout.cluster}/{RECORD[kind]}"))["path"]
            for kind in ("model", "pictures")
        )
    except UserError:
        what = "no model or no pictures have been handed out"
        return [Finding("one step alone", "cluster", False, what, check_nodes.BOOTSTRAP)]
    say("one training step on each node alone")
    return list(threads.map(lambda host: check_nodes.step_alone(host, model, pictures), hosts))


def main(argv: Sequence[str] | None = None) -> int:
    """Check and print; 1 where something is not as it must be, 2 where nothing can be asked."""
    parser = argparse.ArgumentParser(prog="fab check", description=__doc__)
    parser.add_argument(
        "--inventory", metavar="FILE|local", help="cluster.json or a nodefile; default: the stack"
    )
    parser.add_argument("--no-steps", action="store_true", help="leave out the training steps")
    chosen = parser.parse_args(argv)
    console = Console(highlight=False)
    progress = Console(stderr=True, highlight=False)
    try:
        inventory = read_inventory(chosen.inventory)
        with open_hosts(inventory, ask_on_terminal) as hosts, progress.status("") as status:
            findings = check(
                hosts, lambda text: status.update(f"looking at {text}"), steps=not chosen.no_steps
            )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; nothing was changed.", file=sys.stderr)
        return 130
    show(findings, console)
    return 0 if all(finding.well for finding in findings) else 1


if __name__ == "__main__":
    sys.exit(main())
