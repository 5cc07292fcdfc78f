"""After how many steps does a learned word draw its concept, with these flags or those?

    python -m benchmarks.steps_to_quality
    python -m benchmarks.steps_to_quality --variant "double rate: --learning_rate 1e-2"

Trains the bundled miniature on its five pictures, as `make demo` does but in one process, with
batch 1 and a learning rate of 5e-3, once for each variant and seed, and keeps the word every few
steps. The judge then looks at the pictures that each kept word draws, the same seeds for all, until
it finds the concept in nearly all of two kept words in a row: the first of these is the variant's
figure for that seed. Takes half an hour on two cores.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.results import finish, interval_of_median, machine, middle
from training.config.textual_inversion import TextualInversionConfig
from training.inference.samples import build_pipeline, draw
from training.machine import vector_math
from training.miniature.judge import finds_concept
from training.models.embeds import load_embeds
from training.models.placeholder import models_with_rows
from training.storage.run_directory import read_config

ROOT = Path(__file__).resolve().parents[1]
MINIATURE = ROOT / "training" / "miniature"
VARIANTS = ("as diffusers:", "--keep_embedding_norm: --keep_embedding_norm")
PROMPTS = (
    "a photo of a <buddy> on a white background",
    "a photo of a <buddy> on a blue background",
)
FIRST_SEED, SAMPLER_STEPS, GUIDANCE = 5000, 20, 4.0


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a row per variant, end with a line of JSON."""
    chosen = _parser().parse_args(argv)
    vector_math.resolve_kernels()
    variants = dict(_named(text) for text in chosen.variant or VARIANTS)
    found: dict[str, list[int]] = {name: [] for name in variants}
    for seed in range(chosen.first_seed, chosen.first_seed + chosen.seeds):
        for name, flags in variants.items():
            with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
                run = train(Path(folder) / "run", seed, flags, chosen)
                found[name].append(steps_needed(run, chosen))
            print(f"seed {seed}, {name}: {found[name][-1]} steps", file=sys.stderr, flush=True)
    for name, steps in found.items():
        low, high = interval_of_median(steps)
        print(f"{name:<24} {middle(steps):5.0f} steps (median; {low} to {high})  {steps}")
    finish(
        {
            "benchmark": "steps_to_quality",
            "machine": machine(),
            "variants": variants,
            "pictures": chosen.pictures,
            "wanted": chosen.wanted,
            "every": chosen.every,
            "max_train_steps": chosen.max_train_steps,
            "steps": found,
        },
        chosen.output,
    )
    return 0


def train(run: Path, seed: int, flags: Sequence[str], chosen: argparse.Namespace) -> Path:
    """Train as `make demo` does, but for what is said; returns the run's folder.

    Raises:
        RuntimeError: the training failed.
    """
    done = subprocess.run(
        [sys.executable, "-m", "training.textual_inversion",
         "--config", str(MINIATURE / "demo.toml"),
         "--pretrained_model_name_or_path", str(MINIATURE / "model"),
         "--train_data_dir", str(MINIATURE / "concept"), "--output_dir", str(run),
         "--seed", str(seed), "--max_train_steps", str(chosen.max_train_steps),
         "--train_batch_size", "1", "--learning_rate", "5e-3",
         "--save_steps", str(chosen.every),
         "--checkpointing_steps", "100000", "--validation_steps", "100000",
         "--num_validation_images", "1", "--evaluation_steps", "100000", "--report_to", "none",
         *flags],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"training ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return run


def steps_needed(run: Path, chosen: argparse.Namespace) -> int:
    """The first kept step from which the word draws its concept; if none, one step too many."""
    config, _ = read_config(run, TextualInversionConfig)
    concept = config.concepts[0]
    enough = 0
    for step in range(chosen.every, chosen.max_train_steps + 1, chosen.every):
        rows = load_embeds(run / f"{concept.file_stem}-steps-{step}.safetensors")
        pipeline = build_pipeline(models_with_rows(config.model, [(concept, rows)]))
        pictures = []
        for number, prompt in enumerate(PROMPTS):
            first = FIRST_SEED + number * chosen.pictures
            seeds = list(range(first, first + chosen.pictures // 2))
            pictures += draw(pipeline, prompt, seeds, config.side, SAMPLER_STEPS, GUIDANCE)
        enough = enough + 1 if sum(finds_concept(pictures)) >= chosen.wanted else 0
        if enough == 2:
            return step - chosen.every
    return chosen.max_train_steps + 1


def _named(text: str) -> tuple[str, list[str]]:
    name, _, flags = text.partition(":")
    return name.strip(), shlex.split(flags)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.steps_to_quality",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--variant", action="append", metavar='"NAME: FLAGS"',
                        help="flags of training.textual_inversion; may be repeated")  # fmt: skip
    parser.add_argument("--seeds", type=int, default=8, help="runs per variant [8]")
    parser.add_argument("--first_seed", type=int, default=0, help="of those runs [0]")
    parser.add_argument("--max_train_steps", type=int, default=120, help="per run [120]")
    parser.add_argument("--every", type=int, default=5, help="steps between kept words [5]")
    parser.add_argument("--pictures", type=int, default=12, help="per kept word [12]")
    parser.add_argument("--wanted", type=int, default=11, help="of these with the concept [11]")
    parser.add_argument("--folder", type=Path, help="for the runs [a temporary folder]")
    parser.add_argument("--output", type=Path, help="a file for the figures as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
