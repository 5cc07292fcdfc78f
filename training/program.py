"""The command line of a method's training: flags, one run, and how its errors are told."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from training.config.command_line import parse
from training.config.run import RunConfig
from training.errors import LostRanks, PeerError, SharedError, UserError
from training.outputs.ticking import ticking
from training.ranks.launcher import read_environment

if TYPE_CHECKING:
    from training.method import Method

LOST = 75
"""Exit code where other ranks died: the same command with --resume_from_checkpoint goes on."""


def run_program(
    config_type: type[RunConfig],
    method: Callable[[], type[Method]],
    argv: Sequence[str] | None,
    program: str,
    description: str,
) -> int:
    """Run a command line; returns the exit code (0, 2 for a user's error, 128 + signal, LOST).

    Args:
        method: imports what is trained. torch and diffusers take seconds to import: not for --help.
    """
    first = read_environment(os.environ).is_main_process
    try:
        config, notices = parse(config_type, argv, program, description)
    except UserError as error:
        return _complain(error) if first else 2
    what = "loading PyTorch and diffusers"
    if first:
        _print(what)
    with ticking(_print if first else _ignore, what):
        trained = method()
        from training.run import run

    try:
        return run(trained, config, notices)
    except SharedError as error:
        return _complain(error) if first else 2
    except PeerError as error:
        return error.code
    except LostRanks as error:
        _complain(error)
        return LOST
    except UserError as error:
        return _complain(error)


def _print(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _ignore(text: str) -> None:
    del text


def _complain(error: UserError) -> int:
    _print(f"error: {error}")
    return 2
