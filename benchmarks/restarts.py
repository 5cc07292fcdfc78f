"""Does a resumed run take the same steps, to the last bit, every time that it is resumed?

    python -m benchmarks.restarts --count 100

Resumes a run of the random tiny model again and again from one checkpoint, each time in a process
of its own with two threads and with a process beside it that keeps a processor busy, and counts the
distinct results of the next steps. Every restart is done twice at the same time: as programs do it,
and without the first calls of `training.machine.vector_math`.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks.restarts_process import THREADS
from benchmarks.results import finish, machine
from tests.short_run import short_run
from tests.tiny_model import make_pictures, make_tiny_model
from training.machine import vector_math
from training.machine.cpu import this_cpu

RESOLUTION = 64
"""A picture's latents then have 4,096 elements, the fewest that two threads share."""
CHECKPOINT, STEPS, SEED = 2, 2, 3
"""With this seed the two steps after the checkpoint draw the picture's mirror image and itself."""
FORKS = 10
"""Restarts that are forked from one start of Python, which has addresses and hashes of its own."""
STACKS = {"native": "upstream", "ipex": "intel"}
KINDS = {"cured": (), "not cured": ("--without-the-cure",)}
BUSY = "while True: pass"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a table, end with a line of JSON; 1 where cured restarts differ."""
    chosen = _parser().parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that nothing is left busy
    vector_math.resolve_kernels()
    found = []
    with tempfile.TemporaryDirectory() as name, _busy():
        folder = Path(name)
        make_tiny_model(folder / "model")
        make_pictures(folder / "pictures", 1)
        for precision in chosen.precision:
            for frozen in chosen.frozen:
                run = _checkpointed(folder, precision, frozen)
                found.append(_restarts(run, chosen.count, precision, frozen))
                print(_row(found[-1]), flush=True)
    figures = {
        "benchmark": "restarts",
        "machine": {**machine(), "instructions": this_cpu().flags},
        "torch": str(torch.__version__),
        "threads": THREADS,
        "steps": STEPS,
        "restarts": found,
    }
    finish(figures, chosen.output)
    return max(kind["cured"]["distinct"] > 1 for kind in found)


@contextmanager
def _busy() -> Iterator[None]:
    """A process beside the others that computes all the time."""
    process = subprocess.Popen([sys.executable, "-c", BUSY])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _checkpointed(folder: Path, precision: str, frozen: str) -> Path:
    """Run up to a checkpoint, as a person would; returns the run's folder."""
    run = folder / f"{precision}-{frozen}"
    changes = {
        "resolution": RESOLUTION,
        "max_train_steps": CHECKPOINT,
        "seed": SEED,
        "mixed_precision": precision,
        "frozen": frozen,
        "stack": STACKS[frozen],
    }
    flags = short_run(folder / "model", folder / "pictures", run / "latents", run, **changes)
    subprocess.run(
        [sys.executable, "-m", "training.textual_inversion", *flags],
        check=True,
        capture_output=True,
    )
    return run


def _restarts(run: Path, count: int, precision: str, frozen: str) -> dict[str, Any]:
    """Restart `count` times both ways, and count what came out."""
    digests: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for done in range(0, count, FORKS):
        forks = min(FORKS, count - done)
        words = ["-m", "benchmarks.restarts_process", str(run), str(STEPS)]
        words += [f"--count={forks}", f"--stack={STACKS[frozen]}"]
        pair = {
            kind: subprocess.Popen(
                [sys.executable, *words, *more], stdout=subprocess.PIPE, text=True
            )
            for kind, more in KINDS.items()
        }
        try:
            for kind, process in pair.items():
                printed, _ = process.communicate()
                found = re.findall(r"^[0-9a-f]{64}$", printed, re.MULTILINE)
                if process.returncode or len(found) != forks:
                    raise SystemExit(f"a restart failed ({process.returncode}): {printed}")
                digests[kind] += found
        finally:
            for process in pair.values():
                process.kill()
        print(f"{precision} {frozen}: {done + forks} of {count}", file=sys.stderr, flush=True)
    return {"precision": precision, "frozen": frozen, **counted(digests)}


def counted(digests: Mapping[str, Sequence[str]]) -> dict[str, dict[str, Any]]:
    """How many restarts of each kind came to which result, the most frequent first."""
    return {
        kind: {
            "restarts": len(values),
            "distinct": len(set(values)),
            "results": {digest[:12]: count for digest, count in Counter(values).most_common()},
        }
        for kind, values in digests.items()
    }


def _row(found: dict[str, Any]) -> str:
    cells = [
        f"{kind}: {max(counts['results'].values())} of {counts['restarts']} agree"
        for kind, counts in found.items()
        if isinstance(counts, dict)
    ]
    return f"{found['precision']:5} {found['frozen']:7} {', '.join(cells)}"


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.restarts",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    precisions = ["no", "bf16"] if this_cpu().computes_bf16 else ["no"]
    ipex = importlib.util.find_spec("intel_extension_for_pytorch") is not None
    frozen = ["native", "ipex"] if ipex else ["native"]
    add = made.add_argument
    add("--count", type=int, default=100, help="restarts of each kind (default: %(default)s)")
    add("--precision", nargs="+", choices=("no", "bf16"), default=precisions)
    add("--frozen", nargs="+", choices=("native", "ipex"), default=frozen)
    add("--output", type=Path, metavar="FILE", help="write the figures here, too")
    return made


if __name__ == "__main__":
    sys.exit(main())
