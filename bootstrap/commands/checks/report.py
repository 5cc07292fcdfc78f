"""What `fab check` found, and the table of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console

from bootstrap.terminal import Rows, draw, say_on


@dataclass(frozen=True)
class CheckResult:
    """One check of one node, or of what lies between nodes.

    Attributes:
        what: the check.
        where: a node's name, two names, or "cluster".
        passed: whether it is as it must be.
        found: what was seen.
        fix: the command that mends it; "" where it passed.
    """

    what: str
    where: str
    passed: bool
    found: str
    fix: str = ""


def judged(
    what: str, where: str, problems: Sequence[str], well: str, fix: str, before: str = ""
) -> CheckResult:
    """A check that passed where it met no problem.

    Args:
        well: what was seen if there is none; else the first three are.
        fix: the command that mends them.
        before: put in front of them.
    """
    if not problems:
        return CheckResult(what, where, True, well)
    more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
    return CheckResult(what, where, False, before + "; ".join(problems[:3]) + more, fix)


def table(findings: Sequence[CheckResult]) -> Rows:
    """One line for each check that passed everywhere, one for each node where one failed."""
    drawn = Rows("", "check", "where", "found", "what to do")
    for what in dict.fromkeys(finding.what for finding in findings):
        of_it = [finding for finding in findings if finding.what == what]
        bad = [finding for finding in of_it if not finding.passed]
        for finding in bad or _together(of_it):
            mark = "ok" if finding.passed else "NO"
            drawn.add(mark, what, finding.where, finding.found, finding.fix)
    return drawn


def _together(findings: Sequence[CheckResult]) -> list[CheckResult]:
    """Nodes of which the same was found share a line."""
    lines: dict[str, list[CheckResult]] = {}
    for finding in findings:
        lines.setdefault(finding.found, []).append(finding)
    return [
        CheckResult(group[0].what, _names([one.where for one in group]), True, found)
        for found, group in lines.items()
    ]


def _names(names: Sequence[str]) -> str:
    if len(names) <= 3:
        return ", ".join(names)
    return f"{names[0]}, {names[1]} and {len(names) - 2} more"


def show(findings: Sequence[CheckResult], console: Console) -> None:
    """Print the table, and how many checks failed."""
    draw(console, table(findings))
    bad = sum(not finding.passed for finding in findings)
    say_on(console, f"{bad} of {len(findings)} checks failed." if bad else "All is well.")
