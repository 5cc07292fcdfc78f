"""Nothing that a node sends is taken without a limit."""

from __future__ import annotations

from bootstrap.errors import UserError


class Limited:
    """Bytes that a node sends, of which no more are taken than it was asked for.

    Attributes:
        content: what has come.
    """

    def __init__(self, limit: int, what: str) -> None:
        self.content = bytearray()
        self._limit, self._what = limit, what

    def take(self, piece: bytes) -> None:
        """A piece; raises UserError where it is one too many."""
        check_room(len(self.content) + len(piece), self._limit, self._what)
        self.content += piece


def check_room(size: int, limit: int, what: str) -> None:
    """Raises UserError where `size` bytes are more than `limit`; so what sends them is ended."""
    if size > limit:
        raise UserError(f"{what}: more was sent than {limit} bytes; the rest was refused.")
