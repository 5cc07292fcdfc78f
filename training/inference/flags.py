"""The flags that every program that draws has: with which weights, and with which engine."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_weights(parser: argparse.ArgumentParser) -> None:
    """A run's folder or a model, with words, LoRAs and a VAE."""
    weights = parser.add_argument_group("with which weights")
    weights.add_argument("folder", type=Path, nargs="?", metavar="RUN_FOLDER",
                         help="a run: its model, word, precision and defaults")  # fmt: skip
    weights.add_argument(
        "--step", type=int, help="use the word as learned by this step [the final one]"
    )
    weights.add_argument(
        "--model",
        help="draw without a run: a pipeline folder, a hub name, or a .safetensors file of 1.x",
    )
    weights.add_argument(
        "--embeds",
        action="append",
        metavar="[WORD=]PATH",
        help="file of a learned word (diffusers, A1111 or kohya); the word is the one in the file, "
        "the file's name (A1111, kohya), or WORD; may be repeated",
    )
    weights.add_argument(
        "--lora",
        action="append",
        metavar="PATH[:WEIGHT]",
        help="LoRA file (diffusers or kohya) and its weight [1]; may be repeated",
    )
    weights.add_argument(
        "--vae",
        type=Path,
        metavar="PATH",
        help="VAE in place of the model's: an AutoencoderTiny, which is fast, or an AutoencoderKL",
    )


def add_engine(group: argparse._ArgumentGroup) -> None:
    """What computes, and in which precision."""
    group.add_argument(
        "--engine",
        choices=("torch", "compiled", "openvino"),
        help="compiled: compiles for minutes, then draws faster (needs g++); openvino: draws with "
        "what training.export has written [torch]",
    )
    group.add_argument(
        "--exported", type=Path, metavar="FOLDER", help="folder of the export [the run's openvino/]"
    )
    group.add_argument(
        "--mixed_precision",
        choices=("auto", "no", "bf16"),
        help="no: fp32; auto: the faster one here [the run's; without a run: auto]",
    )
