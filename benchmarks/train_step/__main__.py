"""What does a training step of Stable Diffusion 1.5's size take here, beside diffusers' script's?

    python -m benchmarks.train_step
    python -m benchmarks.train_step --method lora

Trains at 512 x 512 pixels, batch 1, with random weights in the shapes of Stable Diffusion 1.5, a
process for each precision and engine (`--frozen native compiled`); beside them
`benchmarks.train_step.reference` does what diffusers' script does. The processes take turns, as
machines drift; the median leaves out each process's first step, which sets kernels up. A step's
operations over its seconds are set against the fastest matrix product that this machine does in the
same run.
Needs 8 GB of memory and 5 GB of disk.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.results import finish, machine, middle
from benchmarks.train_step.flags import add_flags, training_flags
from benchmarks.train_step.floor import DTYPES, peak_tflops, step_tflop
from benchmarks.train_step.model import ROOT, make_model
from tests.captioned import make_captioned
from training.machine import vector_math
from training.machine.cpu import this_cpu
from training.storage.events import events_of, read_events

PRECISIONS = tuple(DTYPES)
REFERENCE = "reference"
Measured = dict[str, float]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a row per precision and engine, end with a line of JSON."""
    chosen = _parser().parse_args(argv)
    vector_math.resolve_kernels()
    tflop = step_tflop(chosen.resolution)
    peaks = measure_peaks(chosen.precision)
    with tempfile.TemporaryDirectory(dir=chosen.folder) as name:
        folder = Path(name)
        _say("writing random weights of Stable Diffusion 1.5's size")
        make_model(folder / "model")
        make_captioned(folder / "pictures")
        turns = {precision: _take_turns(folder, precision, chosen) for precision in peaks}
    # Once more: what else ran on the machine before may have ended since.
    peaks = {key: max(peaks[key], again) for key, again in measure_peaks(chosen.precision).items()}
    found = {
        precision: {side: _middles(measured) for side, measured in sides.items()}
        for precision, sides in turns.items()
    }
    for precision, sides in found.items():
        for side, figures in sides.items():
            share = tflop / figures["seconds"] / peaks[precision]
            print(
                f"{precision:<5} {side:<10} {figures['seconds']:6.2f} s per step, "
                f"{share:4.0%} of {peaks[precision]:.2f} TFLOP/s, "
                f"{figures['peak_gb']:5.2f} GB at most"
            )
    finish(
        {
            "benchmark": "train_step",
            "machine": {**machine(), "instructions": this_cpu().flags},
            "torch": str(torch.__version__),
            "method": chosen.method,
            "steps": chosen.steps,
            "step_tflop": tflop,
            "peak_tflops": peaks,
            "turns": turns,
            "ratio_vs_reference": _ratios(found, "seconds", chosen.frozen),
            "memory_ratio": {
                precision: {engine: 1 / ratio for engine, ratio in ratios.items()}
                for precision, ratios in _ratios(found, "peak_gb", chosen.frozen).items()
            },
            "gemm_share": {
                precision: {
                    engine: tflop / sides[engine]["seconds"] / peaks[precision]
                    for engine in chosen.frozen
                }
                for precision, sides in found.items()
            },
            "seconds_to_first_step": {
                precision: {engine: sides[engine]["first_seconds"] for engine in chosen.frozen}
                for precision, sides in found.items()
            },
        },
        chosen.output,
    )
    return 0


def measure_peaks(precisions: Sequence[str]) -> dict[str, float]:
    """10^12 operations per second of a matrix product, by precision."""
    return {precision: peak_tflops(DTYPES[precision]) for precision in precisions}


def _take_turns(
    folder: Path, precision: str, chosen: argparse.Namespace
) -> dict[str, list[Measured]]:
    """What the reference's and each engine's processes took, one after the other in each turn."""
    sides: dict[str, list[Measured]] = {REFERENCE: [], **{engine: [] for engine in chosen.frozen}}
    for turn in range(chosen.turns):
        _say(f"turn {turn + 1} of {chosen.turns}: {precision}")
        sides[REFERENCE].append(measure_reference(folder, precision, chosen))
        for engine in chosen.frozen:
            run = folder / f"{precision}-{engine}-{turn}"
            sides[engine].append(measure(folder, run, precision, engine, chosen))
    return sides


def _middles(turns: list[Measured]) -> Measured:
    return {
        key: max(each[key] for each in turns)
        if key == "peak_gb"
        else middle([each[key] for each in turns])
        for key in turns[0]
    }


def _ratios(
    found: dict[str, dict[str, Measured]], key: str, engines: Sequence[str]
) -> dict[str, dict[str, float]]:
    """The reference's figure over each engine's, by precision."""
    return {
        precision: {engine: sides[REFERENCE][key] / sides[engine][key] for engine in engines}
        for precision, sides in found.items()
    }


def measure(
    folder: Path, run: Path, precision: str, engine: str, chosen: argparse.Namespace
) -> Measured:
    """Train `chosen.steps` steps in a process of its own.

    Args:
        engine: the value of `--frozen`.

    Returns:
        seconds: the median per step; first_seconds: from the process's start to the end of
        its first step; peak_gb: the most memory that it had at once, in 10^9 bytes.

    Raises:
        RuntimeError: the process failed.
    """
    log = run.with_suffix(".log")
    started = time.time()
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", f"training.{chosen.method}",
             *training_flags(folder, run, engine, precision, chosen.steps, chosen)],
            cwd=ROOT, stdout=stream, stderr=subprocess.STDOUT,
        )  # fmt: skip
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"training ended with {process.returncode}:\n{log.read_text()[-2000:]}")
    first, *steps = events_of(read_events(run), "step", "images_per_second")
    return {
        "seconds": middle([1 / step["images_per_second"] for step in steps]),
        "first_seconds": first["time"] - started,
        "peak_gb": usage.ru_maxrss * 1024 / 1e9,
    }


def measure_reference(folder: Path, precision: str, chosen: argparse.Namespace) -> Measured:
    """Do the same number of steps as diffusers' script does them; returns as `measure`.

    Raises:
        CalledProcessError: the process failed.
    """
    words = (folder / "model", chosen.method, precision, chosen.steps, chosen.resolution)
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.train_step.reference", *map(str, words)],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = json.loads(done.stdout.splitlines()[-1])
    return {"seconds": middle(found["seconds"][1:]), "peak_gb": found["peak_gb"]}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.train_step",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--steps", type=int, default=6, help="per process [6]")
    parser.add_argument("--turns", type=int, default=2, help="processes per precision [2]")
    parser.add_argument("--precision", choices=PRECISIONS, nargs="+", default=list(PRECISIONS),
                        help="[both]")  # fmt: skip
    add_flags(parser)
    return parser


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
