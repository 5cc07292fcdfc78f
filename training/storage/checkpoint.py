"""checkpoint-<step>/: the whole state of a run in a few kilobytes, whole or not there.

Order, noise and learning rate are functions of the step, so the state is the step, what is trained,
AdamW's two moments of it, and its moving average where a method keeps one.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from training import atomic_files
from training.errors import UserError
from training.storage.run_directory import RunRecord

MOMENTS = ("exp_avg", "exp_avg_sq")
AVERAGE = "ema"
STATE_FILE = "state.safetensors"
MANIFEST_FILE = "state.json"
_NAME = re.compile(r"checkpoint-(\d+)")


@dataclass(frozen=True)
class State:
    """What a run is at the end of a step.

    Attributes:
        step: optimizer steps done.
        parameters, exp_avg, exp_avg_sq: what is trained and AdamW's moments of it, by name; the
            three tensors of a name have one shape.
        average: the moving average of what is trained, by name, too; empty where there is none.
        in_file: whether the tensors are those of a file, which is read when they are, and must
            not outlive it.
    """

    step: int
    parameters: dict[str, torch.Tensor]
    exp_avg: dict[str, torch.Tensor]
    exp_avg_sq: dict[str, torch.Tensor]
    average: dict[str, torch.Tensor] = field(default_factory=dict)
    in_file: bool = field(default=False, kw_only=True)

    @property
    def learned(self) -> dict[str, torch.Tensor]:
        """What is kept of the run: the average, where there is one."""
        return self.average or self.parameters

    def write(self, path: Path) -> None:
        """Write `tensors` without a copy in memory: of a whole UNet they are gigabytes."""
        save_file(self.tensors(), path)
        path.chmod(atomic_files.ordinary_mode())  # safetensors makes its files private

    def tensors(self) -> dict[str, torch.Tensor]:
        """All but the step, by the names that they have in the file.

        A parameter goes by its name, its moments by `<moment>.<name>`; those of one that is alone
        go by the moment, as all did when there was but one. An average goes by `ema.<name>`.
        """
        tensors = {**self.parameters}
        for moment in MOMENTS:
            for name, value in getattr(self, moment).items():
                tensors[_entry(moment, name, len(self.parameters))] = value
        tensors |= {f"{AVERAGE}.{name}": value for name, value in self.average.items()}
        return {key: value.detach().contiguous() for key, value in tensors.items()}

    @classmethod
    def read(cls, step: int, path: Path) -> State:
        """What `write` wrote.

        Raises:
            OSError, SafetensorError, KeyError: it cannot be read, or is something else.
        """
        return cls.of(step, load_file(path), in_file=True)

    @classmethod
    def of(cls, step: int, tensors: dict[str, torch.Tensor], in_file: bool = False) -> State:
        """The state that has these `tensors`, sorted by name: safetensors gives them in any order.

        Raises:
            KeyError: they are something else.
        """
        names = sorted(key for key in tensors if key.split(".")[0] not in (*MOMENTS, AVERAGE))
        if not names:
            raise KeyError("no parameters")
        exp_avg, exp_avg_sq = (
            {name: tensors[_entry(moment, name, len(names))] for name in names}
            for moment in MOMENTS
        )
        averaged = any(key.startswith(f"{AVERAGE}.") for key in tensors)
        average = {name: tensors[f"{AVERAGE}.{name}"] for name in names} if averaged else {}
        parameters = {name: tensors[name] for name in names}
        return cls(step, parameters, exp_avg, exp_avg_sq, average, in_file=in_file)


def _entry(moment: str, name: str, parameters: int) -> str:
    return moment if parameters == 1 else f"{moment}.{name}"


def save_checkpoint(folder: Path, state: State, record: RunRecord, limit: int | None) -> Path:
    """Write checkpoint-<step>, then remove the oldest beyond `limit`.

    Raises:
        UserError: it cannot be written; the older checkpoints are untouched.
    """

    def write(temporary: Path) -> None:
        state.write(temporary / STATE_FILE)
        manifest = {
            "step": state.step,
            "sha256": _sha256(temporary / STATE_FILE),
            "run": record.model_dump(),
        }
        (temporary / MANIFEST_FILE).write_text(json.dumps(manifest, indent=1))

    path = folder / f"checkpoint-{state.step}"
    atomic_files.write_directory(path, write)
    prune(folder, limit, path)
    return path


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def prune(folder: Path, limit: int | None, kept: Path | None = None) -> None:
    """Remove the oldest checkpoints beyond `limit` (None: none), but not `kept`."""
    if limit is not None:
        for _, old in list_checkpoints(folder)[:-limit]:
            if old != kept:
                shutil.rmtree(old)


def list_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """The (step, path) of every checkpoint folder, oldest first, complete or not."""
    found = [(_NAME.fullmatch(path.name), path) for path in folder.glob("checkpoint-*")]
    return sorted((int(match[1]), path) for match, path in found if match)


def refuse_foreign_checkpoints(folder: Path) -> None:
    """Make sure that a folder without a run of ours holds no checkpoints of another tool.

    Raises:
        UserError: names the newest, and says what can be done with it.
    """
    foreign = [path for _, path in list_checkpoints(folder) if not (path / MANIFEST_FILE).exists()]
    if foreign:
        rows = sorted(folder.glob("learned_embeds*"), key=lambda path: path.stat().st_mtime_ns)
        start = (
            f"; its learned word can be started from with --initial_embeds {rows[-1]}"
            if rows
            else ""
        )
        raise UserError(
            f"output_dir {folder}: {foreign[-1].name} is another tool's checkpoint (diffusers' "
            "own script writes such), which this one can neither resume from nor overwrite. "
            f"Choose another --output_dir{start}."
        )


def read_checkpoint(path: Path) -> State:
    """Read a checkpoint folder.

    Raises:
        UserError: says in what way it is torn.
    """
    try:
        manifest = json.loads((path / MANIFEST_FILE).read_text())
        if _sha256(path / STATE_FILE) != manifest["sha256"]:
            raise UserError(f"{path.name}: torn, its bytes are not those that were written.")
        if (name := _NAME.fullmatch(path.name)) and int(name[1]) != manifest["step"]:
            raise UserError(f"{path.name}: torn, it says that it is of step {manifest['step']}.")
        return State.read(manifest["step"], path / STATE_FILE)
    except OSError as error:
        raise UserError(f"{path.name}: torn, {error.filename} cannot be read.") from error
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise UserError(f"{path.name}: torn or not a checkpoint ({error}).") from error


def find_checkpoint(folder: Path, requested: str, notify: Callable[[str], None]) -> State | None:
    """The state to resume from.

    Args:
        requested: "latest", for the newest complete one; or a checkpoint's name or path.
        notify: told of each torn checkpoint that is skipped.

    Returns:
        None where "latest" is asked for and there is none.

    Raises:
        UserError: the checkpoint asked for is absent or torn.
    """
    if requested != "latest":
        path = folder / Path(requested).name
        if not path.is_dir():
            names = ", ".join(path.name for _, path in list_checkpoints(folder)) or "none"
            raise UserError(
                f"resume_from_checkpoint {requested}: not in {folder} (it has: {names})."
            )
        return read_checkpoint(path)
    for _, path in reversed(list_checkpoints(folder)):
        try:
            return read_checkpoint(path)
        except UserError as error:
            notify(f"skipped {error}")
    return None
