"""What does a training step of Stable Diffusion 1.5's size take here, beside diffusers' script's?

    python -m benchmarks.train_step
    python -m benchmarks.train_step --method lora

Trains at 512 x 512 pixels, batch 1, with random weights in the shapes of Stable Diffusion 1.5, a
process for each precision; beside it `benchmarks.reference_step` does what diffusers' script does.
The processes take turns, as machines drift; the median leaves out each process's first step, which
sets kernels up. A step's operations over its seconds are set against the fastest matrix product
that this machine does in the same run. Needs 8 GB of memory and 5 GB of disk.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from benchmarks.floor import peak_tflops, step_tflop
from benchmarks.results import finish, machine, middle
from tests.captioned import make_captioned
from tests.tiny_model import make_tokenizer
from training.machine import vector_math
from training.machine.cpu import this_cpu
from training.storage.events import events_of, read_events

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "training" / "models" / "files" / "stable_diffusion_1"
DTYPES = {"no": torch.float32, "bf16": torch.bfloat16}
PRECISIONS = tuple(DTYPES)
WORD = {"textual_inversion": ("--placeholder_token", "<toy>", "--initializer_token", "toy")}
"""What a method needs beside the flags of all."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a row per precision, end with a line of JSON."""
    chosen = _parser().parse_args(argv)
    vector_math.resolve_kernels()
    found: dict[str, dict[str, list[dict[str, float]]]] = {
        precision: {"ours": [], "reference": []} for precision in chosen.precision
    }
    tflop = step_tflop(chosen.resolution)
    peaks = {precision: peak_tflops(DTYPES[precision]) for precision in chosen.precision}
    with tempfile.TemporaryDirectory(dir=chosen.folder) as name:
        folder = Path(name)
        print("writing random weights of Stable Diffusion 1.5's size", file=sys.stderr, flush=True)
        make_model(folder / "model")
        make_captioned(folder / "pictures")
        for turn in range(chosen.turns):
            for precision, sides in found.items():
                print(
                    f"turn {turn + 1} of {chosen.turns}: {precision}", file=sys.stderr, flush=True
                )
                run = folder / f"{precision}-{turn}"
                sides["reference"].append(measure_reference(folder, precision, chosen))
                sides["ours"].append(measure(folder, run, precision, chosen))
    for precision, sides in found.items():
        for side, turns in sides.items():
            print(
                f"{precision:<5} {side:<10} {middle([turn['seconds'] for turn in turns]):6.2f} s "
                f"per step, {max(turn['peak_gb'] for turn in turns):5.2f} GB at most"
            )
        ours = middle([turn["seconds"] for turn in sides["ours"]])
        print(
            f"{precision:<5} {tflop:.2f} TFLOP per step: ours does {tflop / ours:.2f} TFLOP/s, "
            f"{tflop / ours / peaks[precision]:.0%} of {peaks[precision]:.2f} at best"
        )
    figures = {
        "benchmark": "train_step",
        "machine": {**machine(), "instructions": this_cpu().flags},
        "torch": str(torch.__version__),
        "method": chosen.method,
        "frozen": chosen.frozen,
        "steps": chosen.steps,
        "precisions": found,
        "step_tflop": tflop,
        "peak_tflops": peaks,
        "gemm_share": {
            precision: tflop
            / middle([turn["seconds"] for turn in sides["ours"]])
            / peaks[precision]
            for precision, sides in found.items()
        },
        "ratio_vs_reference": {
            precision: [
                theirs["seconds"] / ours["seconds"]
                for ours, theirs in zip(sides["ours"], sides["reference"], strict=True)
            ]
            for precision, sides in found.items()
        },
        "memory_ratio": {
            precision: max(turn["peak_gb"] for turn in sides["ours"])
            / max(turn["peak_gb"] for turn in sides["reference"])
            for precision, sides in found.items()
        },
    }
    finish(figures, chosen.output)
    return 0


def make_model(folder: Path) -> None:
    """Write a pipeline of Stable Diffusion 1.5's shapes with random weights, in bf16."""
    torch.manual_seed(0)

    def config(model: type[Any], part: str) -> Any:
        return model.from_config(model.load_config(str(CONFIGS / part)))

    text_encoder = CLIPTextModel(CLIPTextConfig.from_pretrained(CONFIGS / "text_encoder"))
    StableDiffusionPipeline(
        vae=config(AutoencoderKL, "vae").to(torch.bfloat16),
        text_encoder=text_encoder.to(torch.bfloat16),
        tokenizer=make_tokenizer(folder / "tokenizer"),
        unet=config(UNet2DConditionModel, "unet").to(torch.bfloat16),
        scheduler=config(DDIMScheduler, "scheduler"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)


def measure(
    folder: Path, run: Path, precision: str, chosen: argparse.Namespace
) -> dict[str, float]:
    """Train `chosen.steps` steps in a process of its own.

    Returns:
        seconds: the median per step; peak_gb: the most memory that the process had at once, in
        10^9 bytes.

    Raises:
        RuntimeError: the process failed.
    """
    log = run.with_suffix(".log")
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", f"training.{chosen.method}", *WORD.get(chosen.method, ()),
             "--pretrained_model_name_or_path", str(folder / "model"),
             "--train_data_dir", str(folder / "pictures"),
             "--resolution", str(chosen.resolution), "--train_batch_size", "1", "--seed", "7",
             "--max_train_steps", str(chosen.steps), "--mixed_precision", precision,
             "--frozen", chosen.frozen, "--report_to", "none", "--evaluation_steps", "1000000",
             "--output_dir", str(run)],
            cwd=ROOT, stdout=stream, stderr=subprocess.STDOUT,
        )  # fmt: skip
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"training ended with {process.returncode}:\n{log.read_text()[-2000:]}")
    steps = events_of(read_events(run), "step", "images_per_second")[1:]
    return {
        "seconds": middle([1 / step["images_per_second"] for step in steps]),
        "peak_gb": usage.ru_maxrss * 1024 / 1e9,
    }


def measure_reference(folder: Path, precision: str, chosen: argparse.Namespace) -> dict[str, float]:
    """Do the same number of steps as diffusers' script does them; returns as `measure`.

    Raises:
        CalledProcessError: the process failed.
    """
    words = (folder / "model", chosen.method, precision, chosen.steps, chosen.resolution)
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.reference_step", *map(str, words)],
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
    parser.add_argument("--method", choices=("textual_inversion", "lora"),
                        default="textual_inversion", help="[textual_inversion]")  # fmt: skip
    parser.add_argument("--steps", type=int, default=6, help="per process [6]")
    parser.add_argument("--turns", type=int, default=2, help="processes per precision [2]")
    parser.add_argument("--resolution", type=int, default=512, help="pixels [512]")
    parser.add_argument("--frozen", choices=("native", "ipex", "compiled"),
                        default="native",
                        help="ipex needs .venv-intel, compiled g++ [native]")  # fmt: skip
    parser.add_argument("--precision", choices=PRECISIONS, nargs="+", default=list(PRECISIONS),
                        help="[both]")  # fmt: skip
    parser.add_argument("--folder", type=Path, help="for the weights [a temporary folder]")
    parser.add_argument("--output", type=Path, help="a file for the figures as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
