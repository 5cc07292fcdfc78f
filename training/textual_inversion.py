"""Textual inversion on CPUs: `python -m training.textual_inversion --help`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from training.config.command_line import parse
from training.config.textual_inversion import TextualInversionConfig
from training.errors import LostRanks, PeerError, SharedError, UserError
from training.ranks.launcher import read_environment

PROGRAM = "python -m training.textual_inversion"
LOST = 75
"""Exit code where other ranks died: the same command with --resume_from_checkpoint goes on."""
DESCRIPTION = """\
Teach Stable Diffusion a new word from a few pictures, on CPUs.

  python -m training.textual_inversion \\
      --pretrained_model_name_or_path stable-diffusion-v1-5/stable-diffusion-v1-5 \\
      --train_data_dir pictures/ --placeholder_token "<dicoo>" --initializer_token toy \\
      --max_train_steps 200 --learning_rate 2e-3 --output_dir runs/dicoo

Takes the flags of diffusers' textual_inversion.py. Runs alone, under accelerate launch,
under torchrun, and under mpirun (mpirun -n 2 python -m training.textual_inversion ...)."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (0, 2 for a user's error, 128 + signal, LOST)."""
    first = read_environment(os.environ).is_first
    try:
        config, notices = parse(TextualInversionConfig, argv, PROGRAM, DESCRIPTION)
    except UserError as error:
        return _complain(error) if first else 2
    from training.run import run  # torch and diffusers take seconds to import: not for --help

    try:
        return run(config, notices)
    except SharedError as error:
        return _complain(error) if first else 2
    except PeerError as error:
        return error.code
    except LostRanks as error:
        _complain(error)
        return LOST
    except UserError as error:
        return _complain(error)


def _complain(error: UserError) -> int:
    print(f"error: {error}", file=sys.stderr, flush=True)
    return 2


if __name__ == "__main__":
    sys.exit(main())
