"""What a command prints, taken piece by piece from two pipes, handed on line by line."""

from __future__ import annotations

import codecs
import contextlib
import queue
import time
from collections.abc import Callable

from bootstrap.errors import Interrupted, TimedOut, UserError
from bootstrap.ssh.framing import Mark, Unframed

TEXT_LIMIT = 64 << 20
"""Bytes that a command may print where they are kept: more than any answer takes."""
LINE_LIMIT = 1 << 20
"""Characters; what is longer is told in pieces."""
PIECES = 256
"""That have come and wait; each of at most 64 KiB."""
SHOWN = 500
OnLine = Callable[[str], None]


class Lines:
    """Text that arrives in pieces; every whole line is told. A carriage return ends one too.

    Args:
        tell: told them.
        empty: told of empty ones as well.
    """

    def __init__(self, tell: OnLine, *, empty: bool = False) -> None:
        self._tell, self._empty = tell, empty
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""

    def take(self, piece: bytes) -> None:
        """A piece; an empty one is the end."""
        text = self._rest + self._decoder.decode(piece, final=not piece)
        *lines, self._rest = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        if self._rest and (not piece or len(self._rest) > LINE_LIMIT):
            lines.append(self._rest)
            self._rest = ""
        for line in lines:
            if line or self._empty:
                self._tell(line)


class Output:
    """What one command prints, and its end.

    Attributes:
        mark: what its outputs are framed by (see `framing`).
        stdout, stderr: everything so far; stdout stays empty where a sink takes it, or where
            nothing is to be kept.
        exit_code: set by whoever runs the command.
    """

    def __init__(
        self,
        host: str,
        what: str,
        log: OnLine,
        on_line: OnLine | None = None,
        sink: Callable[[bytes], None] | None = None,
        *,
        keep: bool = True,
    ) -> None:
        self.host, self.what = host, what
        self.mark = Mark()
        self.stdout = bytearray()
        self.stderr = bytearray()
        self.exit_code = 0
        self._sink, self._keep = sink, keep
        self._log, self._logged = log, 0
        self._events: queue.Queue[tuple[str, bytes]] = queue.Queue(PIECES)
        self._over = self._interrupted = False
        self._unframed = {"out": Unframed(self.mark), "err": Unframed(self.mark)}

        def tell(line: str) -> None:
            self._to_log(line)
            if on_line:
                on_line(line)

        self._lines = {"out": Lines(tell), "err": Lines(tell)}

    def out(self, piece: bytes) -> None:
        """From any thread: a piece of standard output; an empty one is its end."""
        self._put("out", piece)

    def err(self, piece: bytes) -> None:
        """From any thread: a piece of standard error; an empty one is its end."""
        self._put("err", piece)

    def interrupt(self) -> None:
        """From any thread: `wait` raises `Interrupted`."""
        self._interrupted = True
        with contextlib.suppress(queue.Full):  # then `wait` is not waiting
            self._events.put_nowait(("interrupted", b""))

    def _put(self, which: str, piece: bytes) -> None:
        """Waits while more has come than was taken: what a node sends fills no memory here."""
        while not self._over:
            with contextlib.suppress(queue.Full):
                self._events.put((which, piece), timeout=1.0)
                return

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
            UserError: it printed more than is taken.
        """
        try:
            self._wait(timeout, idle_seconds, on_idle)
        finally:
            self._over = True

    def _wait(
        self,
        timeout: float | None,
        idle_seconds: float | None,
        on_idle: Callable[[], None] | None,
    ) -> None:
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
            if self._interrupted:
                raise Interrupted(f"{self.host}: {self.what} was interrupted and ended.")
            self._take(which, piece)
            if not piece:
                open_outputs.discard(which)

    def _take(self, which: str, piece: bytes) -> None:
        unframed = self._unframed[which]
        had_begun = unframed.begun
        own = unframed.take(piece)
        if unframed.begun and not had_begun:
            self._note_noise(unframed)
        if which == "out" and self._sink:
            if own:
                self._sink(own)
            return
        if which == "err" or self._keep:
            (self.stdout if which == "out" else self.stderr).extend(own)
        if len(self.stdout) + len(self.stderr) > TEXT_LIMIT:
            raise UserError(
                f"{self.host}: {self.what} printed more than {TEXT_LIMIT >> 20} MiB and was ended."
            )
        if own or not piece:
            self._lines[which].take(own)

    def check_begun(self) -> None:
        """At its end: raises UserError where the shell there did not even run the command."""
        if self._unframed["out"].begun:
            return
        said = b"".join(bytes(self._unframed[which].before) for which in ("out", "err"))
        text = said.decode("utf-8", "replace").strip()[-SHOWN:] or "(it said nothing)"
        raise UserError(
            f"{self.host}: the shell there ended with {self.exit_code} before it ran anything:\n"
            f"{text}\nIs there a start-up file (~/.bashrc) that ends it, or no shell for this"
            " account?"
        )

    def _note_noise(self, unframed: Unframed) -> None:
        for line in bytes(unframed.before).decode("utf-8", "replace").splitlines():
            if line:
                self._to_log(f"(its shell, before) {line}")

    def _to_log(self, line: str) -> None:
        if self._logged > TEXT_LIMIT:
            return
        self._logged += len(line) + 1
        more = self._logged > TEXT_LIMIT
        self._log("(what else it printed is not logged)" if more else line)

    @property
    def stdout_text(self) -> str:
        """Standard output; what is not UTF-8 is replaced."""
        return self.stdout.decode("utf-8", "replace")

    @property
    def stderr_text(self) -> str:
        """Standard error; what is not UTF-8 is replaced."""
        return self.stderr.decode("utf-8", "replace")
