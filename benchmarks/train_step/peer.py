"""diffusers' own script, a copy that the user has, as a process: what `--peer` compares with.

The script logs no times. Its bar of steps, which tqdm draws to standard error, advances at the end
of each, so the moments at which it does are a step's seconds, and the first one tells how long the
start took. Two runs with different `--max_train_steps` would need no bar to be read, but the
difference of two starts, of tens of seconds each, drifts by more than a step's seconds; they would
give the mean of all steps, where the other sides give the median, and take twice as long. A pipe
is enough for the bar: the scripts draw it after each step (`set_postfix`), terminal or not.
"""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.results import middle
from benchmarks.train_step.flags import WORD
from training.errors import UserError

SCRIPTS = {
    "textual_inversion": "textual_inversion.py",
    "lora": "train_text_to_image_lora.py",
}
"""Their names among diffusers' examples, by our methods."""
BAR = re.compile(rb"Steps:[^\r\n]*?(\d+)/(\d+) \[")
SHOWN = 12
"""Lines of what a script printed that a message repeats."""


def peer_flags(
    method: str, folder: Path, run: Path, precision: str, steps: int, resolution: int
) -> list[str]:
    """The flags that the script is started with: a few steps of batch 1.

    Args:
        folder: with the model and the pictures.
        run: where the script writes.
        precision: the value of `--mixed_precision`.
    """
    # Without a place for it, `datasets` keeps its cache of the pictures in the user's home.
    own = ("--cache_dir", str(run.with_suffix(".cache"))) if method == "lora" else WORD[method]
    return [
        *own,
        "--pretrained_model_name_or_path", str(folder / "model"),
        "--train_data_dir", str(folder / "pictures"),
        "--resolution", str(resolution), "--train_batch_size", "1", "--seed", "7",
        "--max_train_steps", str(steps), "--mixed_precision", precision,
        "--output_dir", str(run),
    ]  # fmt: skip


def named_flags(method: str) -> list[str]:
    """The names of the flags that the script is started with."""
    flags = peer_flags(method, Path("folder"), Path("run"), "no", 1, 512)
    return [word for word in flags if word.startswith("--")]


def check_peer(script: Path, method: str) -> None:
    """Find out, in the seconds that its imports take, whether the script can be started.

    Raises:
        UserError: it is not there, does not start, or does not know a flag.
    """
    if not script.is_file():
        raise UserError(
            f"--peer {script}: there is no such file. Give the path of your copy of diffusers' "
            f"{SCRIPTS[method]}."
        )
    done = subprocess.run(
        [sys.executable, str(script), "--help"],
        env=_environment(), stdin=subprocess.DEVNULL, capture_output=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise UserError(
            f"--peer {script}: it does not start; with --help it ended with {done.returncode}:\n"
            f"{last_lines(done.stdout + done.stderr)}\n"
            f"It runs in the environment of {sys.executable}."
        )
    known = set(re.findall(r"--\w+", done.stdout.decode(errors="replace")))
    missing = [flag for flag in named_flags(method) if flag not in known]
    if missing:
        raise UserError(
            f"--peer {script}: it does not know {', '.join(missing)}. --method {method} is "
            f"compared with diffusers' {SCRIPTS[method]}."
        )


def measure_peer(script: Path, flags: list[str], steps: int) -> dict[str, float]:
    """Run the script to its end.

    Args:
        flags: as `peer_flags` gives them.
        steps: the number of steps in them.

    Returns:
        seconds: the median per step without the first; first_seconds: from the process's start to
        the end of its first step; peak_gb: the most memory that it had at once, in 10^9 bytes.

    Raises:
        UserError: it ended with an error, or showed no bar of steps.
    """
    printed = bytearray()
    bar = StepsBar(steps)
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, str(script), *flags],
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdout is not None
    try:
        while chunk := os.read(process.stdout.fileno(), 1 << 16):
            bar.read(chunk, time.perf_counter() - started)
            printed += chunk
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    finally:
        if process.returncode is None:
            process.kill()
            process.wait()
        process.stdout.close()
    if process.returncode:
        raise UserError(
            f"--peer {script}: it ended with {process.returncode}:\n{last_lines(printed)}\n"
            f"It was started with {' '.join(flags)}."
        )
    seconds = bar.seconds()
    if not seconds:
        raise UserError(
            f"--peer {script}: of {steps} steps its bar showed {sorted(bar.ended)}; a line like "
            f'"Steps:  50%|##  | 3/6 [" is expected at the end of each. It printed:\n'
            f"{last_lines(printed)}"
        )
    return {
        "seconds": middle(seconds),
        "first_seconds": bar.ended[min(bar.ended)],
        "peak_gb": usage.ru_maxrss * 1024 / 1e9,
    }


class StepsBar:
    """When each step ended, from what tqdm draws.

    Attributes:
        ended: by the step's number, from 1, the moment at which the bar first showed it.
    """

    def __init__(self, steps: int) -> None:
        self.ended: dict[int, float] = {}
        self._steps = steps
        self._line = b""

    def read(self, chunk: bytes, now: float) -> None:
        """Take what was printed until `now`; a bar may be cut anywhere."""
        self._line += chunk
        for count, of in BAR.findall(self._line):
            if int(of) == self._steps and int(count):
                self.ended.setdefault(int(count), now)
        # A bar begins with a carriage return and ends with nothing.
        self._line = re.split(rb"[\r\n]", self._line)[-1]

    def seconds(self) -> list[float]:
        """Of each step after the first; one that was not shown has those of the next."""
        return [
            (self.ended[later] - self.ended[sooner]) / (later - sooner)
            for sooner, later in itertools.pairwise(sorted(self.ended))
            for _ in range(later - sooner)
        ]


def last_lines(printed: bytes | bytearray) -> str:
    """The end of what a process printed, of each bar its last state."""
    lines = printed.decode(errors="replace").split("\n")
    shown = [line.rstrip().rpartition("\r")[2] for line in lines if line.strip()]
    return "\n".join(shown[-SHOWN:])


def _environment() -> dict[str, str]:
    """This process's, with the bar shown, and on the CPU also where there is a GPU."""
    kept = {name: value for name, value in os.environ.items() if name != "TQDM_DISABLE"}
    return {**kept, "ACCELERATE_USE_CPU": "true"}
