"""Does the miniature model draw what its captions ask? Counted by the judge."""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
from PIL import Image, ImageDraw
from rich.table import Table
from torch import Tensor

from training.machine import vector_math
from training.miniature.judge import Verdict, accuracy, judge_pictures
from training.miniature.networks.loop import console
from training.miniature.networks.vae import as_tensor, decode, psnr
from training.miniature.scenes.captions import full_caption
from training.miniature.scenes.scene import Scene, render, render_all, sample_scenes
from training.miniature.scenes.shapes import SHAPES
from training.miniature.scenes.sharpness import edge_share, flat_share, outline_overlap

MODEL = Path(__file__).parent / "model"
SCENES_SEED, VALIDATION_SEED = 20_240, 10_011
STEPS, GUIDANCE = 20, 1.5


@dataclass(frozen=True)
class Drawing:
    """A picture drawn for a scene's caption, and what the judge sees in it."""

    scene: Scene
    caption: str
    picture: Image.Image
    verdict: Verdict

    @property
    def right(self) -> bool:
        """Whether shape and colour are both as asked."""
        return self.right_shape and self.right_color

    @property
    def right_shape(self) -> bool:
        """Whether the shape is as asked."""
        return self.verdict.shape == self.scene.shape

    @property
    def right_color(self) -> bool:
        """Whether the object's colour is as asked."""
        return self.verdict.color == self.scene.color


def load_pipeline(model: Path = MODEL) -> StableDiffusionPipeline:
    """The saved pipeline in float32 on the CPU with DPM-Solver++, without progress bars."""
    pipeline = StableDiffusionPipeline.from_pretrained(model, torch_dtype=torch.float32)
    return with_fast_sampler(pipeline)


def with_fast_sampler(pipeline: StableDiffusionPipeline) -> StableDiffusionPipeline:
    """Give a pipeline DPM-Solver++ and no progress bar."""
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(
    pipeline: StableDiffusionPipeline,
    captions: list[str],
    *,
    seed: int = 0,
    steps: int = STEPS,
    guidance_scale: float = GUIDANCE,
) -> list[Image.Image]:
    """One picture for each caption; picture i of a seed depends on nothing but its caption."""
    latents = draw_latents(
        pipeline, captions, seed=seed, steps=steps, guidance_scale=guidance_scale
    )
    return [Image.fromarray(picture) for picture in decode(pipeline.vae, latents)]


def draw_latents(
    pipeline: StableDiffusionPipeline,
    captions: list[str],
    *,
    seed: int = 0,
    steps: int = STEPS,
    guidance_scale: float = GUIDANCE,
    batch: int = 50,
) -> Tensor:
    """The same before the decoder: scaled latents, float32 [captions, 12, 8, 8]."""
    parts: list[Tensor] = []
    for start in range(0, len(captions), batch):
        part = captions[start : start + batch]
        generators = [
            torch.Generator().manual_seed(seed * 100_003 + start + i) for i in range(len(part))
        ]
        parts.append(
            pipeline(
                part,
                num_inference_steps=steps,
                guidance_scale=guidance_scale,
                generator=generators,
                output_type="latent",
            ).images
        )
    return torch.cat(parts)


def check(pipeline: StableDiffusionPipeline, captions: int = 100, seeds: int = 3) -> list[Drawing]:
    """Draw `captions` scenes' full captions with each seed and have the judge look at them.

    The scenes are plain objects and toys as the training draws them, from a fixed seed.
    """
    scenes = sample_scenes(captions, SCENES_SEED) * seeds
    texts = [full_caption(scene) for scene in scenes]
    pictures = draw(pipeline, texts)
    verdicts = judge_pictures(pictures)
    return [Drawing(*parts) for parts in zip(scenes, texts, pictures, verdicts, strict=True)]


def share(drawings: list[Drawing]) -> float:
    """Share of drawings with shape and colour as asked, 0..1."""
    return sum(drawing.right for drawing in drawings) / len(drawings)


def word_table(drawings: list[Drawing]) -> Table:
    """For each shape and colour word: how often it was asked for and drawn right."""
    counts: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for drawing in drawings:
        counts["shape", drawing.scene.shape].append(drawing.right_shape)
        counts["color", drawing.scene.color].append(drawing.right_color)
        seen = drawing.verdict
        counts["background", drawing.scene.background].append(
            seen.background == drawing.scene.background
        )
        counts["hat", drawing.scene.hat or "no hat"].append(seen.hat == drawing.scene.hat)
    table = Table(title="What was asked, and drawn")
    table.add_column("kind")
    table.add_column("word")
    for column in ("asked", "right", "%"):
        table.add_column(column, justify="right")
    kinds = ("shape", "color", "background", "hat")
    for kind, word in sorted(counts, key=lambda key: (kinds.index(key[0]), key[1])):
        hits = counts[kind, word]
        part = f"{100 * sum(hits) / len(hits):.0f}"
        table.add_row(kind, word, str(len(hits)), str(sum(hits)), part)
    return table


@dataclass(frozen=True)
class Sharpness:
    """How clean drawings are: shares 0..1 of flat pixels and of edges; overlaps by shape."""

    flat: float
    edges: float
    overlaps: dict[str, list[float]]

    @property
    def overlap(self) -> float:
        """Mean over all drawings."""
        return float(np.mean([one for ones in self.overlaps.values() for one in ones]))

    @property
    def worst(self) -> float:
        """Mean of the shape that is drawn worst."""
        return min(float(np.mean(ones)) for ones in self.overlaps.values())


def sharpness(drawings: list[Drawing]) -> Sharpness:
    """Measure drawings of 64 x 64 pixels against the renderer's colours and outlines."""
    pictures = np.stack([np.asarray(drawing.picture) for drawing in drawings])
    overlaps: dict[str, list[float]] = defaultdict(list)
    for drawing, picture in zip(drawings, pictures, strict=True):
        overlaps[drawing.scene.shape].append(outline_overlap(picture, drawing.scene))
    return Sharpness(flat_share(pictures), edge_share(pictures), dict(overlaps))


def sharpness_table(drawn: Sharpness, rendered: Sharpness) -> Table:
    """The measures of drawings beside those of renders of the same scenes."""
    table = Table(title="How clean it is")
    for column in ("measure", "drawn", "rendered"):
        table.add_column(column, justify="left" if column == "measure" else "right")

    def add(name: str, *values: float) -> None:
        table.add_row(name, *(f"{100 * value:.1f}%" for value in values))

    add("pixels of one of the colors", drawn.flat, rendered.flat)
    add("neighbours with an edge between them", drawn.edges, rendered.edges)
    add("overlap with the true outline", drawn.overlap, rendered.overlap)
    for shape in SHAPES:
        if shape in drawn.overlaps:
            ones = drawn.overlaps[shape], rendered.overlaps[shape]
            add(f"  {shape}", *(float(np.mean(one)) for one in ones))
    return table


def grid(pictures: list[Image.Image], captions: list[str], columns: int = 6) -> Image.Image:
    """Pictures at twice their size with their captions below."""
    width, height, text = 172, 128, 44
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * width, rows * (height + text)), "white")
    pen = ImageDraw.Draw(sheet)
    for index, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        x, y = index % columns * width, index // columns * (height + text)
        sheet.paste(picture.resize((height, height), Image.Resampling.BICUBIC), (x + 22, y))
        lines, line = [], ""
        for word in caption.split():
            if len(line) + len(word) > 26:
                lines.append(line)
                line = ""
            line = f"{line} {word}".strip()
        pen.text((x + 4, y + height + 2), "\n".join([*lines, line]), fill="black")
    return sheet


def main() -> int:
    """Draw, count and print; returns 1 when too few drawings are right."""
    parser = argparse.ArgumentParser(
        prog="python -m training.miniature.check",
        description="Draw captions with the miniature model and count, with a classifier of "
        "stated accuracy, how often shape and colour are as asked. Then measure, without one, how "
        "flat the colours are and how true the outlines.",
    )
    parser.add_argument("--model", type=Path, default=MODEL, help="pipeline directory")
    parser.add_argument("--captions", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3, help="pictures drawn of each caption")
    parser.add_argument(
        "--at_least", type=float, default=98.0, help="percent that must be right, else exit 1"
    )
    parser.add_argument("--grid", type=Path, help="write some pictures with captions here")
    arguments = parser.parse_args()
    vector_math.resolve_kernels()
    console.print(f"judge: {accuracy():.2%} right on 2000 held-out scenes (shape and color)")
    pipeline = load_pipeline(arguments.model)
    drawings = check(pipeline, arguments.captions, arguments.seeds)
    console.print(word_table(drawings))
    renders = [
        replace(drawing, picture=Image.fromarray(render(drawing.scene))) for drawing in drawings
    ]
    console.print(sharpness_table(sharpness(drawings), sharpness(renders)))
    vae = pipeline.vae
    held_out = render_all(sample_scenes(200, VALIDATION_SEED))
    console.print(f"autoencoder: {psnr(vae, as_tensor(held_out)):.1f} dB on held-out scenes")
    percent = 100 * share(drawings)
    console.print(f"{len(drawings)} pictures, shape and color as asked in {percent:.1f}%")
    if arguments.grid:
        some = drawings[:48]
        grid([d.picture for d in some], [d.caption for d in some]).save(arguments.grid)
    return 0 if percent >= arguments.at_least else 1


if __name__ == "__main__":
    sys.exit(main())
