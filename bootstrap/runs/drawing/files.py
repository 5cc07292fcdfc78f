"""The files that a person names for drawing: checked here, sent to the head, named anew there."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from bootstrap.errors import UserError
from bootstrap.runs.drawing import head_program
from bootstrap.ssh.host import Host


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that name such files; as those of training.generate and training.export."""
    parser.add_argument("--embeds", action="append", default=[], metavar="[WORD=]PATH",
                        help="a further learned word, a file here; may be repeated")  # fmt: skip
    parser.add_argument("--lora", action="append", default=[], metavar="PATH[:WEIGHT]",
                        help="a LoRA, a file here, and how much of it [1]; may be repeated",
                        )  # fmt: skip
    parser.add_argument("--vae", metavar="PATH",
                        help="a tiny VAE, or another, in the model's place: a folder or file here",
                        )  # fmt: skip


def words(head: Host, chosen: argparse.Namespace, keys: Sequence[str]) -> list[str]:
    """The flags for the program on the head; the files that they name are there after this.

    Args:
        keys: of other flags that are passed on where they are given.
    """
    given = [f"--{key}={getattr(chosen, key)}" for key in keys if getattr(chosen, key) is not None]
    return given + _named(chosen, lambda flag, path: head_program.send(head, path))


def refuse_missing(chosen: argparse.Namespace) -> None:
    """Make sure that all files are here.

    Raises:
        UserError: names the flag of the first that is not.
    """

    def check(flag: str, path: Path) -> str:
        if not path.exists():
            raise UserError(f"{flag} {path}: there is no such file or folder here.")
        return ""

    _named(chosen, check)


def _named(chosen: argparse.Namespace, place: Callable[[str, Path], str]) -> list[str]:
    """The flags that name files; `place` says where the file of a flag is on the head."""
    flags = []
    for text in chosen.embeds:
        before, path, _ = _parts(text, before="=")
        flags.append(f"--embeds={before}{place('--embeds', path)}")
    for text in chosen.lora:
        _, path, after = _parts(text, after=":")
        flags.append(f"--lora={place('--lora', path)}{after}")
    if chosen.vae is not None:
        flags.append(f"--vae={place('--vae', Path(chosen.vae))}")
    return flags


def prompts_in(path: Path, flag: str = "--prompt-file") -> list[str]:
    """The prompts of a file, one a line.

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


def _parts(text: str, *, before: str = "", after: str = "") -> tuple[str, Path, str]:
    """What stands before the path of such a flag, the path, and what stands after it.

    A file whose name has the sign in it is taken as it is.
    """
    if not Path(text).exists():
        if before and before in text:
            word, sign, path = text.partition(before)
            return word + sign, Path(path), ""
        if after and after in text:
            path, sign, weight = text.rpartition(after)
            return "", Path(path), sign + weight
    return "", Path(text), ""
