"""What a command prints, taken piece by piece from two pipes, handed on line by line."""

from __future__ import annotations

import codecs
import queue
import time
from collections.abc import Callable

from bootstrap.errors import Interrupted, TimedOut

OnLine = Callable[[str], None]


class Lines:
    """Text that arrives in pieces; every whole line is told. A carriage return ends one too."""

    def __init__(self, tell: OnLine) -> None:
        self._tell = tell
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""

    def take(self, piece: bytes) -> None:
        """A piece; an empty one is the end."""
        text = self._rest + self._decoder.decode(piece, final=not piece)
        *lines, self._rest = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        if not piece and self._rest:
            lines.append(self._rest)
            self._rest = ""
        for line in lines:
            if line:
                self._tell(line)


class Output:
    """What one command prints, and its end.

    Attributes:
        stdout, stderr: everything so far; stdout stays empty where a sink takes it.
        exit_code: set by whoever runs the command.
    """

    def __init__(
        self,
        host: str,
        what: str,
        log: OnLine,
        on_line: OnLine | None = None,
        sink: Callable[[bytes], None] | None = None,
    ) -> None:
        self.host, self.what = host, what
        self.stdout = bytearray()
        self.stderr = bytearray()
        self.exit_code = 0
        self._sink = sink
        self._events: queue.SimpleQueue[tuple[str, bytes]] = queue.SimpleQueue()

        def tell(line: str) -> None:
            log(line)
            if on_line:
                on_line(line)

        self._lines = {"out": Lines(tell), "err": Lines(tell)}

    def out(self, piece: bytes) -> None:
        """From any thread: a piece of standard output; an empty one is its end."""
        self._events.put(("out", piece))

    def err(self, piece: bytes) -> None:
        """From any thread: a piece of standard error; an empty one is its end."""
        self._events.put(("err", piece))

    def interrupt(self) -> None:
        """From any thread: `wait` raises `Interrupted`."""
        self._events.put(("interrupted", b""))

    def wait(
        self,
        timeout: float | None = None,
        idle_seconds: float | None = None,
        on_idle: Callable[[], None] | None = None,
    ) -> None:
        """Hand on what comes until both outputs have ended.

        Args:
            timeout: seconds it may take.
            idle_seconds, on_idle: called whenever nothing has come for so long.

        Raises:
            TimedOut, Interrupted: it ended otherwise.
        """
        end = None if timeout is None else time.monotonic() + timeout
        open_outputs = {"out", "err"}
        while open_outputs:
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                raise TimedOut(
                    f"{self.host}: {self.what} was not done after {timeout:.0f} s and was ended."
                )
            waits = [seconds for seconds in (left, idle_seconds) if seconds is not None]
            try:
                which, piece = self._events.get(timeout=min(waits) if waits else None)
            except queue.Empty:
                if on_idle:
                    on_idle()
                continue
            if which == "interrupted":
                raise Interrupted(f"{self.host}: {self.what} was interrupted and ended.")
            self._take(which, piece)
            if not piece:
                open_outputs.discard(which)

    def _take(self, which: str, piece: bytes) -> None:
        if which == "out" and self._sink:
            if piece:
                self._sink(piece)
            return
        (self.stdout if which == "out" else self.stderr).extend(piece)
        self._lines[which].take(piece)

    @property
    def stdout_text(self) -> str:
        """Standard output; what is not UTF-8 is replaced."""
        return self.stdout.decode("utf-8", "replace")

    @property
    def stderr_text(self) -> str:
        """Standard error; what is not UTF-8 is replaced."""
        return self.stderr.decode("utf-8", "replace")
