"""What does a training step of Stable Diffusion 1.5's size take here, beside diffusers' script's?

    python -m benchmarks.train_step
    python -m benchmarks.train_step --method lora
    python -m benchmarks.train_step --peer textual_inversion.py
    python -m benchmarks.train_step --method lora --peer train_text_to_image_lora.py

Trains at 512 x 512 pixels, batch 1, with random weights in the shapes of Stable Diffusion 1.5, a
process for each precision and engine (`--frozen native compiled`); beside them
`benchmarks.train_step.reference` does what diffusers' script does, and once more with IPEX as the
reference cluster's run has it, where that imports (a word, bf16). The processes take turns, as
machines drift; the median leaves out each process's first step, which sets kernels up. A step's
operations over its seconds are set against the fastest matrix product that this machine does in the
same run.

`--peer` runs the script itself, the copy that you give: that of the release of diffusers that is
installed here, as a later one refuses it, with what it imports (torchvision, for a LoRA also
datasets) in this environment. It is started with this Python, on the CPU, on the same model and
pictures, with these flags and no others:

    --pretrained_model_name_or_path MODEL --train_data_dir PICTURES --output_dir FOLDER
    --resolution R --train_batch_size 1 --seed 7 --max_train_steps STEPS --mixed_precision P
    a word:  --placeholder_token <toy> --initializer_token toy
    a LoRA:  --cache_dir FOLDER

Needs 12 GB of memory and 5 GB of disk.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch

from benchmarks.results import finish, machine, middle
from benchmarks.train_step.flags import add_flags
from benchmarks.train_step.floor import DTYPES, peak_tflops, step_tflop
from benchmarks.train_step.model import make_inputs
from benchmarks.train_step.peer import check_peer, measure_peer, peer_flags
from benchmarks.train_step.sides import Measured, ipex_trains, measure, measure_reference
from training.errors import UserError
from training.machine import vector_math
from training.machine.cpu import this_cpu

PRECISIONS = tuple(DTYPES)
REFERENCE, REFERENCE_IPEX, PEER = "reference", "reference_ipex", "peer"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a row per precision and engine, end with a line of JSON."""
    parser = _parser()
    chosen = parser.parse_args(argv)
    vector_math.resolve_kernels()
    if chosen.peer:
        _say(f"reading the flags that {chosen.peer} has")
        try:
            check_peer(chosen.peer, chosen.method)
        except UserError as error:
            parser.error(str(error))
    tflop = step_tflop(chosen.resolution)
    peaks = measure_peaks(chosen.precision)
    with tempfile.TemporaryDirectory(dir=chosen.folder) as name:
        folder = Path(name)
        _say("writing random weights of Stable Diffusion 1.5's size")
        make_inputs(folder, chosen.method)
        try:
            turns = {precision: _take_turns(folder, precision, chosen) for precision in peaks}
        except UserError as error:
            parser.error(str(error))
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
                f"{precision:<5} {side:<14} {figures['seconds']:6.2f} s per step, "
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
            "ratio_vs_reference": ratios(found, "seconds", REFERENCE, chosen.frozen),
            "ratio_vs_ipex": ratios(found, "seconds", REFERENCE_IPEX, chosen.frozen),
            "ratio_vs_peer": ratios(found, "seconds", PEER, chosen.frozen),
            "memory_ratio": {
                precision: {
                    engine: sides[engine]["peak_gb"] / sides[REFERENCE]["peak_gb"]
                    for engine in chosen.frozen
                }
                for precision, sides in found.items()
            },
            "gemm_share": {
                precision: {
                    engine: tflop / sides[engine]["seconds"] / peaks[precision]
                    for engine in chosen.frozen
                }
                for precision, sides in found.items()
            },
            "seconds_to_first_step": {
                precision: {
                    side: figures["first_seconds"]
                    for side, figures in sides.items()
                    if "first_seconds" in figures
                }
                for precision, sides in found.items()
            },
        },
        chosen.output,
    )
    return 0


def measure_peaks(precisions: Sequence[str]) -> dict[str, float]:
    """10^12 operations per second of a matrix product, by precision."""
    return {precision: peak_tflops(DTYPES[precision]) for precision in precisions}


def ratios(
    found: Mapping[str, Mapping[str, Measured]], key: str, side: str, engines: Sequence[str]
) -> dict[str, dict[str, float]] | None:
    """The side's figure over each engine's, by precision; None where the side was not run."""
    return {
        precision: {engine: sides[side][key] / sides[engine][key] for engine in engines}
        for precision, sides in found.items()
        if side in sides
    } or None


def _take_turns(
    folder: Path, precision: str, chosen: argparse.Namespace
) -> dict[str, list[Measured]]:
    """What each side's processes took, one after the other in each turn."""

    def peer(run: Path) -> Measured:
        flags = peer_flags(chosen.method, folder, run, precision, chosen.steps, chosen.resolution)
        return measure_peer(chosen.peer, flags, chosen.steps)

    sides: dict[str, Callable[[Path], Measured]] = {
        REFERENCE: lambda _: measure_reference(folder, precision, chosen)
    }
    if ipex_trains(chosen.method, precision):
        sides[REFERENCE_IPEX] = lambda _: measure_reference(folder, precision, chosen, ipex=True)
    if chosen.peer:
        sides[PEER] = peer
    for engine in chosen.frozen:
        sides[engine] = partial(measure, folder, precision, engine, chosen)
    found: dict[str, list[Measured]] = {side: [] for side in sides}
    for turn in range(chosen.turns):
        for side, measured in sides.items():
            _say(f"turn {turn + 1} of {chosen.turns}: {precision}, {side}")
            found[side].append(measured(folder / f"{precision}-{side}-{turn}"))
    return found


def _middles(turns: list[Measured]) -> Measured:
    return {
        key: max(each[key] for each in turns)
        if key == "peak_gb"
        else middle([each[key] for each in turns])
        for key in turns[0]
    }


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
    parser.add_argument("--peer", type=Path, metavar="SCRIPT",
                        help="your copy of diffusers' own script")  # fmt: skip
    add_flags(parser)
    return parser


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
