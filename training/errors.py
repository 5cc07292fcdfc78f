"""The one kind of error a person caused and can mend."""

from __future__ import annotations

import re


def first_line(error: BaseException) -> str:
    """The first line of what a library said, without passwords in URLs: it is shown and stored."""
    said = str(error).strip().splitlines() or [repr(error)]
    return re.sub(r"""(?<=://)[^\s/?#"'<>]*@""", "***@", said[0])


class UserError(Exception):
    """Bad input or a bad environment: says what was wrong, where, and what to do.

    It is printed as one message without a traceback, and the process exits with 2.
    """


class SharedError(UserError):
    """A `UserError` that every rank raises alike: the first rank alone prints it."""


class PeerError(UserError):
    """Another rank ends with an error, which it prints itself: this one ends in silence.

    Attributes:
        code: the other's exit code.
    """

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


class LostRanks(UserError):
    """Other ranks died, or could not be met: nothing wrong with what was asked for.

    The process exits with 75, the system's code for "try again" (EX_TEMPFAIL in sysexits.h).
    """
