"""From flags and a TOML file to a validated configuration, or one message with every error."""

from __future__ import annotations

import argparse
import difflib
import tomllib
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from training.config import hub_dataset
from training.config.run import CONFIG_FILE
from training.errors import UserError

Config = TypeVar("Config", bound=BaseModel)

GPU_ONLY = {
    "allow_tf32": "TF32 is a GPU format",
    "use_8bit_adam": "bitsandbytes runs on GPUs only",
    "enable_xformers_memory_efficient_attention": "xFormers runs on GPUs only",
}
SUPERSEDED = {
    "only_save_embeds": "that is the default; --save_as_full_pipeline saves the pipeline too",
    "validation_epochs": "use --validation_steps",
    "cache_dir": "HF_HOME says where downloads are kept",
    hub_dataset.NAME: "--train_data_dir is given, too",
    "dataset_config_name": "the pictures of a dataset are taken as they lie on the hub",
    "max_train_samples": "leave pictures out of the folder",
    "image_interpolation_mode": "pictures are resized with the bicubic filter",
    "train_text_encoder_ti_frac": "new words are learned to the end of a run",
    "local_rank": "the launcher's environment says the rank",
    "hub_token": "a token on a command line is visible to every user: set HF_TOKEN instead",
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Without the usage, as every other error is told."""
        raise UserError(f"{message.removeprefix('argument ')}.")


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    def _format_action_invocation(self, action: argparse.Action) -> str:
        """A switch as people write it, without the value that it may have."""
        if action.const is True:
            return ", ".join(action.option_strings)
        return super()._format_action_invocation(action)


def _shown_default(field: FieldInfo) -> str:
    """What `--help` shows after a flag's description.

    A switch is off, and what has no value by default either has none or its description says more.
    """
    if field.is_required():
        return " [required]"
    if field.default is None or field.default is False:
        return ""
    return f" [default: {field.default}]"


def build_parser(config: type[BaseModel], prog: str, description: str) -> argparse.ArgumentParser:
    """An argument parser with one flag per field of `config`, grouped as its fields say."""
    parser = _Parser(
        prog=prog,
        usage="%(prog)s [--config FILE.toml | --resume RUN_FOLDER] [--KEY VALUE ...]",
        description=description,
        epilog=(
            "Every flag is also a key of the TOML file that --config names; flags win.\n"
            "A flag without a value is a switch, off unless it is given; --FLAG=false turns off\n"
            "what the file turns on."
        ),
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        formatter_class=_HelpFormatter,
    )
    parser.add_argument("--config", type=Path, metavar="FILE.toml", help="Read keys from a file.")
    parser.add_argument(
        "--resume",
        type=Path,
        metavar="RUN_FOLDER",
        help="Resume a run from its latest checkpoint, with its own config.toml.",
    )
    groups: dict[str, Any] = {}
    for name, field in config.model_fields.items():
        extra = field.json_schema_extra
        group = str(extra["group"]) if isinstance(extra, dict) else "options"
        where = groups.setdefault(group, parser.add_argument_group(group))
        help_text = f"{field.description}{_shown_default(field)}".replace("%", "%%")
        choices = _choices(field.annotation)
        if field.annotation is bool:
            where.add_argument(
                f"--{name}", nargs="?", const=True, metavar="true|false", help=help_text
            )
        elif _is_list(field.annotation):
            where.add_argument(f"--{name}", nargs="+", metavar="TEXT", help=help_text)
        else:
            metavar = "|".join(choices) if choices else name.rsplit("_", 1)[-1].upper()
            where.add_argument(f"--{name}", metavar=metavar, help=help_text)
    gone = parser.add_argument_group("accepted from other scripts and ignored; one line says why")
    for name, reason in (GPU_ONLY | SUPERSEDED).items():
        gone.add_argument(f"--{name}", nargs="?", const=True, help=reason)
    return parser


def parse(
    config: type[Config], argv: Sequence[str] | None, prog: str, description: str
) -> tuple[Config, list[str]]:
    """Read flags, and the file of `--config` or of the run that `--resume` names.

    Returns:
        The configuration, and notices to print.

    Raises:
        UserError: names every wrong key and value at once, with the nearest valid name.
    """
    parser = build_parser(config, prog, description)
    flags, unknown = parser.parse_known_args(argv)
    given = vars(flags)
    notices: list[str] = []
    dataset = given.get(hub_dataset.NAME)
    for name, reason in (GPU_ONLY | SUPERSEDED).items():
        if given.pop(name, None) is not None:
            notices.append(f"--{name} is ignored: {reason}.")
    path = given.pop("config", None)
    run = given.pop("resume", None)
    if run is not None:
        path, values = _own_config(run, path, given)
    else:
        values = (read_toml(path) if path else {}) | given
    if isinstance(dataset, str) and "train_data_dir" not in values:
        notices = [line for line in notices if f"--{hub_dataset.NAME} " not in line]
        values["train_data_dir"] = str(hub_dataset.folder_of(dataset))
    problems = [_unknown_flag(flag, config) for flag in unknown if flag.startswith("-")]
    problems += [
        f"{word}: not a flag and not the value of one"
        for before, word in zip(["", *unknown], unknown, strict=False)
        if not word.startswith("-") and not before.startswith("-")
    ]
    try:
        parsed = config.model_validate(values)
    except ValidationError as error:
        problems += [describe(problem, config) for problem in error.errors()]
    if problems:
        where = f" (flags and {path})" if path else ""
        lines = "\n".join(f"  - {problem}" for problem in problems)
        plural = "s" if len(problems) > 1 else ""
        raise UserError(
            f"{len(problems)} error{plural} in the configuration{where}:\n{lines}\n"
            f"  {prog} --help lists every key."
        )
    return parsed, notices


def _own_config(
    run: Path, config: Path | None, given: dict[str, Any]
) -> tuple[Path, dict[str, Any]]:
    """The record of the run that `--resume` names, and its keys with those that are given now.

    Raises:
        UserError: the folder holds no run, or another flag names a file or a folder too.
    """
    if config is not None or "output_dir" in given:
        other = "--config" if config is not None else "--output_dir"
        raise UserError(f"--resume {run}: is the run's own folder and configuration: no {other}.")
    record = run / CONFIG_FILE
    if not record.exists():
        raise UserError(f"--resume {run}: holds no run (there is no {record}).")
    going_on = {"output_dir": str(run), "resume_from_checkpoint": "latest"}
    return record, read_toml(record) | going_on | given


def read_toml(path: Path) -> dict[str, Any]:
    """The keys of a TOML file; its folder and syntax errors are named.

    Raises:
        UserError: the file is absent, unreadable, not TOML, or has tables.
    """
    try:
        with path.open("rb") as stream:
            values = tomllib.load(stream)
    except OSError as error:
        raise UserError(f"--config {path}: cannot be read ({error.strerror}).") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"--config {path}: is not valid TOML: {error}.") from error
    values.pop("run", None)
    return values


def describe(problem: Any, config: type[BaseModel]) -> str:
    """One pydantic error as a line: the key, the value, the rule, the fix."""
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"{key}: no such key{_nearest(key, config)}"
    if problem["type"] == "missing":
        field = config.model_fields[key]
        return f"{key}: is required. {field.description}"
    message = problem["msg"].removeprefix("Value error, ")
    message = f"{message[0].lower()}{message[1:]}"
    if not key:  # it is about several keys, and names them
        return message
    given = "" if problem["input"] is None else f" = {problem['input']!r}"
    return f"{key}{given}: {message}"


def _unknown_flag(flag: str, config: type[BaseModel]) -> str:
    name = flag.lstrip("-").split("=")[0]
    return f"{flag.split('=')[0]}: no such flag{_nearest(name.replace('-', '_'), config, '--')}"


def _nearest(name: str, config: type[BaseModel], prefix: str = "") -> str:
    close = difflib.get_close_matches(name, config.model_fields, n=1, cutoff=0.6)
    return f"; did you mean {prefix}{close[0]}?" if close else ""


def _arguments(annotation: Any) -> tuple[Any, ...]:
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        return typing.get_args(annotation)
    return (annotation,)


def _choices(annotation: Any) -> list[str]:
    return [
        str(choice)
        for part in _arguments(annotation)
        if typing.get_origin(part) is typing.Literal
        for choice in typing.get_args(part)
    ]


def _is_list(annotation: Any) -> bool:
    return any(typing.get_origin(part) is list for part in _arguments(annotation))
