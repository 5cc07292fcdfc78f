"""What does a training step of Stable Diffusion 1.5's size spend its time on?

    python -m benchmarks.train_step.breakdown
    python -m benchmarks.train_step.breakdown --method lora --frozen native compiled

Trains as `benchmarks.train_step` does, a process per engine, and looks at its last step with
PyTorch's profiler: each operation's own seconds, added up by kind. Needs 12 GB of memory for the
compiled engine, 8 for the others, and 5 GB of disk; three minutes per engine on two cores, and the
compiled one compiles for minutes before, the first time.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.results import finish, machine
from benchmarks.train_step.flags import add_flags, training_flags
from benchmarks.train_step.model import ROOT, make_inputs
from training.machine import vector_math
from training.machine.cpu import this_cpu

KINDS = {
    "convolution": ("convolution", "aten::bmm"),
    "attention": ("attention", "scaled_dot_product"),
    "linear layers": ("aten::mm", "aten::addmm", "aten::baddbmm", "_linear"),
}
"""By parts of the names of their operations; the first that fits. A batch of matrix products is
part of our own convolution: nothing else in this UNet has any."""
REST = "all else"
STEPS = 3
"""Of which the last is looked at: the first ones set kernels up."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure each engine, print a row for each, end with a line of JSON."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["--one"]:
        return profiled(words[1], words[2:])
    chosen = _parser().parse_args(words)
    vector_math.resolve_kernels()
    with tempfile.TemporaryDirectory(dir=chosen.folder) as name:
        folder = Path(name)
        print("writing random weights of Stable Diffusion 1.5's size", file=sys.stderr, flush=True)
        make_inputs(folder, chosen.method)
        found = {engine: measure(folder, engine, chosen) for engine in chosen.frozen}
    for engine, kinds in found.items():
        shares = ", ".join(f"{kind} {seconds:.2f} s" for kind, seconds in kinds.items())
        print(f"{engine:<9} {sum(kinds.values()):5.2f} s per step: {shares}")
    finish(
        {
            "benchmark": "step_breakdown",
            "machine": {**machine(), "instructions": this_cpu().flags},
            "torch": str(torch.__version__),
            "method": chosen.method,
            "precision": chosen.precision,
            "resolution": chosen.resolution,
            "seconds": found,
        },
        chosen.output,
    )
    return 0


def measure(folder: Path, engine: str, chosen: argparse.Namespace) -> dict[str, float]:
    """Seconds of a step by kind of operation.

    Args:
        folder: with the model and the pictures; the run goes there, too.
        engine: the value of `--frozen`.

    Raises:
        RuntimeError: the process failed.
    """
    print(f"training with --frozen {engine}", file=sys.stderr, flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.train_step.breakdown", "--one", chosen.method,
         *training_flags(folder, folder / engine, engine, chosen.precision, STEPS, chosen)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    rows = [line for line in done.stdout.splitlines() if line.startswith('{"profile"')]
    if done.returncode or not rows:
        raise RuntimeError(f"training ended with {done.returncode}:\n{done.stdout[-2000:]}")
    return by_kind(json.loads(rows[-1])["profile"])


def by_kind(operations: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Seconds by kind, from (name, own seconds) of each operation."""
    found = dict.fromkeys((*KINDS, REST), 0.0)
    for name, seconds in operations:
        parts = (kind for kind, marks in KINDS.items() if any(mark in name for mark in marks))
        found[next(parts, REST)] += seconds
    return found


def profiled(method: str, flags: Sequence[str]) -> int:
    """Train in this process, with the profiler on in step `STEPS`; prints what it saw as JSON."""
    from training.loop.step import TrainingStep

    plain: Callable[..., Any] = TrainingStep.__call__

    @functools.wraps(plain)
    def step(self: TrainingStep, number: int, *arguments: Any, **named: Any) -> Any:
        if number != STEPS - 1:
            return plain(self, number, *arguments, **named)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            result = plain(self, number, *arguments, **named)
        rows = [(row.key, row.self_cpu_time_total / 1e6) for row in profile.key_averages()]
        print(json.dumps({"profile": rows}), flush=True)
        return result

    setattr(TrainingStep, "__call__", step)  # noqa: B010  (a method, for mypy, stays as it is)
    return int(importlib.import_module(f"training.{method}").main(list(flags)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.train_step.breakdown",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--precision", choices=("no", "bf16"), default="no", help="[no: fp32]")
    add_flags(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
