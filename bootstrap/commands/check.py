"""`fab check`: check that every node is as it was set up, and that the nodes reach each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from rich.console import Console

from bootstrap.commands import command_line
from bootstrap.commands.checks import links, nodes
from bootstrap.commands.checks.report import CheckResult, show
from bootstrap.errors import UserError
from bootstrap.inventory.last_inventory import inventory_or_last
from bootstrap.paths import CHECKOUT
from bootstrap.setup.model_and_data import read_record
from bootstrap.setup.python.environment import installed
from bootstrap.setup.python.package_pins import ONECCL_PACKAGE, read_lock
from bootstrap.ssh.host import Host
from bootstrap.ssh.host_keys import FORGET, HostKeyRefused
from bootstrap.ssh.open_hosts import open_hosts
from bootstrap.terminal import cell, exit_status

WAIT_SECONDS = 15.0
"""A node that does not answer at once may be busy; one that is off costs no more than this."""
Say = Callable[[str], None]
Answer = TypeVar("Answer")
Report = dict[str, Any] | UserError


def check(hosts: Sequence[Host], say: Say, *, steps: bool = True) -> list[CheckResult]:
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
    with ThreadPoolExecutor(max_workers=len(alive)) as threads, _ending(alive):
        say("packages, models, pictures and disk of each node")
        asked = threads.map(lambda host: _answer(partial(nodes.read_report, host)), alive)
        reports = dict(zip(alive, asked, strict=True))
        for host, report in reports.items():
            findings += _asked(
                "environment", host.name, partial(_of_report, host, report, reports[head])
            )
        equipped = [host for host, report in reports.items() if not isinstance(report, UserError)]
        findings += _oneccl(threads, equipped)
        say("clocks")
        clocks = threads.map(lambda host: _answer(partial(nodes.read_clock, host)), alive)
        findings += _clocks(alive, list(clocks))
        say("every pair of nodes over SSH")
        pairs = threads.map(lambda number: _pairs(alive, number), range(len(alive)))
        findings += [finding for found in pairs for finding in found]
        working = _usable(head, equipped, findings)
        if head in working and len(working) > 1:
            findings += _between(head, working, _all_to_all(working, findings), say)
        if steps:
            findings += _steps(threads, head, working, say)
    return findings


@contextmanager
def _ending(hosts: Sequence[Host]) -> Iterator[None]:
    """At Ctrl-C what is running on the nodes is ended: the threads that wait for it would wait."""
    try:
        yield
    except BaseException:
        for host in hosts:
            host.interrupt()
        raise


def _asked(
    what: str,
    where: str,
    ask: Callable[[], CheckResult | list[CheckResult]],
    fix: str = nodes.BOOTSTRAP,
) -> list[CheckResult]:
    """What a question found. One that fails or hangs is a line of the table, never its end."""
    found = _answer(ask)
    if isinstance(found, UserError):
        return [CheckResult(what, where, False, str(found), fix)]
    return [found] if isinstance(found, CheckResult) else found


def _reached(host: Host) -> CheckResult:
    error = host.unreachable
    if error is None:
        return CheckResult("reached from here", host.name, True, "answers")
    fix = "fab resume, if it is paused"
    if isinstance(error, HostKeyRefused):
        fix = f"if it was replaced: {FORGET} {host.name}"
    return CheckResult("reached from here", host.name, False, str(error), fix)


def _answer(ask: Callable[[], Answer]) -> Answer | UserError:
    try:
        return ask()
    except UserError as error:
        return error
    except (LookupError, TypeError, ValueError) as error:
        return UserError(f"no answer that can be read ({error!r})")


def _of_report(host: Host, report: Report, of_head: Report) -> list[CheckResult]:
    if isinstance(report, UserError):
        return [CheckResult("environment", host.name, False, str(report), nodes.BOOTSTRAP)]
    findings = _asked("packages", host.name, partial(_packages, host, report))
    if not isinstance(of_head, UserError):
        findings += nodes.files(host.name, report, of_head)
    return [
        *findings,
        *_asked("C++ compiler", host.name, partial(nodes.compiler, host.name, report)),
        nodes.disk(host.name, report, host.layout.root),
    ]


def _oneccl(threads: ThreadPoolExecutor, equipped: Sequence[Host]) -> list[CheckResult]:
    """Of the nodes that are to have oneCCL's bindings."""
    having = [host for host in equipped if ONECCL_PACKAGE in _names_of_packages(host)]
    return _each(threads, "oneCCL's bindings", having, nodes.oneccl)


def _packages(host: Host, report: dict[str, Any]) -> CheckResult:
    there = installed(host)
    lock = read_lock(CHECKOUT, there["stack"], there.get("with", ()))
    lock = lock.without(there.get("left_out", ()))
    return nodes.packages(host.name, report, lock)


def _clocks(hosts: Sequence[Host], clocks: Sequence[nodes.Clock | UserError]) -> list[CheckResult]:
    """Each against the head's; where the head's is not known, that is all there is to say."""
    findings = []
    for host, mine in zip(hosts, clocks, strict=True):
        if isinstance(mine, UserError):
            fix = f"log in to {host.name}: why does `date` not answer?"
            findings.append(CheckResult("clock", host.name, False, str(mine), fix))
        elif not isinstance(clocks[0], UserError):
            findings.append(nodes.clock(host.name, mine, clocks[0]))
    return findings


def _pairs(hosts: Sequence[Host], number: int) -> list[CheckResult]:
    """From one node to all others, each beginning with another one: no node is asked by all."""
    source, targets = hosts[number], [*hosts[number + 1 :], *hosts[:number]]
    return _asked(
        "ssh between nodes", f"{source.name} to all", lambda: links.pairs(source, targets)
    )


def _usable(head: Host, equipped: Sequence[Host], found: Sequence[CheckResult]) -> list[Host]:
    """Nodes that have an environment and reach the head both ways: mpirun would wait for others."""
    cut = _cut(found)
    if f"{head.name} to all" in cut:
        return []
    return [
        host
        for host in equipped
        if f"{head.name} to {host.name}" not in cut
        and not {f"{host.name} to {head.name}", f"{host.name} to all"} & cut
    ]


def _cut(found: Sequence[CheckResult]) -> set[str]:
    return {
        finding.where
        for finding in found
        if finding.what == "ssh between nodes" and not finding.passed
    }


def _all_to_all(hosts: Sequence[Host], found: Sequence[CheckResult]) -> list[Host]:
    """Those of which each reaches each: a sum over a pair that is cut would wait in vain."""
    cut = _cut(found)
    chosen: list[Host] = []
    for host in hosts:
        pairs = {f"{a.name} to {b.name}" for o in chosen for a, b in ((o, host), (host, o))}
        if not pairs & cut:
            chosen.append(host)
    return chosen


def _between(
    head: Host, hosts: Sequence[Host], connected: Sequence[Host], say: Say
) -> list[CheckResult]:
    say(f"mpirun over {len(hosts)} nodes")
    findings = _asked("mpirun hostname", "cluster", partial(links.hostnames, head, hosts))
    if not findings[0].passed or len(connected) < 2:
        return findings
    backends = ["ccl", "gloo"] if ONECCL_PACKAGE in _names_of_packages(head) else ["gloo"]
    for backend in backends:
        say(f"a timed all-reduce ({backend})")
        ask = partial(links.all_reduce, head, connected, backend)
        what = f"all-reduce ({backend})"
        findings += _asked(what, "cluster", ask, links.LOOK_BEFORE)
    return findings


def _names_of_packages(host: Host) -> set[str]:
    try:
        return {name.lower().replace("_", "-") for name in installed(host)["packages"]}
    except (UserError, LookupError, ValueError):
        return set()  # The table has a line about that.


def _steps(
    threads: ThreadPoolExecutor, head: Host, hosts: Sequence[Host], say: Say
) -> list[CheckResult]:
    try:
        records = [read_record(head, kind) for kind in ("model", "pictures")]
    except UserError:
        records = [None]
    if not all(records):
        what = "no model or no pictures are on the head"
        return [CheckResult("one step alone", "cluster", False, what, nodes.BOOTSTRAP)]
    say("one training step on each node alone")
    model, pictures = (str(record["path"]) for record in records if record)
    ask = partial(nodes.step_alone, model=model, pictures=pictures)
    return _each(threads, "one step alone", hosts, ask)


def _each(
    threads: ThreadPoolExecutor,
    what: str,
    hosts: Sequence[Host],
    ask: Callable[[Host], CheckResult],
) -> list[CheckResult]:
    """What a question found on each of the nodes, asked at once."""
    found = threads.map(lambda host: _asked(what, host.name, partial(ask, host)), hosts)
    return [finding for one in found for finding in one]


@exit_status(failed=2, interrupted="interrupted; nothing was changed.")
def main(argv: Sequence[str] | None = None) -> int:
    """Check and print; 1 where something is not as it must be, 2 where nothing can be asked."""
    parser = command_line.parser("check", __doc__, run=False)
    parser.add_argument("--no-steps", action="store_true", help="leave out the training steps")
    chosen = parser.parse_args(argv)
    console = Console(highlight=False)
    progress = Console(stderr=True, highlight=False)
    inventory = inventory_or_last(chosen.inventory)
    opened = open_hosts(inventory, command_line.question_of(chosen), wait_seconds=WAIT_SECONDS)
    with opened as hosts, progress.status("") as status:

        def tell(text: str) -> None:
            status.update(cell(f"looking at {text}"))

        findings = check(hosts, tell, steps=not chosen.no_steps)
    show(findings, console)
    return 0 if all(finding.passed for finding in findings) else 1
