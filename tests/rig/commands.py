"""Commands of the machine that carries the rig, run to their end."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Sequence

SECONDS = 120.0


class RigError(Exception):
    """The rig cannot do what was asked; the message says why and what would help."""


def run(
    *argv: str, stdin: str = "", check: bool = True, seconds: float = SECONDS
) -> subprocess.CompletedProcess[str]:
    """Run a command; what it printed is in the result, or in the error when it fails."""
    try:
        finished = subprocess.run(
            argv, input=stdin, capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise RigError(f"{shlex.join(argv)} did not end within {seconds:.0f} s") from error
    if check and finished.returncode:
        raise RigError(
            f"{shlex.join(argv)} failed with exit code {finished.returncode}:"
            f" {(finished.stderr or finished.stdout).strip()}"
        )
    return finished


def in_network(pid: int, *argv: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run one of this machine's commands in the network namespace of a process."""
    return run("nsenter", f"--target={pid}", "--net", "--", *argv, stdin=stdin)


def ip_batch(lines: Sequence[str], pid: int | None = None) -> None:
    """Several `ip` commands in one process, in the network namespace of `pid`."""
    text = "\n".join(lines) + "\n"
    if pid is None:
        run("ip", "-batch", "-", stdin=text)
    else:
        in_network(pid, "ip", "-batch", "-", stdin=text)
