"""The errors that a person can mend; each is one message that says how."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

Arguments = ParamSpec("Arguments")


class UserError(Exception):
    """Says what is wrong, where, and what to do.

    It is printed as `error: ...` without a traceback, and the process exits with 1.
    """


class CommandFailed(UserError):
    """A command on a node ended with a code other than 0.

    Attributes:
        host: the node's name.
        step: what was being done, in the words of the table.
        exit_code: the command's.
        last_lines: the end of what it printed.
    """

    def __init__(self, host: str, step: str, exit_code: int, last_lines: str) -> None:
        self.host, self.step, self.exit_code, self.last_lines = host, step, exit_code, last_lines
        said = "\n".join(f"    {line}" for line in last_lines.splitlines()) or "    (no output)"
        super().__init__(
            f"{host}: {step or 'a command'} failed with exit code {exit_code}:\n{said}"
        )


class TimedOut(UserError):
    """A command on a node took longer than it may; it was ended there."""


class ConnectionLost(UserError):
    """The connection to a node broke; what was running there is ended, and repeating continues."""


class Interrupted(UserError):
    """Ctrl-C here; what was running on the node was ended."""


def exit_status(
    failed: int = 1,
    interrupted: str = "interrupted",
    tell: Callable[[str], None] = lambda text: print(text, file=sys.stderr),
) -> Callable[[Callable[Arguments, int]], Callable[Arguments, int]]:
    """A `main` that tells what went wrong as one message on standard error.

    Args:
        failed: the exit status after a `UserError`.
        interrupted: what is said at Ctrl-C; the exit status is 130.
        tell: says it; commands pass what they are told by others through `terminal`.
    """

    def told(main: Callable[Arguments, int]) -> Callable[Arguments, int]:
        @wraps(main)
        def telling(*args: Arguments.args, **kwargs: Arguments.kwargs) -> int:
            try:
                return main(*args, **kwargs)
            except UserError as error:
                tell(f"error: {error}")
                return failed
            except KeyboardInterrupt:
                tell(interrupted)
                return 130

        return telling

    return told
