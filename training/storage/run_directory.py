"""A run's folder: whose it is, who is writing it, and what must not change when it goes on."""

from __future__ import annotations

import fcntl
import glob
import os
import shutil
import socket
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, overload

import tomli_w
from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer

from training import atomic_files
from training.config.run import CONFIG_FILE, RunConfig, config_of
from training.errors import UserError

Config = TypeVar("Config", bound=RunConfig)

LOCK_FILE = ".lock"
COMPARISON_FILE = "samples/comparison.png"
MODEL_INDEX = "model_index.json"
OWN_FILES = (
    CONFIG_FILE, "events.jsonl", "report.html", "loss.png", "samples", "checkpoint-*",
    ".pipeline", ".*.partial",
)  # fmt: skip
"""What a run leaves in its folder, beside its logs, its method's files and the whole pipeline."""
PIPELINE_PARTS = (
    "feature_extractor", "image_encoder", "safety_checker", "scheduler", "text_encoder",
    "tokenizer", "unet", "vae",
)  # fmt: skip
MODEL = "pretrained_model_name_or_path"
FIRST_METHOD = "textual_inversion"
FIRST_LOADED_AS = "float32"
FIRST_ATTENTION = FIRST_CONVOLUTION = "torch"


class RunRecord(BaseModel):
    """What is fixed when a run starts, whatever number of ranks carries it on later.

    Attributes:
        seed: as given or drawn.
        global_batch: samples per optimizer step, over all ranks.
        learning_rate: after `scale_lr`.
        dtype: of the frozen weights, "float32" or "bfloat16".
        loaded_as: the dtype that VAE and UNet were read and identified in; not written where it is
            float32, as there was nothing else when runs got their records.
        frozen: how the frozen parts are prepared ("native", "ipex" or "compiled").
        attention: what computes the UNet's self-attention ("torch" or "fused"); not written where
            it is torch, as there was nothing else when runs got their records.
        convolution: what computes 3 x 3 convolutions, of the UNet and, while pictures are encoded,
            of the VAE ("torch" or "winograd"); not written where it is torch, as for attention.
        model, pictures, rows: digests of the weights, the pictures, and what the parameters start
            from (a new word's rows, when this got its name).
        method: what is trained; not written where it is textual inversion, as there was nothing
            else when runs got their records.
        tokenizer, settings: a digest of the tokenizer, and what the models compute by beside
            their weights, as `training.data.identity` says; None in the records of runs that were
            started before these were noted, which leave them out.
        captions: a digest of the pictures' captions; None where the method has none.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int
    global_batch: int
    learning_rate: float
    dtype: str
    frozen: str
    model: str
    pictures: str
    rows: str
    tokenizer: str | None = None
    settings: dict[str, str] | None = None
    captions: str | None = None
    method: str = FIRST_METHOD
    loaded_as: str = FIRST_LOADED_AS
    attention: str = FIRST_ATTENTION
    convolution: str = FIRST_CONVOLUTION

    @model_serializer(mode="wrap")
    def _without_what_was_not_noted(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        left_out = {
            "method": FIRST_METHOD,
            "loaded_as": FIRST_LOADED_AS,
            "attention": FIRST_ATTENTION,
            "convolution": FIRST_CONVOLUTION,
        }
        return {
            key: value
            for key, value in dump(self).items()
            if value is not None and value != left_out.get(key)
        }


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the run folder for this process; the operating system lets go when it ends.

    Raises:
        UserError: the folder cannot be made or written, or another live process holds it.
    """
    path = folder / LOCK_FILE
    with atomic_files.disk_errors_named(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise UserError(
                f"output_dir {folder}: another live process is writing it "
                f"({file.read().strip() or 'unknown'}). Wait for it, stop it, or choose another "
                "--output_dir."
            ) from error
        file.truncate(0)
        file.write(f"{socket.gethostname()} pid {os.getpid()}\n")
        file.flush()
        atomic_files.remove_leftovers(folder)
        yield


def holds_a_run(folder: Path) -> bool:
    """Whether a run has been started in `folder`."""
    return (folder / CONFIG_FILE).exists()


def refuse_a_held_folder(folder: Path, overwrite: bool) -> None:
    """Make sure that a new run may start in `folder`.

    Raises:
        UserError: it holds a run, and `overwrite` is off.
    """
    if holds_a_run(folder) and not overwrite:
        raise UserError(
            f"output_dir {folder}: holds a run already. Resume it: --resume_from_checkpoint "
            "latest; start afresh: --overwrite_output_dir; or choose another --output_dir."
        )


def clear_for_new_run(folder: Path) -> None:
    """Remove what the run in `folder`, if there is one, has left, and nothing else.

    Encoded pictures stay.

    Raises:
        UserError: the folder's config.toml is not the record of a run, or it cannot be removed.
    """
    if not holds_a_run(folder):
        return
    config, _ = read_config(folder)
    own = [*OWN_FILES, *config.own_files]
    logs = config.logging_dir
    if logs.parts and not logs.is_absolute() and ".." not in logs.parts:
        own.append(glob.escape(str(logs)))
    if (folder / MODEL_INDEX).exists():
        own += [MODEL_INDEX, *PIPELINE_PARTS]
    with atomic_files.disk_errors_named(folder):
        for path in sorted({path for name in own for path in folder.glob(name)}):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def write_config(folder: Path, config: RunConfig, record: RunRecord) -> None:
    """Write config.toml: the configuration, and under [run] what was resolved from it."""
    text = tomli_w.dumps({**values_of(config), "run": record.model_dump()})
    atomic_files.write_text(folder / CONFIG_FILE, text)


def values_of(config: RunConfig) -> dict[str, Any]:
    """A configuration as TOML has it: what is None is left out, or "none" where that is a word."""
    values = {k: v for k, v in config.model_dump(mode="json").items() if v is not None}
    for name, field in type(config).model_fields.items():
        if name not in values and field.default is not None:
            values[name] = "none"
    return values


@overload
def read_config(folder: Path) -> tuple[RunConfig, RunRecord]: ...


@overload
def read_config(folder: Path, kind: type[Config]) -> tuple[Config, RunRecord]: ...


def read_config(folder: Path, kind: type[RunConfig] = RunConfig) -> tuple[RunConfig, RunRecord]:
    """What `write_config` wrote.

    Args:
        kind: what the configuration must be.

    Raises:
        UserError: the file is not one of ours, or of another version of it.
    """
    path = folder / CONFIG_FILE
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        record = RunRecord.model_validate(values.pop("run"))
        config = config_of(record.method).model_validate(values)
    except (ValueError, KeyError, OSError) as error:
        raise UserError(
            f"{path}: is not the record of a run ({error}). Choose another --output_dir."
        ) from error
    if not isinstance(config, kind):
        raise UserError(f"{folder}: holds a run of {record.method}, not of {kind.method}.")
    return config, record


def refuse_differences(
    folder: Path,
    old: tuple[RunConfig, RunRecord],
    new: RunConfig,
    content: dict[str, Any],
) -> None:
    """Make sure that `new` goes on with the run that `old` started.

    Args:
        content: what `training.data.identity.identify` finds now.

    Raises:
        UserError: names every key that differs and may not.
    """
    before, record = old
    if record.method != new.method:
        raise UserError(
            f"output_dir {folder}: holds a run of {record.method}, which {new.method} cannot go on "
            "with. Choose another --output_dir."
        )
    differences = []
    for key, value in new.model_dump(mode="json").items():
        was = before.model_dump(mode="json")[key]
        if key in new.may_differ_on_resume or key in new.identified_by_content or value == was:
            continue
        if key == "seed":
            was = record.seed
            if value in (None, was):
                continue
        differences.append(f"{key}: {was!r} then, {value!r} now")
    told = bool(differences)
    for what, found in content.items():
        noted = getattr(record, what)
        if noted is None or noted == found:
            continue
        keys = [key for key, kind in new.identified_by_content.items() if kind == what]
        own = [key for key in keys if _given(new, key)]
        if what == "rows" and not own and (told or record.model != content.get("model")):
            continue  # what is trained starts from the model and from keys, which are named
        named = " / ".join(own) or MODEL
        differences += (
            [f"{named}: not the same {what} as when the run started"]
            if isinstance(found, str)
            else [
                f"{named}: its {key} was {noted.get(key, 'the default')} then, "
                f"{found.get(key, 'the default')} now"
                for key in sorted({*noted, *found})
                if noted.get(key) != found.get(key)
            ]
        )
    if differences:
        lines = "\n".join(f"  - {difference}" for difference in differences)
        raise UserError(
            f"output_dir {folder}: its run cannot go on with another configuration:\n{lines}\n"
            "  Give the same values (they are in its config.toml), or another --output_dir."
        )


def _given(config: RunConfig, key: str) -> bool:
    value: Any = getattr(config, key)
    return value is not None and value is not False
