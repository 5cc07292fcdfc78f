"""Textual inversion on CPUs: `python -m training.textual_inversion --help`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from training.config.textual_inversion import TextualInversionConfig
from training.program import LOST, run_program

if TYPE_CHECKING:
    from training.method import Method

__all__ = ["LOST", "main"]

PROGRAM = "python -m training.textual_inversion"
DESCRIPTION = """\
Teach Stable Diffusion a new word from a few pictures, on CPUs.

  python -m training.textual_inversion \\
      --pretrained_model_name_or_path stable-diffusion-v1-5/stable-diffusion-v1-5 \\
      --train_data_dir pictures/ --placeholder_token "<dicoo>" --initializer_token toy \\
      --train_batch_size 1 --max_train_steps 200 --learning_rate 2e-3 --output_dir runs/dicoo

Several words, --placeholder_token "<dicoo>,<bird>", are learned from pictures/dicoo/ and
pictures/bird/.
Takes the flags of diffusers' textual_inversion.py. Runs alone, under accelerate launch,
under torchrun, and under mpirun (mpirun -n 2 python -m training.textual_inversion ...)."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code of `training.program.run_program`."""
    return run_program(TextualInversionConfig, _method, argv, PROGRAM, DESCRIPTION)


def _method() -> type[Method]:
    from training.methods.textual_inversion import TextualInversion

    return TextualInversion


if __name__ == "__main__":
    sys.exit(main())
