"""The flags that the measurements of a step share, and those of the training that they start."""

from __future__ import annotations

import argparse
from pathlib import Path

WORD = {"textual_inversion": ("--placeholder_token", "<toy>", "--initializer_token", "toy")}
"""What a method needs beside the flags of all."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add what is trained, how, and where the weights and the figures go."""
    parser.add_argument("--method", choices=("textual_inversion", "lora"),
                        default="textual_inversion", help="[textual_inversion]")  # fmt: skip
    parser.add_argument("--resolution", type=int, default=512, help="pixels [512]")
    parser.add_argument("--frozen", choices=("native", "ipex", "compiled"), nargs="+",
                        default=["native"],
                        help="ipex needs .venv-intel, compiled g++ [native]")  # fmt: skip
    parser.add_argument("--folder", type=Path, help="for the weights [a temporary folder]")
    parser.add_argument("--output", type=Path, help="a file for the figures as JSON")


def training_flags(
    folder: Path, run: Path, engine: str, precision: str, steps: int, chosen: argparse.Namespace
) -> list[str]:
    """The flags of a short training, batch 1, that draws nothing and is hardly evaluated.

    Args:
        folder: with the model and the pictures.
        run: where the training goes.
        engine: the value of `--frozen`.
        chosen: with the flags of `add_flags`.
    """
    return [
        *WORD.get(chosen.method, ()),
        "--pretrained_model_name_or_path", str(folder / "model"),
        "--train_data_dir", str(folder / "pictures"),
        "--resolution", str(chosen.resolution), "--train_batch_size", "1", "--seed", "7",
        "--max_train_steps", str(steps), "--mixed_precision", precision,
        "--frozen", engine, "--report_to", "none", "--evaluation_steps", "1000000",
        "--num_evaluation_samples", "1",
        "--output_dir", str(run),
    ]  # fmt: skip
