"""Where a command's own output begins in what its shell prints: behind a line of ours.

A login shell may print anything before it runs what it was asked to: ~/.bashrc greets, warns,
counts unread mail. Nothing that is read here may depend on its being quiet, so a line that nobody
can guess is printed first, by the command that the shell was asked for.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

KEPT = 1 << 16
"""Of what came before: more than anybody reads."""
PRINT_MARK = "printf '\\n%s-%s\\n'"
"""The shell's command for it, followed by the halves: in no command line is the mark as a whole, so
that a shell which shows its commands (`set -x`) does not print it."""


@dataclass(frozen=True)
class Mark:
    """The line before one command's output.

    Attributes:
        halves: what it consists of.
    """

    halves: tuple[str, str] = field(
        default_factory=lambda: (secrets.token_hex(8), secrets.token_hex(8))
    )

    @property
    def line(self) -> bytes:
        """As it is printed; the line break before it ends a line that was left open."""
        return f"\n{'-'.join(self.halves)}\n".encode()


class Unframed:
    """One stream of a command: takes what comes, gives what comes after the mark.

    Attributes:
        begun: whether the mark has come.
        before: the end of what came before it.
    """

    def __init__(self, mark: Mark) -> None:
        self.begun = False
        self.before = bytearray()
        self._line = mark.line

    def take(self, piece: bytes) -> bytes:
        """A piece, and what of it is the command's own."""
        if self.begun:
            return piece
        self.before += piece
        at = self.before.find(self._line, max(0, len(self.before) - len(piece) - len(self._line)))
        if at < 0:
            del self.before[: -KEPT - len(self._line)]
            return b""
        own = bytes(self.before[at + len(self._line) :])
        self.begun = True
        del self.before[at:]
        return own
