"""Pictures of prompts, each kept with all that it takes to draw it again.

The same prompt, seed, weights and settings draw the same picture, on the same machine.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image

from training.config.groups import ModelConfig
from training.config.lora import LORA_NAME, LoraConfig
from training.config.quantize import QUANTIZED_NAME, QuantizeConfig
from training.config.run import RunConfig
from training.config.textual_inversion import TextualInversionConfig
from training.config.words import EMBEDS_NAME
from training.data.prompts import check_prompt
from training.errors import UserError
from training.inference import engines, png
from training.inference.grid import grid_of
from training.inference.samples import save_picture
from training.inference.settings import File, Lora, Picture, Settings, Source, Word
from training.machine.cpu import this_cpu
from training.models.embeds import SUFFIXES, load_embeds
from training.models.words import FLAG, tokens_of
from training.storage.events import events_of, read_events
from training.storage.run_directory import holds_a_run, read_config

FOLDER = "generated"


class Progress(AbstractContextManager[Any], Protocol):
    """Shown while it is entered; called with steps done and the number of the picture (from 0)."""

    def __call__(self, done: int, picture: int) -> None: ...


def learned(
    folder: Path,
    step: int | None,
    stem: str = EMBEDS_NAME,
    method: str = TextualInversionConfig.method,
) -> Path:
    """The file with what was learned by `step`; None: the newest there is.

    A run that goes on after its end keeps what it had then until its next end.

    Args:
        stem: the file's name without its suffix.
        method: of the run.

    Raises:
        UserError: there is none.
    """
    name = stem if step is None else f"{stem}-steps-{step}"
    end = _last_end(folder)

    def age(path: Path) -> tuple[bool, int]:
        """Of two formats the one that the last end names is the newer, else the later written."""
        return path.name in end.get("paths", ()), path.stat().st_mtime_ns

    found = sorted(
        (p for suffix in SUFFIXES if (p := folder / f"{name}{suffix}").exists()), key=age
    )
    if step is None:
        later = sorted(folder.glob(f"{stem}-steps-*"), key=lambda p: (_step(p), age(p)))
        if later and (not found or _step(later[-1]) > end["step"]):
            found = later
    if not found:
        steps = ", ".join(sorted(path.stem for path in folder.glob(f"{stem}-steps-*")))
        way_on = "" if steps else (
            " Its run has not come to its first: wait for it, or go on with it: "
            f"python -m training.{method} --resume {folder}"
        )  # fmt: skip
        raise UserError(f"{folder}: holds no {name} (it has: {steps or 'none yet'}).{way_on}")
    return found[-1]


def _step(path: Path) -> int:
    return int(path.stem.rsplit("-", 1)[1])


def _last_end(folder: Path) -> dict[str, Any]:
    """The event of the run's last end: its step, and the paths that were written then."""
    done = events_of(read_events(folder), "done")
    return done[-1] if done else {"step": math.inf}


def source_of_run(folder: Path, step: int | None) -> tuple[Source, RunConfig]:
    """A run's model, the words and the LoRA that it has learned, its precision and configuration.

    Raises:
        UserError: the folder holds no run, or nothing learned.
    """
    if not holds_a_run(folder):
        what = "holds no run (there is no config.toml)" if folder.is_dir() else "is not a folder"
        raise UserError(f"{folder}: {what}. Give a run's folder, or a model (--model).")
    config, record = read_config(folder)
    source = Source(
        model=_model_of(config),
        dtype="bfloat16" if record.dtype == "bfloat16" else "float32",
        run=folder,
    )
    if isinstance(config, QuantizeConfig):
        unet = File.at(learned(folder, step, QUANTIZED_NAME, config.method))
        return source.model_copy(update={"unet": unet}), config
    if not isinstance(config, LoraConfig | TextualInversionConfig):
        raise UserError(f"{folder}: holds a run of {config.method}, which draws no pictures here.")

    def file(stem: str) -> File:
        return File.at(learned(folder, step, stem, config.method))

    loras = (Lora(file=file(LORA_NAME)),) if isinstance(config, LoraConfig) else ()
    words = tuple(
        Word(token=concept.placeholder_token, file=file(concept.file_stem))
        for concept in config.concepts
    )
    return source.model_copy(update={"loras": loras, "words": words}), config


def _model_of(config: ModelConfig) -> ModelConfig:
    """The keys of a run's configuration that name its model."""
    return ModelConfig(**{key: getattr(config, key) for key in ModelConfig.model_fields})


@dataclass(frozen=True)
class Drawn:
    """What `generate` has written.

    Attributes:
        pictures: in the order of prompts, and of seeds in each.
        grid: all of them beside each other; None where there is but one.
    """

    pictures: list[Path]
    grid: Path | None


def generate(
    source: Source,
    settings: Settings,
    prompts: Sequence[str],
    seeds: Sequence[int],
    folder: Path,
    say: Callable[[str], None],
    progress: Callable[[int, int], Progress],
    suffix: str = "",
    load: engines.Load = engines.load,
) -> Drawn:
    """Draw each prompt once a seed, into `folder`.

    Args:
        say: takes what the person should know of a prompt, a line each.
        progress: makes what shows it, of the steps of a picture and the number of pictures.
        suffix: of the files' names.
        load: gets an engine ready, or takes one that is.

    Raises:
        UserError: a file or a prompt is wrong (nothing has been drawn then).
    """
    artist = load(source, settings, say)
    _check_prompts(source, settings, prompts, artist, say)
    paths: list[Path] = []
    drawn: list[Image.Image] = []
    made_with = f"torch {torch.__version__}, {this_cpu().model}, {torch.get_num_threads()} threads"
    steps = settings.num_inference_steps
    wanted = [(prompt, seed) for prompt in prompts for seed in seeds]
    with progress(steps, len(wanted)) as shown:
        for number, (prompt, seed) in enumerate(wanted):
            shown(number * steps, number)

            def stepped(step: int, number: int = number) -> None:
                # Some schedulers take a step more than was asked for.
                shown(number * steps + min(step, steps), number)

            image = artist.draw(prompt, seed, stepped)
            picture = Picture(
                source=source, settings=settings, prompt=prompt, seed=seed, made_with=made_with
            )
            path = folder / f"{_name(picture)}{suffix}.png"
            save_picture(path, image, png.texts(picture))
            paths.append(path)
            drawn.append(image)
    if len(paths) == 1:
        return Drawn(paths, None)
    together = hashlib.sha256("\n".join(path.name for path in paths).encode()).hexdigest()[:8]
    grid = folder / f"grid-{together}{suffix}.png"
    save_picture(grid, grid_of(drawn, len(seeds) if len(prompts) > 1 else None))
    return Drawn(paths, grid)


def _check_prompts(
    source: Source,
    settings: Settings,
    prompts: Sequence[str],
    artist: engines.Artist,
    say: Callable[[str], None],
) -> None:
    """Tell what is wrong with prompts before the first is drawn."""
    words = []
    for word in source.words:
        rows = len(load_embeds(word.file.path, FLAG))
        words.append(tokens_of(word.token, rows))
    limit = math.inf if artist.token_limit is None else artist.token_limit
    asked = [*((prompt, True) for prompt in prompts), (settings.negative_prompt, False)]
    for prompt, wanted in asked:
        for line in check_prompt(prompt, artist.tokenizer, *words, limit=limit, wanted=wanted):
            say(line)
    if settings.negative_prompt and settings.guidance_scale <= 1:
        say(
            f"prompt {settings.negative_prompt!r}: the negative prompt has no effect without "
            "guidance (--guidance_scale above 1)."
        )


def _name(picture: Picture) -> str:
    """A picture's name: another for each that may look another way."""
    words = picture.source.words
    rows = f"-{words[0].file.path.stem}" if words else ""
    how = picture.model_dump_json(exclude={"made_with", "prompt", "seed"})
    digest = hashlib.sha256(how.encode()).hexdigest()[:6]
    return f"{_slug(picture.prompt)}{rows}-{digest}-seed-{picture.seed}"


def _slug(prompt: str) -> str:
    """A prompt as a file's name: readable, and another for each prompt."""
    words = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:60] or "picture"
    return f"{words}-{hashlib.sha256(prompt.encode()).hexdigest()[:8]}"
