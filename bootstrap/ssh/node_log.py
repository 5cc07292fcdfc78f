"""The complete log of a node: every command, and every line that it printed, with the time."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING

from bootstrap.terminal import shown

if TYPE_CHECKING:
    from bootstrap.ssh.host import Host


def log_file(folder: Path, name: str) -> Path:
    """Where a node's log lies."""
    return folder / f"{name.replace(':', '-')}.log"


@contextmanager
def logging_to(folder: Path, hosts: Sequence[Host]) -> Iterator[list[Host]]:
    """The same hosts; what happens on each is appended to a file of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    logged: list[Host] = []
    with ExitStack() as files:
        for host in hosts:
            path = log_file(folder, host.name)
            file = files.enter_context(path.open("a", encoding="utf-8", buffering=1))
            logged.append(dataclasses.replace(host, log=_writer(file)))
            if host.unreachable:
                logged[-1].log(str(host.unreachable))
        yield logged


def _writer(file: IO[str]) -> Callable[[str], None]:
    lock = threading.Lock()

    def write(text: str) -> None:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        with lock:
            if not file.closed:
                file.writelines(f"{now} {shown(line)}\n" for line in text.splitlines())

    return write
