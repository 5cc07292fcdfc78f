"""A run's result as OpenVINO IR, to draw with on a CPU with or without PyTorch.

    python -m training.export runs/dicoo --output_dir runs/dicoo/openvino
    python -m training.export --model stable-diffusion-v1-5/stable-diffusion-v1-5 --output_dir sd15

The folder holds the base model with the learned word in its tokenizer and text encoder. It loads
with optimum.intel.OVStableDiffusionPipeline.from_pretrained and with
openvino_genai.Text2ImagePipeline.
Needs the environment that `make environment-openvino` makes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from training.config.groups import ModelConfig
from training.config.textual_inversion import TextualInversionConfig
from training.errors import UserError
from training.inference.generate import learned
from training.inference.settings import File
from training.machine import vector_math
from training.models.embeds import load_embeds
from training.models.loading import Models, load_models
from training.models.merge_tokens import check_ratio
from training.models.placeholder import models_with_rows
from training.openvino import write
from training.storage.events import events_of, read_events
from training.storage.run_directory import read_config


def main(argv: Sequence[str] | None = None) -> int:
    """Export, and print the record as JSON; returns 2 for a user's error."""
    parser = argparse.ArgumentParser(
        prog="python -m training.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("run", nargs="?", type=Path, metavar="RUN", help="a finished run's folder")
    source.add_argument("--model", help="a base model without a word: a folder, file or hub name")
    parser.add_argument("--output_dir", type=Path, required=True, help="the folder to write")
    parser.add_argument("--batch_size", type=int, default=1, help="pictures at a time [1]")
    parser.add_argument("--height", type=int, help="pixels, a multiple of 8 [what the model draws]")
    parser.add_argument("--width", type=int, help="pixels, a multiple of 8 [what the model draws]")
    parser.add_argument(
        "--dynamic", action="store_true", help="any batch and size: slower than a fixed shape"
    )
    parser.add_argument(
        "--weights",
        choices=list(write.WEIGHTS),
        default="fp32",
        help="fp32: equal to PyTorch's; bf16: half the size (stored as fp16, computed in bf16 "
        "where the processor can); int8: a quarter (weights alone) [fp32]",
    )
    parser.add_argument(
        "--merge_tokens",
        type=float,
        default=0,
        metavar="RATIO",
        help="Token Merging: the share of tokens, up to 0.75, that self-attention at the highest "
        "resolution leaves out: faster, and another picture; 0.4 is usual [0]",
    )
    asked = parser.parse_args(argv)
    try:
        vector_math.resolve_kernels()
        # What is wrong is told before a model is loaded.
        write.check_packages("training.export")
        write.check_shape(asked.batch_size, asked.height or 8, asked.width or 8)
        check_ratio(asked.merge_tokens)
        if asked.merge_tokens and asked.dynamic:
            raise UserError("--merge_tokens needs a fixed shape: leave out --dynamic.")
        models, name, words, embeds = _of_model(asked.model) if asked.model else _of_run(asked.run)
        side = models.unet.config.sample_size * 2 ** (len(models.vae.config.block_out_channels) - 1)
        shape = (asked.batch_size, asked.height or side, asked.width or side)
        record = write.write(
            models,
            asked.output_dir,
            name=name,
            words=words,
            embeds=embeds,
            shape=None if asked.dynamic else shape,
            weights=asked.weights,
            merged=asked.merge_tokens,
        )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps({"output_dir": str(asked.output_dir), **record.model_dump()}))
    return 0


Exported = tuple[Models, str, list[str], list[str]]
"""Models, the base model's name, the words' tokens, the digests of the words' files."""


def _of_model(name: str) -> Exported:
    config = ModelConfig(pretrained_model_name_or_path=name)
    return load_models(config), config.model_name, [], []


def _of_run(folder: Path) -> Exported:
    """A finished run's base model with its word."""
    config, _ = read_config(folder, TextualInversionConfig)
    if not events_of(read_events(folder), "done"):
        raise UserError(
            f"{folder}: this run has not finished. Go on with it: "
            f"python -m training.textual_inversion --resume {folder}"
        )
    file = learned(folder, None)
    models = models_with_rows(config.model, config.concept, load_embeds(file))
    return models, config.model_name, config.placeholder_tokens, [File.at(file).sha256]


if __name__ == "__main__":
    sys.exit(main())
