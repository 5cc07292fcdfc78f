"""Quantization-aware training on CPUs: `python -m training.quantize --help`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from training.config.quantize import QuantizeConfig
from training.program import run_program

if TYPE_CHECKING:
    from training.method import Method

PROGRAM = "python -m training.quantize"
DESCRIPTION = """\
Make Stable Diffusion's UNet compute in 8 bits, and train it until it draws as it did in fp32:
NNCF quantizes it, its own fp32 weights teach it, and OpenVINO draws with it.

  .venv-openvino/bin/python -m training.quantize \\
      --pretrained_model_name_or_path stable-diffusion-v1-5/stable-diffusion-v1-5 \\
      --train_data_dir pictures/ --train_batch_size 1 --gradient_checkpointing \\
      --merge_tokens 0.4 --output_dir runs/int8
  .venv-openvino/bin/python -m training.export runs/int8 --output_dir runs/int8/openvino

Captions are in a .txt file beside each picture, or in the folder's metadata.jsonl. Needs the
environment that `make environment-openvino` makes. Runs alone, under accelerate launch, under
torchrun, and under mpirun (mpirun -n 2 python -m training.quantize ...)."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code of `training.program.run_program`."""
    return run_program(QuantizeConfig, _method, argv, PROGRAM, DESCRIPTION)


def _method() -> type[Method]:
    from training.methods.quantize import Quantize

    return Quantize


if __name__ == "__main__":
    sys.exit(main())
