"""From what a person asks for to pictures: flags over a run's defaults, or over a picture's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from training.config.groups import ModelConfig
from training.config.run import RunConfig
from training.errors import UserError
from training.inference import defaults, engines, png, schedulers
from training.inference.generate import FOLDER, Drawn, Progress, generate, source_of_run
from training.inference.settings import File, Lora, Picture, Settings, Source, Word
from training.machine.cpu import this_cpu
from training.machine.precision import resolve_dtype
from training.models.words import word_in

SEEDS = 2**64


@dataclass(frozen=True)
class Asked:
    """What was asked for, as `python -m training.generate` names it; None: not given."""

    folder: Path | None = None
    model: str | None = None
    again: Path | None = None
    prompt: Sequence[str] | None = None
    prompt_file: Path | None = None
    negative_prompt: str | None = None
    num_images: int | None = None
    seed: int | None = None
    height: int | None = None
    width: int | None = None
    step: int | None = None
    embeds: Sequence[str] | None = None
    lora: Sequence[str] | None = None
    vae: Path | None = None
    scheduler: str | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    engine: str | None = None
    exported: Path | None = None
    mixed_precision: str | None = None
    output_dir: Path | None = None


def draw(
    asked: Asked,
    say: Callable[[str], None],
    progress: Callable[[int, int], Progress],
    load: engines.Load = engines.load,
) -> Drawn:
    """Draw what was asked for.

    Args:
        progress: makes what shows it, of the steps of a picture and the number of pictures.
        load: gets an engine ready, or takes one that is.

    Raises:
        UserError: something that was asked for cannot be.
    """
    _refuse_no_weights(asked)
    before, pixels = png.read(asked.again) if asked.again is not None else (None, None)
    prompts = _prompts(asked, before)
    first = asked.seed if asked.seed is not None else before.seed if before else 0
    count = 1 if asked.num_images is None else asked.num_images
    if count < 1 or not 0 <= first <= SEEDS - count:
        raise UserError(
            f"--seed {first} --num_images {count}: seeds are whole numbers from 0 to 2^64 - 1, and "
            "at least one picture is drawn."
        )
    source, config = _source(asked, before)
    settings = _settings(asked, source, config, before)
    folder = asked.output_dir or (
        asked.again.parent if asked.again else Path(FOLDER) if source.run is None
        else source.run / FOLDER
    )  # fmt: skip
    seeds = range(first, first + count)
    suffix = "-again" if asked.again and asked.output_dir is None else ""
    drawn = generate(source, settings, prompts, seeds, folder, say, progress, suffix, load)
    if before is not None and pixels is not None:
        again, now = png.read(drawn.pictures[0])
        say(_compared(before, again, np.asarray(pixels), np.asarray(now)))
    return drawn


def settle(asked: Asked) -> tuple[Source, Settings, RunConfig | None]:
    """What was asked for without a prompt: weights, settings, and the run's configuration if any.

    Raises:
        UserError: something that was asked for cannot be.
    """
    _refuse_no_weights(asked)
    source, config = _source(asked, None)
    return source, _settings(asked, source, config, None), config


def _refuse_no_weights(asked: Asked) -> None:
    if sum(given is not None for given in (asked.folder, asked.model, asked.again)) != 1:
        raise UserError(
            "what to draw with: give one of a run's folder, a model (--model) and a picture "
            "(--again)."
        )


def _prompts(asked: Asked, before: Picture | None) -> list[str]:
    prompts = list(asked.prompt or [])
    if asked.prompt_file is not None:
        prompts += prompts_in(asked.prompt_file)
    if not prompts and before is not None:
        return [before.prompt]
    if not prompts:
        raise UserError("nothing to draw: give --prompt or --prompt_file.")
    return prompts


def prompts_in(path: Path, flag: str = "--prompt_file") -> list[str]:
    """The prompts of a file, one per line.

    Raises:
        UserError: it cannot be read, or has none.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{flag} {path}: cannot be read ({error}).") from error
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise UserError(f"{flag} {path}: has no prompt in it.")
    return prompts


def _source(asked: Asked, before: Picture | None) -> tuple[Source, RunConfig | None]:
    """The weights, and the configuration of the run if they are a run's."""
    config = None
    if before is not None:
        source = before.source
    elif asked.folder is not None:
        source, config = source_of_run(asked.folder, asked.step)
    else:
        assert asked.model is not None
        dtype = _dtype("auto")
        source = Source(model=ModelConfig(pretrained_model_name_or_path=asked.model), dtype=dtype)
    changes: dict[str, Any] = {}
    if asked.step is not None and asked.folder is None:
        raise UserError(f"--step {asked.step}: is of a run, whose folder must be given.")
    own = 0 if config is None else 1  # what the run has learned stays, whatever is added to it
    if asked.embeds:
        changes["words"] = (*source.words[:own], *(word_at(text) for text in asked.embeds))
    if asked.lora:
        changes["loras"] = (*source.loras[:own], *(lora_at(text) for text in asked.lora))
    if asked.vae is not None:
        changes["vae"] = File.at(asked.vae)
    if asked.mixed_precision is not None:
        changes["dtype"] = _dtype(asked.mixed_precision)
    if asked.exported is not None:
        changes["exported"] = asked.exported
    source = source.model_copy(update=changes)
    source.refuse_changes()
    return source, config


def _dtype(mixed_precision: str) -> Any:
    return str(resolve_dtype(mixed_precision, this_cpu())).removeprefix("torch.")


def word_at(text: str) -> Word:
    """A word of `[WORD=]PATH`; a file whose name has a = in it is taken as it is."""
    word, equals, rest = text.partition("=")
    if equals and not Path(text).exists():
        if not word or any(character.isspace() for character in word):
            raise UserError(f"--embeds {text}: {word!r} must be one word, without spaces.")
        word_in(Path(rest))
        return Word(token=word, file=File.at(Path(rest)))
    return Word(token=word_in(Path(text)), file=File.at(Path(text)))


def lora_at(text: str) -> Lora:
    """A LoRA of `PATH[:WEIGHT]`; a file whose name has a : in it is taken as it is."""
    path, colon, weight = text.rpartition(":")
    if not colon or Path(text).exists():
        return Lora(file=File.at(Path(text)))
    try:
        return Lora(file=File.at(Path(path)), weight=float(weight))
    except (ValueError, ValidationError) as error:
        raise UserError(
            f"--lora {text}: {weight!r} is no weight; write PATH:0.8, for example."
        ) from error


def _settings(
    asked: Asked, source: Source, config: RunConfig | None, before: Picture | None
) -> Settings:
    """Flags over the picture's own settings, or over the run's and the scheduler's defaults.

    Raises:
        UserError: a value that cannot be.
    """
    given = {
        key: getattr(asked, key) for key in Settings.model_fields if getattr(asked, key) is not None
    }
    if "scheduler" in given:
        schedulers.check_name(given["scheduler"])
    if before is not None:
        values = before.settings.model_dump()
    else:
        side = config.side if config is not None else defaults.native_side(source.model)
        name = schedulers.default_name(defaults.noise_schedule(source.model))
        values = {
            "scheduler": name,
            "height": side,
            "width": side,
            "num_inference_steps": config.num_inference_steps if config else schedulers.STEPS,
            "guidance_scale": config.guidance_scale if config else schedulers.GUIDANCE,
        }
    sampler = schedulers.SAMPLERS[given.get("scheduler", values["scheduler"])]
    if "scheduler" in given and sampler.steps is not None:
        values["num_inference_steps"] = sampler.steps
        values["guidance_scale"] = sampler.guidance
    try:
        return Settings.model_validate(values | given)
    except ValidationError as error:
        problems = [
            f"--{problem['loc'][0]} {problem['input']}: "
            + str(problem["msg"]).removeprefix("Value error, ")
            for problem in error.errors()
        ]
        raise UserError("\n  ".join(problems)) from error


def _compared(before: Picture, after: Picture, old: Any, new: Any) -> str:
    """What became of the picture that was drawn again."""
    if after.model_dump(exclude={"made_with"}) != before.model_dump(exclude={"made_with"}):
        return "drawn again with other settings"
    if old.shape == new.shape and (old == new).all():
        return "drawn again: the same, pixel for pixel"
    apart = (
        "" if old.shape != new.shape else f" by {np.abs(old.astype(int) - new).mean():.2f} of 255"
    )
    why = (
        f" It was drawn with {before.made_with}; now with {after.made_with}."
        if before.made_with != after.made_with
        else " The model's weights may be others, or the picture was changed."
    )
    return f"drawn again: differs{apart}.{why}"
