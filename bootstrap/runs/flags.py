"""`fab train`'s flags: its own, and one for each key that the training publishes in its schema.

The schema (contract 3) is read as JSON; nothing of `training` is imported. Flags are dashed, as
Fabric has them (`--max-train-steps`); the underscores of diffusers' scripts are taken too.
"""

from __future__ import annotations

import argparse
import difflib
import json
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from bootstrap.errors import UserError
from bootstrap.node.job import LORA, METHOD, QUANTIZE
from bootstrap.paths import CHECKOUT
from bootstrap.runs.prompt_check import words_in

TRAINING = CHECKOUT / "training"
SCHEMA = ".schema.json"
"""Ends the name of a file of `TRAINING`: before it stands the method that it is the schema of."""
WORD, AUTO = "placeholder_token", "auto"
"""The key of the new word, or of several with commas between; AUTO: one of each subfolder."""
REFERENCE: dict[str, Any] = {
    "placeholder_token": "<dicoo>",
    "initializer_token": "toy",
    "learnable_property": "object",
    "train_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "max_train_steps": 200,
    "learning_rate": 2.0e-3,
    "scale_lr": True,
    "lr_scheduler": "constant",
    "lr_warmup_steps": 0,
    "seed": 7,
    "mixed_precision": "auto",
    "save_as_full_pipeline": True,
    "checkpointing_steps": 25,
}
"""What is trained when nobody says otherwise: the reference run on a cluster, with checkpoints."""
LORA_REFERENCE: dict[str, Any] = {
    "rank": 4,
    "train_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "max_train_steps": 800,
    "learning_rate": 1.0e-4,
    "lr_scheduler": "constant",
    "lr_warmup_steps": 0,
    "seed": 7,
    "mixed_precision": "auto",
    "checkpointing_steps": 100,
}
"""The same for --method lora: a style from some eight pictures."""
QUANTIZE_REFERENCE: dict[str, Any] = {
    "train_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "max_train_steps": 4096,
    "learning_rate": 1.0e-5,
    "lr_scheduler": "constant",
    "lr_warmup_steps": 0,
    "seed": 7,
    "gradient_checkpointing": True,
    "checkpointing_steps": 512,
    "checkpoints_total_limit": 2,
}
"""The same for --method quantize. Its checkpoints are gigabytes: two are kept."""
REFERENCES = {METHOD: REFERENCE, LORA: LORA_REFERENCE, QUANTIZE: QUANTIZE_REFERENCE}
OWN = {
    "inventory": ("string", "cluster.json, a nodefile (one user@host:port per line), or local"),
    "config": ("string", "a TOML file with the training's keys; flags win over it"),
    "run": ("string", "the run's name; its folder is runs/NAME here and on the nodes"),
    "method": ("string", f"what is trained [{METHOD}]"),
    "n": ("integer", "ranks in all, as mpirun's -n [chosen from the nodes' topology]"),
    "ppn": ("integer", "ranks per node, as mpirun's -ppn [one per NUMA node, more on large ones]"),
    "dry_run": ("boolean", "print command, environment and placement; start nothing"),
    "resume": ("boolean", "go on with a run from the newest checkpoint that any node has"),
    "minimum_nodes": ("integer", "with fewer nodes that answer the run does not go on [1]"),
    "tries": ("integer", "failures in a row without a new checkpoint until it gives up [3]"),
    "then_pause": (
        "boolean",
        "deallocate the VMs when the run has ended; config key head_may_deallocate",
    ),
    "detach": ("boolean", "return once it has started; fab logs attaches"),
    "accept_host_keys": ("boolean", "pin new host keys without asking"),
}
OWN_FLAGS: dict[str, dict[str, Any]] = {
    key: {"type": kind, "description": text, "group": "fab train takes"}
    | ({"minimum": 1} if kind == "integer" else {})
    for key, (kind, text) in OWN.items()
}
"""Rules as the schema has them, by key."""
SHORT = {"n": ("-n", "-np"), "ppn": ("-ppn",)}
FLAG = re.compile(r"--?[A-Za-z][\w-]*(?=$|=)")
RESERVED = {
    "output_dir": "the run's folder is runs/NAME: use --run NAME",
    "resume_from_checkpoint": "use --resume, which takes the newest checkpoint of any node",
    "hub_token": "a token in a command line is seen by everybody: fab bootstrap --hub-token-file",
    "logging_dir": "logs lie in the run's folder",
}


@dataclass(frozen=True)
class TrainOptions:
    """A command line of `fab train`.

    Attributes:
        own: values of `OWN_FLAGS` that were given, by name with underscores.
        training: the training's keys that were given, in flags or the file.
        from_file: whether a file was given: then the reference run's values are left out.
    """

    own: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    from_file: bool = False

    @property
    def method(self) -> str:
        """What is trained."""
        return str(self.own.get("method", METHOD))

    def complete(self, model: str, pictures: str) -> dict[str, Any]:
        """All keys for the training: what was given, over the defaults."""
        known = schema(self.method)
        reference = {} if self.from_file else REFERENCES.get(self.method, REFERENCE)
        defaults = {key: value for key, value in reference.items() if key in known}
        if len(words_in(str(self.training.get(WORD, "")))) > 1 or self.training.get(WORD) == AUTO:
            defaults.pop("initializer_token", None)  # each starts from its own name
        inputs = {"pretrained_model_name_or_path": model, "train_data_dir": pictures}
        return {**defaults, **self.training, **inputs}


def methods() -> list[str]:
    """What can be trained."""
    return sorted(path.name.removesuffix(SCHEMA) for path in TRAINING.glob(f"*{SCHEMA}"))


def schema(method: str = METHOD) -> dict[str, Any]:
    """The properties of a method's configuration, by name.

    Raises:
        UserError: there is no such method.
    """
    if method not in methods():
        raise UserError(
            f"--method {method}: must be one of {', '.join(methods())}{_nearest(method, methods())}"
        )
    text = (TRAINING / f"{method}{SCHEMA}").read_text(encoding="utf-8")
    properties: dict[str, Any] = json.loads(text)["properties"]
    return properties


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Without the usage, as every other error is told."""
        raise UserError(f"{message}.")


class _HelpFormatter(argparse.HelpFormatter):
    def _format_action_invocation(self, action: argparse.Action) -> str:
        return action.option_strings[0]


def build_parser(
    rules: Mapping[str, Mapping[str, Any]], reference: Mapping[str, Any]
) -> argparse.ArgumentParser:
    """An argument parser with a flag for each key, grouped as the rules say.

    What it gives are the words as they were typed; None: the value is missing.
    """
    made = _Parser(
        usage=argparse.SUPPRESS,
        add_help=False,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        formatter_class=lambda prog: _HelpFormatter(prog, max_help_position=38),
    )
    groups: dict[str, argparse._ArgumentGroup] = {}
    for key, rule in rules.items():
        title = rule.get("group", "options")
        group = groups[title] = groups.get(title) or made.add_argument_group(title)
        default = reference.get(key, rule.get("default"))
        shown = f" [{default}]" if default not in (None, False) else ""
        text = f"{rule['description']}{shown}".replace("%", "%%")
        how: dict[str, Any] = {"const": "true"} if rule.get("type") == "boolean" else {}
        if any(choice.get("type") == "array" for choice in rule.get("anyOf", [rule])):
            how = {"action": "append"}
        group.add_argument(
            *SHORT.get(key, ()),
            _flag(key),
            nargs="?",
            help=argparse.SUPPRESS if key in RESERVED else text,
            **how,
        )
    return made


def method_in(words: Sequence[str]) -> str:
    """The method that a command line names; what it can take depends on it."""
    first = _Parser(add_help=False, allow_abbrev=False)
    first.add_argument("--method", nargs="?")
    return first.parse_known_args(words)[0].method or METHOD


def parse(argv: Sequence[str]) -> TrainOptions:
    """Read a command line.

    Raises:
        UserError: names everything that is wrong with it at once.
    """
    properties = schema(method_in(argv))
    read, problems = _read_words(argv, OWN_FLAGS | properties)
    own = {key: value for key, value in read.items() if key in OWN_FLAGS}
    training: dict[str, Any] = {}
    if "config" in own:
        training, wrong = read_file(Path(own["config"]), properties)
        problems += wrong
    if problems:
        lines = "\n".join(f"  - {problem}" for problem in problems)
        plural = "s" if len(problems) > 1 else ""
        raise UserError(
            f"{len(problems)} error{plural} in the flags:\n{lines}\n  fab train --flags lists all."
        )
    training |= {key: value for key, value in read.items() if key not in OWN_FLAGS}
    return TrainOptions(own, training, "config" in own)


def _read_words(argv: Sequence[str], rules: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The values that were given, by key, and what is wrong."""
    parser = build_parser(rules, {})
    words = [FLAG.sub(lambda flag: flag[0].replace("_", "-"), word) for word in argv]
    flags = {found[0] for word in words if (found := FLAG.match(word))}
    unknown = flags - parser._option_string_actions.keys()
    for flag in unknown:  # takes its value along, which so is no error of its own
        parser.add_argument(flag, nargs="?", dest=flag)
    typed, stray = parser.parse_known_args(words)
    read, problems = {}, [f"{word}: not a flag and not the value of one" for word in stray]
    for key, value in vars(typed).items():
        try:
            if key in unknown or key in RESERVED:
                problems.append(_unknown(_flag(key), key.strip("-").replace("-", "_"), rules))
            elif value is None or value == [None]:
                problems.append(f"{_flag(key)}: its value is missing")
            else:
                read[key] = value if isinstance(value, list) else read_value(value, rules[key])
        except ValueError as error:
            problems.append(f"{_flag(key)} {value}: {error}")
    return read, problems


def _flag(key: str) -> str:
    return key if key.startswith("-") else f"--{key.replace('_', '-')}"


def read_file(path: Path, properties: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The keys of a TOML file, and what is wrong with them.

    Raises:
        UserError: it cannot be read, or is not TOML.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise UserError(f"--config {path}: cannot be read ({reason}).") from error
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"--config {path}: is not valid TOML: {error}.") from error
    values.pop("run", None)  # a run's own record of itself
    read, problems = {}, []
    for key, value in values.items():
        if key in ("output_dir", "resume_from_checkpoint", "logging_dir"):
            continue  # a run's config.toml has them: it may be given as it is
        if key not in properties:
            problems.append(f"{path}: {_unknown(key, key, properties)}")
            continue
        try:
            read[key] = value if isinstance(value, list) else read_value(value, properties[key])
        except ValueError as error:
            problems.append(f"{path}: {key} = {value!r}: {error}")
    return read, problems


def read_value(value: Any, rules: Mapping[str, Any]) -> Any:
    """A value as the schema's property wants it.

    Raises:
        ValueError: it breaks a rule; says which.
    """
    choices = [rule for rule in rules.get("anyOf", [rules]) if rule.get("type") != "null"]
    if value == "none" and len(choices) < len(rules.get("anyOf", [rules])):
        return "none"
    rule = choices[0]
    kind = rule.get("type")
    if kind == "boolean":
        return _boolean(value)
    if kind in ("integer", "number"):
        number = _number(value, kind)
        _check_bounds(number, rule)
        return number
    text = str(value)
    if "enum" in rule and text not in rule["enum"]:
        raise ValueError(f"must be one of {', '.join(rule['enum'])}{_nearest(text, rule['enum'])}")
    if len(text) < rule.get("minLength", 0):
        raise ValueError("must not be empty")
    return text


def arguments(values: Mapping[str, Any]) -> tuple[str, ...]:
    """The training's own command line for `values`."""
    words: list[str] = []
    for key, value in values.items():
        if isinstance(value, list):
            words += [f"--{key}", *map(str, value)]
        elif isinstance(value, bool):
            words.append(f"--{key}={str(value).lower()}")
        else:
            words.append(f"--{key}={value}")
    return tuple(words)


def described(method: str = METHOD) -> str:
    """Every flag with what it does, for people."""
    made = build_parser(OWN_FLAGS | schema(method), REFERENCES.get(method, REFERENCE))
    return made.format_help().strip()


def _boolean(value: Any) -> bool:
    if str(value).lower() in ("true", "false"):
        return str(value).lower() == "true"
    raise ValueError("must be true or false")


def _number(value: Any, kind: str) -> int | float:
    try:
        return int(str(value)) if kind == "integer" else float(str(value))
    except ValueError:
        what = "a whole number" if kind == "integer" else "a number"
        raise ValueError(f"must be {what}") from None


def _check_bounds(number: float, rule: Mapping[str, Any]) -> None:
    bounds = (
        ("minimum", number >= rule.get("minimum", number), "at least"),
        ("maximum", number <= rule.get("maximum", number), "at most"),
        ("exclusiveMinimum", number > rule.get("exclusiveMinimum", number - 1), "more than"),
        ("exclusiveMaximum", number < rule.get("exclusiveMaximum", number + 1), "less than"),
    )
    for name, holds, words in bounds:
        if not holds:
            raise ValueError(f"must be {words} {rule[name]}")


def _unknown(flag: str, key: str, properties: Mapping[str, Any]) -> str:
    if key in RESERVED:
        return f"{flag}: {RESERVED[key]}"
    names = [name for name in (*OWN_FLAGS, *properties) if name not in RESERVED]
    what, shown = ("flag", _flag) if flag.startswith("-") else ("key", str)
    return f"{flag}: no such {what}{_nearest(key, names, shown)}"


def _nearest(text: str, names: Sequence[str], shown: Callable[[str], str] = str) -> str:
    close = difflib.get_close_matches(text, names, n=1, cutoff=0.6)
    return f"; did you mean {shown(close[0])}?" if close else ""
