"""One setting tried: a real training of a few steps under mpirun, watched and ended."""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from training.outputs.ticking import ticking
from training.storage.events import events_of, read_events
from training.tune.search import Measured, Setting

LEAST_STEPS, LEAST_SECONDS, MOST_STEPS = 2, 3.0, 20
"""After the first step, which sets kernels up, this much is measured."""
GRACE_SECONDS = 2.0
"""How long ranks may take to end by themselves."""
KEPT_SHARE, KEPT_BYTES = 0.05, 2**29
"""Memory that must stay free, or a trial is ended: a share of all, and at least so much."""


@dataclass
class Trials:
    """Runs settings one after the other.

    Attributes:
        program: the training's command line, without what a setting says.
        folder: temporary, with a short path: Unix sockets lie in it.
        mpirun: its path; None: there is none, and one rank runs by itself.
        cores: one CPU number per physical core.
        deadline: by time.monotonic().
        placement: variables of a rank's environment, by the number of ranks; where it has none,
            cores are shared out here.
    """

    program: Sequence[str]
    folder: Path
    mpirun: str | None
    cores: Sequence[int]
    deadline: float
    notify: Callable[[str], None]
    placement: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    _peaks: dict[tuple[str, str], int] = field(default_factory=dict)
    _number: int = 0

    def __call__(self, setting: Setting) -> Measured:
        """Measure a setting, or say why it was not."""
        if time.monotonic() >= self.deadline:
            return Measured(setting, problem="not tried: the budget is used up")
        needed = setting.ranks * self._peaks.get((setting.frozen, setting.mixed_precision), 0)
        free = psutil.virtual_memory().available - kept_free()
        if needed > max(0, free):
            sizes = f"takes {needed / 1e9:.1f} GB, {max(0, free) / 1e9:.1f} are free"
            return Measured(setting, problem=f"not tried: {sizes}")
        self._number += 1
        self.notify(f"trial {self._number}: {setting}")
        with ticking(self.notify, f"trial {self._number}"):
            found = self._run(setting)
        if found.peak:
            self._peaks[setting.frozen, setting.mixed_precision] = found.peak
        self.notify(f"trial {self._number}: {said(found)}")
        return found

    def _run(self, setting: Setting) -> Measured:
        run, log = self.folder / str(self._number), self.folder / f"{self._number}.log"
        # Started by a copy of mpirun and not through ssh, ranks are among what it has started.
        own = {"TMPDIR": str(self.folder), "I_MPI_HYDRA_BOOTSTRAP": "fork"}
        variables = {**os.environ, **own}
        words = [*self.launcher(setting), *self.program, f"--output_dir={run}",
                 f"--frozen={setting.frozen}", f"--mixed_precision={setting.mixed_precision}",
                 ]  # fmt: skip
        if self.mpirun is None:
            variables["OMP_NUM_THREADS"] = str(setting.threads)
        else:  # it looks for its parts on the PATH
            folder = str(Path(self.mpirun).parent)
            variables["PATH"] = os.pathsep.join([folder, os.environ.get("PATH", os.defpath)])
        with log.open("wb") as stream:
            process = psutil.Popen(
                words, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT,
                env=variables, start_new_session=True,
            )  # fmt: skip
            family = Family(process, str(run))
            try:
                return self._watch(setting, process, family, run, log)
            finally:
                family.end()

    def launcher(self, setting: Setting) -> list[str]:
        """What a trial's command begins with: mpirun, and what its ranks have."""
        if self.mpirun is None:
            return []
        placed = self.placement.get(str(setting.ranks)) or pinning(setting, self.cores)
        most = int(placed.get("OMP_NUM_THREADS", setting.threads))
        placed = {**placed, "OMP_NUM_THREADS": str(min(most, setting.threads))}
        words = [word for name, value in placed.items() for word in ("-genv", name, value)]
        return [self.mpirun, *words, "-n", str(setting.ranks)]

    def _watch(
        self, setting: Setting, process: psutil.Popen, family: Family, run: Path, log: Path
    ) -> Measured:
        while True:
            family.look()
            steps = events_of(read_events(run), "step", "images_per_second")[1:]
            if _enough(steps):
                speed = statistics.median(step["images_per_second"] for step in steps)
                return Measured(setting, speed, family.peak)
            problem = ""
            if process.poll() is not None:
                problem = f"it ended: {_last_error(log)}"
            elif time.monotonic() >= self.deadline:
                problem = "not measured within the budget"
            elif psutil.virtual_memory().available < kept_free():
                problem = "ended, as it would have used up the memory"
            if problem:
                return Measured(setting, peak=family.peak, problem=problem)
            time.sleep(0.1)


ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Family:
    """A process and all that it has started, also what has lost its parent since.

    Args:
        process: the first in a session of its own.
        mark: what is in the command line of every training that it starts.
    """

    def __init__(self, process: psutil.Popen, mark: str) -> None:
        self.process = process
        self.mark = mark
        self.peak = 0
        self._seen: set[psutil.Process] = set()

    def look(self) -> None:
        """See who is there now, and what the largest has taken."""
        with contextlib.suppress(psutil.Error):
            self._seen.update(self.process.children(recursive=True))
            self._seen.add(psutil.Process(self.process.pid))
        for each in self._seen:
            with contextlib.suppress(psutil.Error, OSError, ValueError):
                self.peak = max(self.peak, _peak_of(each.pid))

    def end(self) -> None:
        """Ask all of them to end, and kill those that do not; a second Ctrl-C has to wait."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
        try:
            self._end()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _end(self) -> None:
        self.look()
        with contextlib.suppress(psutil.Error):
            self.process.terminate()
        end = time.monotonic() + GRACE_SECONDS
        while time.monotonic() < end and any(_runs(each) for each in self._seen):
            time.sleep(0.05)
        self.look()
        for each in self._seen:
            with contextlib.suppress(psutil.Error):
                each.kill()
        self.process.wait()
        end = time.monotonic() + GRACE_SECONDS
        while (left := self._unseen()) and time.monotonic() < end:
            for each in left:
                with contextlib.suppress(psutil.Error):
                    each.kill()
            time.sleep(0.05)

    def _unseen(self) -> list[psutil.Process]:
        """What still runs as it was started between two looks, and its parent is gone."""
        found = []
        for each in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                own = os.getsid(each.pid) == self.process.pid or self.mark in " ".join(
                    each.cmdline()
                )
                if own and _runs(each):
                    found.append(each)
        return found


def pinning(setting: Setting, cores: Sequence[int]) -> dict[str, str]:
    """The cores of each rank: equal shares, one after the other."""
    size = max(1, len(cores) // setting.ranks)
    masks = [
        hex(sum(1 << core for core in cores[start : start + size]))
        for start in range(0, size * setting.ranks, size)
    ]
    return {"I_MPI_PIN_DOMAIN": f"[{','.join(masks)}]"}


def kept_free() -> int:
    """Bytes that no trial may take."""
    return max(KEPT_BYTES, int(KEPT_SHARE * psutil.virtual_memory().total))


def said(measured: Measured) -> str:
    """A result in a line."""
    if not measured.images_per_second:
        return measured.problem
    speed = measured.images_per_second
    return f"{speed:.3g} images/s, {1 / speed:.3g} s per image, {measured.peak / 1e9:.1f} GB"


def training_program(method: str) -> list[str]:
    """The command that trains, in this environment."""
    safe = ["-P"] if sys.flags.safe_path else []
    return [sys.executable, *safe, "-m", f"training.{method}"]


def _enough(steps: Sequence[dict[str, Any]]) -> bool:
    """Whether the steps after the first tell."""
    if len(steps) < LEAST_STEPS:
        return False
    return len(steps) >= MOST_STEPS or steps[-1]["time"] - steps[0]["time"] >= LEAST_SECONDS


def _last_error(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    told = [line for line in lines if line.startswith("error: ")]
    return (told or lines or ["it said nothing"])[-1].removeprefix("error: ")[:300]


def _peak_of(pid: int) -> int:
    """The most memory that a process has had, in bytes; here, where the system tells."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        return int(psutil.Process(pid).memory_info().rss)
    for line in status.read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def _runs(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False
