"""How fast does each way to draw draw, how much memory does it take, and how near is its picture?

    .venv-openvino/bin/python -m benchmarks.inference_ladder          # Stable Diffusion 1.5's size
    .venv-openvino/bin/python -m benchmarks.inference_ladder --mini   # the bundled model

From PyTorch in fp32 up: libraries, memory layout, bf16, IPEX, compiling, a scheduler of fewer
steps, OpenVINO, int8, Token Merging, four steps, a tiny VAE. Each rung is a process of its own, and
they take turns, as machines drift. At Stable Diffusion 1.5's size the weights are random and a few
steps are drawn: of 20 steps, the others are reckoned at the median of those that were timed. The
first picture of a process is not timed, but counts for the seconds to the first picture. "CPU s"
are the seconds of all cores per picture, which other programs disturb less than the clock.

With --folder the model, its exports and what was measured are kept: a second command adds a turn.
Needs 16 GB of memory and 25 GB of disk, and the better part of an hour for the exports.
IPEX has an environment of its own (`make environment-intel`); libiomp is used where
`pip install intel-openmp` has put it, tcmalloc and jemalloc where the system has them (Debian:
libtcmalloc-minimal4, libjemalloc2).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.inference_ladder.figures import figures_of, lines_of
from benchmarks.inference_ladder.measure import measure
from benchmarks.inference_ladder.prepare import prepare
from benchmarks.inference_ladder.rungs import BASE, RUNGS
from benchmarks.results import finish
from benchmarks.train_step.model import ROOT
from training.machine import vector_math

MEASURED = "measured.jsonl"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a row per rung, end with a line of JSON."""
    chosen = _parser().parse_args(argv)
    vector_math.resolve_kernels()
    rungs = [rung for rung in RUNGS if rung.key in {BASE.key, *chosen.rungs}]
    with tempfile.TemporaryDirectory() as name:
        folder = chosen.folder or Path(name)
        prepare(folder, chosen.mini, rungs)
        for turn in range(chosen.turns):
            for rung in rungs:
                print(f"turn {turn + 1} of {chosen.turns}: {rung.key}", file=sys.stderr, flush=True)
                found = measure(rung, folder, chosen)
                with (folder / MEASURED).open("a") as stream:
                    stream.write(json.dumps({"rung": rung.key, **found}) + "\n")
        measured = [json.loads(line) for line in (folder / MEASURED).read_text().splitlines()]
        figures = figures_of(measured, folder, chosen.mini, chosen.steps)
    for line in lines_of(figures):
        print(line)
    finish(figures, chosen.output)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.inference_ladder",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    keys = [rung.key for rung in RUNGS]
    parser.add_argument("--mini", action="store_true", help="the bundled model, 64 pixels, in full")
    parser.add_argument("--rungs", nargs="+", choices=keys, default=keys, metavar="RUNG",
                        help=f"of {', '.join(keys)} [all]")  # fmt: skip
    parser.add_argument("--turns", type=int, default=1, help="processes per rung [1]")
    parser.add_argument("--pictures", type=int, default=1, help="timed per process [1]")
    parser.add_argument("--steps", type=int, default=2, help="drawn at full size [2]")
    parser.add_argument("--ipex_python", type=Path, default=ROOT / ".venv-intel" / "bin" / "python",
                        help="of an environment with IPEX [.venv-intel/bin/python]")  # fmt: skip
    parser.add_argument("--folder", type=Path, help="keeps everything [a temporary folder]")
    parser.add_argument("--output", type=Path, help="a file for the figures as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
