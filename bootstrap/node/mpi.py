"""The mpirun command line of a job, and the environment of each node's ranks. All of it is pure."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from bootstrap.node.job import Job, JobNode

RUN_VARIABLE = "XEON_DIFFUSION_RUN"
"""In the environment of every rank: the run's folder, by which its processes are found."""


def command(
    job: Job, nodes: Sequence[JobNode], nodefile: str, port: int, more: Sequence[str] = ()
) -> list[str]:
    """The command that trains on `nodes`.

    Where the nodes are alike it is the line a person would type; where they differ, each has a
    section of its own.

    Args:
        nodes: the head first; those without ranks are left out.
        nodefile: where `nodefile_text` has been written.
        port: free on the head.
        more: further arguments for the training.
    """
    used = [node for node in nodes if node.ranks]
    # Ranks notice a loss by themselves and say whose it was; mpirun's own way is to kill them.
    words = [f"{job.layout.env}/bin/mpirun", "-disable-auto-cleanup"]
    if job.ssh is not None:
        words += ["-launcher", "ssh", "-launcher-exec", job.ssh]
    alike = all(
        (node.ranks, node.environment) == (used[0].ranks, used[0].environment) for node in used
    )
    common = {**job.environment, "MASTER_PORT": str(port), RUN_VARIABLE: str(job.folder)}
    if alike:
        common |= used[0].environment
    if job.ssh is not None and alike:
        words += ["-f", nodefile]
    for name, value in sorted(common.items()):
        words += ["-genv", name, value]
    program = [job.python, "-P", "-m", f"training.{job.method}", *job.arguments, *more]
    if alike:
        total = sum(node.ranks for node in used)
        return [*words, "-n", str(total), "-ppn", str(used[0].ranks), *program]
    for number, node in enumerate(used):
        words += [":"] if number else []
        words += ["-host", node.address, "-n", str(node.ranks)]
        for name, value in sorted(node.environment.items()):
            words += ["-env", name, value]
        words += program
    return words


def nodefile_text(nodes: Sequence[JobNode]) -> str:
    """One address per line, head first."""
    return "".join(f"{node.address}\n" for node in nodes if node.ranks)


def shown(words: Sequence[str]) -> str:
    """A command as a person may paste it into a shell, one flag per line."""
    lines: list[str] = []
    for word in words:
        quoted = shlex.quote(word)
        if word.startswith("-") or word == ":" or not lines:
            lines.append(quoted)
        else:
            lines[-1] += f" {quoted}"
    return " \\\n    ".join(lines)
