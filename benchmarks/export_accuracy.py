"""Does an export draw what it is asked for as often as the model in fp32?

    .venv-openvino/bin/python -m benchmarks.export_accuracy

Exports the bundled model in several ways, has each draw the captions of
`python -m training.miniature.check` from the same noise, and lets the same judge look: it counts
the pictures whose shape and colour are as asked. Two ways are first trained in 8 bits
(`training.quantize`) on other scenes. Takes a quarter of an hour on two cores.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from benchmarks.results import finish, machine
from training import export, quantize
from training.config.groups import ModelConfig
from training.inference import engines
from training.inference.generate import source_of_run
from training.inference.settings import Settings, Source
from training.machine import vector_math
from training.machine.cpu import this_cpu
from training.machine.precision import resolve_dtype
from training.miniature.check import GUIDANCE, MODEL, SCENES_SEED, STEPS
from training.miniature.judge import judge_pictures
from training.miniature.networks.vae import PICTURE_SIZE
from training.miniature.quantize_demo import CONFIG
from training.miniature.scenes.captions import full_caption
from training.miniature.scenes.pictures import write_captioned
from training.miniature.scenes.scene import sample_scenes

WAYS: dict[str, list[str]] = {
    "fp32": [],
    "bf16": ["--weights", "bf16"],
    "int8": ["--weights", "int8"],
    "hybrid": ["--weights", "hybrid"],
    "merged": ["--merge_tokens", "0.4"],
    "hybrid-merged": ["--weights", "hybrid", "--merge_tokens", "0.4"],
}
"""Flags of `training.export`, by the name of the row."""
TRAINED: dict[str, list[str]] = {"qat": [], "qat-merged": ["--merge_tokens", "0.4"]}
"""Flags of `training.quantize` for rows that are trained, over those of `make demo-quantize`."""
TRAINING_SCENES, TRAINING_SEED = 96, 4_002


def main(argv: Sequence[str] | None = None) -> int:
    """Export, draw and count; a row per way, and a line of JSON at the end."""
    chosen = _parser().parse_args(argv)
    vector_math.resolve_kernels()
    scenes = sample_scenes(chosen.captions, SCENES_SEED) * chosen.seeds
    captions = [full_caption(scene) for scene in scenes]
    calibrate_on = sorted({full_caption(scene) for scene in sample_scenes(100, SCENES_SEED + 1)})
    right: dict[str, list[bool]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "prompts.txt").write_text("\n".join(calibrate_on) + "\n")
        write_captioned(sample_scenes(TRAINING_SCENES, TRAINING_SEED), folder / "scenes")
        for way in chosen.ways:
            of, flags = ["--model", str(MODEL)], WAYS.get(way, [])
            if way in TRAINED:
                _say(f"{way}: training")
                if quantize.main([*_training(folder, way), *TRAINED[way]]):
                    return 1
                of = [str(folder / f"{way}-run")]
            if "hybrid" in flags:
                flags = [*flags, "--calibration_prompts", str(folder / "prompts.txt")]
            _say(f"{way}: exporting")
            if export.main([*of, "--output_dir", str(folder / way), *flags]):
                return 1
            pictures = _draw(folder, way, captions)
            verdicts = judge_pictures(pictures)
            pairs = zip(scenes, verdicts, strict=True)
            right[way] = [(s.shape, s.color) == (v.shape, v.color) for s, v in pairs]
    figures = {
        "benchmark": "export_accuracy",
        "machine": {**machine(), "instructions": this_cpu().flags},
        "pictures": len(scenes),
        "ways": {way: _figures(hits, right.get("fp32")) for way, hits in right.items()},
    }
    for way, found in figures["ways"].items():  # type: ignore[attr-defined]
        print(f"{way:<14} {found['percent']:5.1f} % right, {found['points']} points from fp32")
    finish(figures, chosen.output)
    return 0


def _training(folder: Path, way: str) -> list[str]:
    """The command line of `training.quantize` but for what is a way's own."""
    return [
        f"--config={CONFIG}",
        f"--pretrained_model_name_or_path={MODEL}",
        f"--train_data_dir={folder / 'scenes'}",
        f"--latents_cache_dir={folder / 'latents'}",
        f"--output_dir={folder / f'{way}-run'}",
    ]


def _draw(folder: Path, way: str, captions: list[str]) -> list[Image.Image]:
    """A picture of each caption; the noise of each is the same in every way."""
    reduced = way != "fp32" and resolve_dtype("auto", this_cpu()) == torch.bfloat16
    source = Source(model=ModelConfig(pretrained_model_name_or_path=str(MODEL)))
    if way in TRAINED:
        source, _ = source_of_run(folder / f"{way}-run", None)
    changes = {"dtype": "bfloat16" if reduced else "float32", "exported": folder / way}
    source = source.model_copy(update=changes)
    settings = Settings(
        engine="openvino", scheduler="ddim", height=PICTURE_SIZE, width=PICTURE_SIZE,
        num_inference_steps=STEPS, guidance_scale=GUIDANCE,
    )  # fmt: skip
    artist = engines.load(source, settings, _say)
    pictures = []
    for number, caption in enumerate(captions):
        if number % 25 == 0:
            _say(f"{way}: picture {number} of {len(captions)}")
        pictures.append(artist.draw(caption, number, lambda step: None))
    return pictures


def _figures(hits: list[bool], precise: list[bool] | None) -> dict[str, float | None]:
    """Percent right, with the half width of its 95 % interval; and the distance from fp32's."""
    share = sum(hits) / len(hits)
    return {
        "percent": round(100 * share, 1),
        "half_of_95": round(196 * math.sqrt(share * (1 - share) / len(hits)), 1),
        "points": None
        if precise is None
        else round(100 * (sum(hits) - sum(precise)) / len(hits), 1),
    }


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.export_accuracy",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--captions", type=int, default=100, help="scenes asked for [100]")
    parser.add_argument("--seeds", type=int, default=3, help="pictures of each [3]")
    ways = [*WAYS, *TRAINED]
    parser.add_argument("--ways", choices=ways, nargs="+", default=ways, help="[all]")
    parser.add_argument("--output", type=Path, help="a file for the figures as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
