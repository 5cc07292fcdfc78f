"""The flags that every program that draws has: with which weights, and with which engine."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_weights(parser: argparse.ArgumentParser) -> None:
    """A run's folder or a model, with words, LoRAs and a VAE."""
    weights = parser.add_argument_group("with which weights")
    weights.add_argument("folder", type=Path, nargs="?", metavar="RUN_FOLDER",
                         help="a run: its model, word, precision and defaults")  # fmt: skip
    weights.add_argument("--step", type=int, help="the run's word as of this step [the final one]")
    weights.add_argument(
        "--model",
        help="without a run: a pipeline folder, a name on the hub, or a .safetensors file of 1.x",
    )
    weights.add_argument(
        "--embeds",
        action="append",
        metavar="[WORD=]PATH",
        help="a learned word: diffusers', A1111's or kohya's file; written as in the file, or as "
        "the file is called (A1111, kohya), or as WORD says; may be repeated",
    )
    weights.add_argument(
        "--lora",
        action="append",
        metavar="PATH[:WEIGHT]",
        help="a LoRA of diffusers or kohya, and how much of it [1]; may be repeated",
    )
    weights.add_argument(
        "--vae",
        type=Path,
        metavar="PATH",
        help="draws in place of the model's: an AutoencoderTiny, which is fast, or AutoencoderKL",
    )


def add_engine(group: argparse._ArgumentGroup) -> None:
    """What computes, and in which precision."""
    group.add_argument(
        "--engine",
        choices=("torch", "compiled", "openvino"),
        help="compiled: minutes to compile, then faster (needs g++); openvino: what "
        "training.export has written [torch]",
    )
    group.add_argument(
        "--exported", type=Path, metavar="FOLDER", help="where that is, if not in the run's folder"
    )
    group.add_argument(
        "--mixed_precision",
        choices=("auto", "no", "bf16"),
        help="auto: bf16 where the CPU computes in it [the run's; without a run auto]",
    )
