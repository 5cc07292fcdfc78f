"""Pictures of prompts with a run's learned word, kept in its folder.

The same prompt, seed and step draw the same picture, in the run's own precision.
"""

from __future__ import annotations

import hashlib
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from training.config.textual_inversion import TextualInversionConfig
from training.data.prompts import check_prompt
from training.errors import UserError
from training.inference.samples import build_pipeline, draw, save_picture
from training.machine.stack import resolve_stack
from training.models import frozen
from training.models.embeds import SUFFIXES, load_embeds
from training.models.placeholder import models_with_rows
from training.storage.events import events_of, read_events
from training.storage.run_directory import read_config

FOLDER = "generated"


def learned(folder: Path, step: int | None) -> Path:
    """The file with the rows of `step`; None: the newest there are.

    A run that goes on after its end keeps its final rows of then until its next end.

    Raises:
        UserError: there are none.
    """
    name = "learned_embeds" if step is None else f"learned_embeds-steps-{step}"
    end = _last_end(folder)

    def age(path: Path) -> tuple[bool, int]:
        """Of two formats the one that the last end names is the newer, else the later written."""
        return path.name in end.get("paths", ()), path.stat().st_mtime_ns

    found = sorted((path for path in folder.glob(f"{name}.*") if path.suffix in SUFFIXES), key=age)
    if step is None:
        later = sorted(folder.glob("learned_embeds-steps-*"), key=lambda p: (_step(p), age(p)))
        if later and (not found or _step(later[-1]) > end["step"]):
            found = later
    if not found:
        steps = ", ".join(sorted(path.stem for path in folder.glob("learned_embeds-steps-*")))
        raise UserError(f"{folder}: holds no {name} (it has: {steps or 'none yet'}).")
    return found[-1]


def _step(path: Path) -> int:
    return int(path.stem.rsplit("-", 1)[1])


def _last_end(folder: Path) -> dict[str, Any]:
    """The event of the run's last end: its step, and the paths that were written then."""
    done = events_of(read_events(folder), "done")
    return done[-1] if done else {"step": math.inf}


def generate(
    folder: Path,
    prompts: Sequence[str],
    seeds: Sequence[int],
    step: int | None = None,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
) -> list[Path]:
    """Draw each prompt once a seed; returns the pictures' paths.

    Args:
        num_inference_steps, guidance_scale: the run's own where None.

    Raises:
        UserError: the folder holds no run, or nothing learned.
    """
    config, record = read_config(folder, TextualInversionConfig)
    rows_file = learned(folder, step)
    models = models_with_rows(config, config, load_embeds(rows_file))
    for prompt in prompts:
        for line in check_prompt(prompt, models.tokenizer, config.placeholder_tokens):
            print(line, file=sys.stderr, flush=True)
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[record.dtype]
    models = frozen.prepare(models, "native", resolve_stack("upstream"), dtype)
    pipeline = build_pipeline(models)
    paths = []
    for number, prompt in enumerate(prompts):
        for seed in seeds:
            done = number * len(seeds) + seeds.index(seed)
            print(f"drawing picture {done + 1} of {len(prompts) * len(seeds)}", file=sys.stderr,
                  flush=True)  # fmt: skip
            (picture,) = draw(
                pipeline,
                prompt,
                [seed],
                config.side,
                num_inference_steps or config.num_inference_steps,
                config.guidance_scale if guidance_scale is None else guidance_scale,
            )
            path = folder / FOLDER / f"{_slug(prompt)}-{rows_file.stem}-seed-{seed}.png"
            save_picture(path, picture)
            paths.append(path)
    return paths


def _slug(prompt: str) -> str:
    """A prompt as a file's name: readable, and another for each prompt."""
    words = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:60] or "picture"
    return f"{words}-{hashlib.sha256(prompt.encode()).hexdigest()[:8]}"
