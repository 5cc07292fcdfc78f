"""`fab train`'s flags: its own, and one for each key that the training publishes in its schema.

The schema (contract 3) is read as JSON; nothing of `training` is imported. Flags are dashed, as
Fabric has them (`--max-train-steps`); the underscores of diffusers' scripts are taken too.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from bootstrap.errors import UserError
from bootstrap.node.job import METHOD
from bootstrap.paths import CHECKOUT

TRAINING = CHECKOUT / "training"
SCHEMA = ".schema.json"
"""Ends the name of a file of `TRAINING`: before it stands the method that it is the schema of."""
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
OWN_FLAGS = {
    "inventory": ("text", "cluster.json, a nodefile (one user@host:port per line), or local"),
    "config": ("text", "a TOML file with the training's keys; flags win over it"),
    "run": ("text", "the run's name; its folder is runs/NAME here and on the nodes"),
    "method": ("text", f"what is trained [{METHOD}]"),
    "n": ("integer", "ranks in all, as mpirun's -n [chosen from the nodes' topology]"),
    "ppn": ("integer", "ranks per node, as mpirun's -ppn [one per NUMA node, more on large ones]"),
    "dry-run": ("flag", "print command, environment and placement; start nothing"),
    "resume": ("flag", "go on with a run from the newest checkpoint that any node has"),
    "minimum-nodes": ("integer", "with fewer nodes that answer the run does not go on [1]"),
    "tries": ("integer", "failures in a row without a new checkpoint until it gives up [3]"),
    "then-pause": (
        "flag",
        "deallocate the VMs when the run has ended; config key head_may_deallocate",
    ),
    "detach": ("flag", "return once it has started; fab logs attaches"),
    "accept-host-keys": ("flag", "pin new host keys without asking"),
}
SHORT = {"-n": "n", "-np": "n", "-ppn": "ppn"}
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
        defaults = {} if self.from_file else {k: v for k, v in REFERENCE.items() if k in known}
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


def method_in(words: Sequence[str]) -> str:
    """The method that a command line names; what it can take depends on it."""
    for word, following in pairwise([*words, ""]):
        flag, equals, value = word.partition("=")
        if flag == "--method" and (equals or following):
            return value if equals else following
    return METHOD


def parse(argv: Sequence[str]) -> TrainOptions:
    """Read a command line.

    Raises:
        UserError: names everything that is wrong with it at once.
    """
    own: dict[str, Any] = {}
    given: dict[str, Any] = {}
    problems: list[str] = []
    properties = schema(method_in(argv))
    words = list(argv)
    while words:
        word = words.pop(0)
        flag, equals, value = word.partition("=")
        name = SHORT.get(flag) or flag.removeprefix("--").replace("_", "-")
        key = name.replace("-", "_")
        known = name in OWN_FLAGS or key in properties
        if not (flag.startswith("--") or flag in SHORT) or not known or key in RESERVED:
            if not flag.startswith("-"):
                problems.append(f"{flag}: not a flag and not the value of one")
                continue
            problems.append(_unknown(flag, key, properties))
            if not equals and words and not words[0].startswith("-"):
                words.pop(0)
            continue
        kind = OWN_FLAGS[name][0] if name in OWN_FLAGS else _kind(properties[key])
        if kind == "flag" and not equals:
            value = words.pop(0) if words and words[0] in ("true", "false") else "true"
        elif not equals:
            if not words or (words[0].startswith("--") and len(words[0]) > 2):
                problems.append(f"{flag}: its value is missing")
                continue
            value = words.pop(0)
        try:
            if name in OWN_FLAGS:
                own[key] = _own_value(kind, value)
            elif _is_list(properties[key]):
                given[key] = [*given.get(key, []), value]
            else:
                given[key] = read_value(value, properties[key])
        except ValueError as error:
            problems.append(f"{flag} {value}: {error}")
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
    return TrainOptions(own, {**training, **given}, "config" in own)


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
    lines = ["fab train takes:"]
    lines += [_line(f"-{name}" if f"-{name}" in SHORT else f"--{name}", text)
              for name, (_, text) in OWN_FLAGS.items()]  # fmt: skip
    group = ""
    for key, rules in schema(method).items():
        if key in RESERVED:
            continue
        if rules.get("group") != group:
            group = rules.get("group", "")
            lines.append(f"\n{group}:")
        default = REFERENCE.get(key, rules.get("default"))
        shown = f" [{default}]" if default not in (None, False) else ""
        lines.append(_line(f"--{key.replace('_', '-')}", f"{rules['description']}{shown}"))
    return "\n".join(lines)


def _line(flag: str, text: str) -> str:
    return f"  {flag:34} {text}" if len(flag) < 34 else f"  {flag}\n  {'':34} {text}"


def _kind(rules: Mapping[str, Any]) -> str:
    return "flag" if rules.get("type") == "boolean" else "text"


def _is_list(rules: Mapping[str, Any]) -> bool:
    return any(rule.get("type") == "array" for rule in rules.get("anyOf", [rules]))


def _own_value(kind: str, value: str) -> Any:
    if kind == "flag":
        return _boolean(value)
    if kind == "integer":
        number = _number(value, kind)
        if number < 1:
            raise ValueError("must be at least 1")
        return number
    return value


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
    names = [name.replace("-", "_") for name in OWN_FLAGS] + [
        k for k in properties if k not in RESERVED
    ]
    close = difflib.get_close_matches(key, names, n=1, cutoff=0.6)
    if not flag.startswith("-"):
        return f"{flag}: no such key{f'; did you mean {close[0]}?' if close else ''}"
    nearest = f"; did you mean --{close[0].replace('_', '-')}?" if close else ""
    return f"{flag}: no such flag{nearest}"


def _nearest(text: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(text, names, n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""
