"""A command for a node: what it is given, how it ended, and how scripts become shell lines."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO

OnLine = Callable[[str], None]
OnBytes = Callable[[int], None]
SPOOLED = 8 << 20
"""Bytes of a stream that are kept in memory; what is longer goes to a temporary file."""


@dataclass(frozen=True)
class CommandResult:
    """A command's end, and what it printed (what is not UTF-8 is replaced)."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def error_line(self) -> str:
        """What it complained about: its last `error: ` line, else its last line of all."""
        said = self.stderr.strip().splitlines() or ["it said nothing"]
        errors = [line for line in said if line.startswith("error: ")]
        return (errors or said)[-1].removeprefix("error: ")


@dataclass(frozen=True)
class Command:
    """A shell line to run on a node.

    Attributes:
        line: the shell's.
        stdin: what it reads; None: nothing.
        stdin_bytes: how many bytes of it.
        timeout: seconds until it is ended there; None: no limit.
        on_line: told each line, of both outputs, as it comes.
        sink: takes its standard output in place of `Output`.
        on_bytes: told how many bytes of `stdin` have gone out, a piece at a time.
        keep: its standard output is wanted at the end.
    """

    line: str
    stdin: IO[bytes] | None = None
    stdin_bytes: int = 0
    timeout: float | None = None
    on_line: OnLine | None = None
    sink: Callable[[bytes], None] | None = None
    on_bytes: OnBytes | None = None
    keep: bool = True


def one_line(command: str | Sequence[str]) -> str:
    """A shell line; the words of a sequence are quoted."""
    return command if isinstance(command, str) else shlex.join(command)


def script(text: str, *arguments: object) -> str:
    """The line that runs a shell script with arguments."""
    return shlex.join(["sh", "-c", text, "sh", *map(str, arguments)])


def bash_script(text: str, *arguments: object) -> str:
    """The same in bash: what sources `activate` needs it, as oneCCL's own script does.

    --norc, as bash takes itself for a login's first shell where SSH's variables are set, and prints
    what ~/.bashrc prints.
    """
    return shlex.join(["bash", "--norc", "-c", text, "bash", *map(str, arguments)])
