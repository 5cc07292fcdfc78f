"""The one kind of error a person caused and can mend."""

from __future__ import annotations


class UserError(Exception):
    """Bad input or a bad environment: says what was wrong, where, and what to do.

    It is printed as one message without a traceback, and the process exits with 2.
    """
