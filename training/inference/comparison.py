"""samples/comparison.png: the same prompts and seeds before and after training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from training.config.textual_inversion import TextualInversionConfig
from training.data.dataset import first_pictures
from training.data.images import open_picture
from training.inference.generate import learned
from training.inference.samples import build_pipeline, draw, in_columns, save_picture
from training.models.embeds import load_embeds
from training.models.placeholder import models_with_rows
from training.storage.events import events_of, read_events
from training.storage.run_directory import COMPARISON_FILE, read_config

SHOWN_PROMPTS, SHOWN_PER_PROMPT, SHOWN_SOURCES = 2, 3, 8
"""How much of a run its comparison shows."""
FIRST_SEED = 1000
"""Apart from the seeds that validation pictures are drawn with during training."""


def load_learned(folder: Path) -> tuple[TextualInversionConfig, Any]:
    """A run's config, and its base pipeline with the learned words loaded, in float32."""
    config, _ = read_config(folder, TextualInversionConfig)
    words = [
        (concept, load_embeds(learned(folder, None, concept.file_stem)))
        for concept in config.concepts
    ]
    return config, build_pipeline(models_with_rows(config.model, words))


def draw_both(
    folder: Path, prompts: list[str], per_prompt: int, progress: Callable[[int, int], None]
) -> tuple[list[Image.Image], list[Image.Image]]:
    """Pictures of `prompts` with the initializer word, and with the learned word.

    Args:
        prompts: each with the placeholder token in it.
        per_prompt: seeds per prompt, the same for both words.
        progress: called with pictures done and of how many.
    """
    config, pipeline = load_learned(folder)
    columns: list[list[Image.Image]] = []
    for word in (config.initializer_token or "", config.placeholder_token):
        pictures: list[Image.Image] = []
        for number, prompt in enumerate(prompts):
            progress(len(columns) * len(prompts) + number, 2 * len(prompts))
            first = FIRST_SEED + number * per_prompt
            pictures += draw(
                pipeline,
                prompt.replace(config.placeholder_token, word),
                list(range(first, first + per_prompt)),
                config.side,
                config.num_inference_steps,
                config.guidance_scale,
            )
        columns.append(pictures)
    return columns[0], columns[1]


def write_comparison(
    folder: Path, title: str, caption: str, partial_weights: Sequence[float] = ()
) -> Path | None:
    """Put a run's first and last validation pictures side by side; draws none itself.

    The same prompts and seeds on both sides: "before" is the samples' step 0. Up to
    `SHOWN_PER_PROMPT` seeds of each of the first `SHOWN_PROMPTS` prompts are shown.

    Args:
        title: the learned word, or what else was trained.
        caption: written under the pictures, after their prompts and seeds.
        partial_weights: parts of what was learned with which the last were drawn, too; they stand
            in between.

    Returns:
        The file; None where no validation pictures were drawn at two steps, or the training
        pictures are gone.
    """
    config, _ = read_config(folder)
    drawn = _by_step(folder)
    if len(drawn) < 2:
        return None
    first, last = min(drawn), max(drawn)
    shown = [key for key in drawn[first] if key in drawn[last]]
    prompts = list(dict.fromkeys(prompt for prompt, _ in shown))[:SHOWN_PROMPTS]
    seeds = list(dict.fromkeys(seed for _, seed in shown))[:SHOWN_PER_PROMPT]
    keys = [(prompt, seed) for prompt in prompts for seed in seeds if (prompt, seed) in shown]
    if not keys:
        return None
    before, after = ({key: folder / drawn[step][key] for key in keys} for step in (first, last))
    shown_as = {f"step {first}, before": before, f"step {last}, {title}": after}
    if partial_weights:
        between = {
            f"weight {weight:g}": {
                key: path.with_name(f"{path.stem}-weight-{weight:g}.png")
                for key, path in after.items()
            }
            for weight in partial_weights
        }
        shown_as = {"weight 0 (before)": before, **between, "weight 1": after}
    columns = [
        (name, [open_picture(paths[key]) for key in keys]) for name, paths in shown_as.items()
    ]
    trained_on = first_pictures(config.train_data_dir, SHOWN_SOURCES, config.subfolders)
    if not trained_on:
        return None
    side = min(min(picture.size) for picture in trained_on)
    text = [f'prompt: "{prompt}"' for prompt in prompts]
    text.append(f"seeds {', '.join(str(seed) for seed in seeds)}; {caption}")
    grid = in_columns(
        columns,
        ("learned from these pictures", [ImageOps.fit(p, (side, side)) for p in trained_on]),
        per_column=len(seeds),
        caption=text,
    )
    path = folder / COMPARISON_FILE
    save_picture(path, grid)
    return path


def _by_step(folder: Path) -> dict[int, dict[tuple[str, int], str]]:
    """The validation pictures that are on disk: step -> (prompt, seed) -> path in `folder`."""
    drawn: dict[int, dict[tuple[str, int], str]] = {}
    for event in events_of(read_events(folder), "sample", "prompt", "seed", "path"):
        if (folder / event["path"]).exists():
            drawn.setdefault(event["step"], {})[event["prompt"], event["seed"]] = event["path"]
    return drawn
