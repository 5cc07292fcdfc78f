"""Deallocates the VMs when nothing has run on the cluster for some time: the key `idle_minutes`.

    python -m bootstrap.node.azure.idle_watch check ROOT          once a minute, by the head's cron
    python -m bootstrap.node.azure.idle_watch tell ROOT           what it is about to do, as JSON
    python -m bootstrap.node.azure.idle_watch awake ROOT HOURS    not before so many hours from now

`fab bootstrap` starts it on the head (`bootstrap.runs.idle`). Something runs while a training is
supervised, or a program of ours is at work on the head: a command of `fab`, a drawing, the
playground. Time in which the head was off does not count. The right to deallocate is the one that
`--then-pause` uses (`bootstrap.node.azure.deallocate`).
"""

from __future__ import annotations

import fcntl
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from bootstrap import atomic_files
from bootstrap.errors import UserError, exit_status
from bootstrap.node import run_processes, run_state
from bootstrap.node.azure.deallocate import deallocate
from bootstrap.paths import Layout


class IdleWatch:
    """The watch's files in one folder; each has one writer at a time, and is whole or absent.

    Attributes:
        minutes: how long nothing may run; 0: nobody watches.
        vms: the VMs, the head's own last.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self.folder = Path(Layout(root).idle)
        settings = self._json("settings.json") or {}
        self.minutes: int = settings.get("minutes", 0)
        self.vms: list[str] = settings.get("vms", [])

    def _json(self, name: str) -> Any:
        try:
            return json.loads((self.folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def _write(self, name: str, value: object) -> None:
        atomic_files.write(self.folder / name, json.dumps(value).encode())

    def due(self) -> float:
        """When the VMs are to be deallocated if nothing runs until then, in seconds of the epoch.

        Counted from when something last ran, the watch was started, or the head was.
        """
        started = (self.folder / "settings.json").stat().st_mtime
        last = max(started, psutil.boot_time(), self._json("busy.json") or 0.0)
        return max(last + 60 * self.minutes, self._json("awake.json") or 0.0)

    def is_busy(self) -> bool:
        """Whether something of ours runs here, besides who asks."""
        if run_state.is_held(Path(self.root)):
            return True
        asking = {process.pid for process in psutil.Process().parents()}
        mark = f"{self.root}/"

        def ours(process: psutil.Process) -> bool:
            return process.pid not in asking and any(mark in word for word in process.cmdline())

        return bool(run_processes.belonging(ours))

    def check(self) -> None:
        """Note whether something runs; deallocate the VMs where that was too long ago.

        Raises:
            UserError: Azure refused.
        """
        if not self.minutes:
            return
        with (self.folder / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return  # the last check is still asking Azure
            if self.is_busy():
                self._write("busy.json", time.time())
                self._write("refused.json", None)
            elif time.time() >= self.due():
                self._deallocate()

    def _deallocate(self) -> None:
        # Held meanwhile, so that no training starts on VMs that are about to stop.
        with run_state.held(Path(self.root)) as free:
            if free is None:
                return
            print(f"{time.ctime()}: nothing has run for {self.minutes} min", flush=True)
            try:
                deallocate(self.vms, check=False)
            except UserError as error:
                self._write("refused.json", str(error))
                raise

    def stay_awake(self, hours: float) -> None:
        """Deallocate nothing before `hours` from now."""
        self._write("awake.json", time.time() + 3600 * hours)

    def tell(self) -> dict[str, Any]:
        """What `bootstrap.runs.idle.Idle` reads; times are seconds from now."""
        if not self.minutes:
            return {"minutes": 0}
        awake = (self._json("awake.json") or 0.0) - time.time()
        return {
            "minutes": self.minutes,
            "busy": self.is_busy(),
            "due_in": max(0.0, self.due() - time.time()),
            "awake_for": max(0.0, awake),
            "refused": self._json("refused.json"),
        }


@exit_status()
def main(argv: Sequence[str] | None = None) -> int:
    """See the module."""
    what, root, *rest = sys.argv[1:] if argv is None else argv
    watch = IdleWatch(root)
    if what == "check":
        watch.check()
    elif what == "tell":
        print(json.dumps(watch.tell()))
    elif what == "awake":
        watch.stay_awake(float(rest[0]))
        print(json.dumps(watch.tell()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
