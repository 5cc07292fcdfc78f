"""LoRA on CPUs: `python -m training.lora --help`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from training.config.lora import LoraConfig
from training.program import run_program

if TYPE_CHECKING:
    from training.method import Method

PROGRAM = "python -m training.lora"
DESCRIPTION = """\
Teach Stable Diffusion a style or a subject from pictures with captions, on CPUs: small matrices
beside its frozen weights (LoRA), in a file of a few megabytes.

  python -m training.lora \\
      --pretrained_model_name_or_path stable-diffusion-v1-5/stable-diffusion-v1-5 \\
      --train_data_dir pictures/ --train_batch_size 1 --max_train_steps 1000 \\
      --validation_prompt "a castle" --output_dir runs/style

Captions are in a .txt file beside each picture, or in the folder's metadata.jsonl. With
--train_text_encoder_ti it learns a new word that the captions have, too.
Takes the flags of diffusers' train_text_to_image_lora.py. Runs alone, under accelerate launch,
under torchrun, and under mpirun (mpirun -n 2 python -m training.lora ...)."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code of `training.program.run_program`."""
    return run_program(LoraConfig, _method, argv, PROGRAM, DESCRIPTION)


def _method() -> type[Method]:
    from training.methods.lora import Lora

    return Lora


if __name__ == "__main__":
    sys.exit(main())
