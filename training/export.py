"""A run's result as OpenVINO IR, to draw with on a CPU with or without PyTorch.

    python -m training.export runs/dicoo --output_dir runs/dicoo/openvino
    python -m training.export --model stable-diffusion-v1-5/stable-diffusion-v1-5 --output_dir sd15
    python -m training.export runs/dicoo --lora lcm-lora.safetensors --vae taesd/ --no_guidance \\
        --weights hybrid --output_dir runs/dicoo/fast

The folder holds the base model with the learned word in its tokenizer and text encoder, and LoRAs
in its weights. It loads
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
from training.config.quantize import QuantizeConfig
from training.config.run import RunConfig
from training.config.textual_inversion import TextualInversionConfig
from training.data.prompts import prompts_for
from training.errors import UserError
from training.inference.ask import lora_at, prompts_in, word_at
from training.inference.engines.torch_engine import assemble
from training.inference.generate import source_of_run
from training.inference.schedulers import GUIDANCE
from training.inference.settings import File, Source
from training.machine import vector_math
from training.models.merge_tokens import check_ratio
from training.openvino import write
from training.openvino.packages import check_packages
from training.openvino.quantize import prompts_needed
from training.openvino.record import ExportRecord, Weights, vocabulary_digest
from training.storage.events import events_of, read_events

CALIBRATION_STEPS = 64
QAT: Weights = "qat"
NOUNS = ("cat", "house", "tree", "person")
"""What calibration prompts are of where there is no learned word."""


def main(argv: Sequence[str] | None = None) -> int:
    """Export, and print the record as JSON; returns 2 for a user's error."""
    asked = parser().parse_args(argv)
    try:
        vector_math.resolve_kernels()
        record = _export(asked)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps({"output_dir": str(asked.output_dir), **record.model_dump()}))
    return 0


def parser() -> argparse.ArgumentParser:
    """The flags, by what they say."""
    parser = argparse.ArgumentParser(
        prog="python -m training.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("run", nargs="?", type=Path, metavar="RUN", help="a finished run's folder")
    source.add_argument("--model", help="a base model without a word: a folder, file or hub name")
    parser.add_argument(
        "--embeds", action="append", metavar="[WORD=]PATH",
        help="file of a learned word, as training.generate takes it; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--lora", action="append", metavar="PATH[:WEIGHT]",
        help="LoRA file, fused into the weights, and its weight [1]; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--vae", type=Path, metavar="PATH",
        help="VAE in place of the model's: an AutoencoderTiny, which is fast, or an AutoencoderKL",
    )  # fmt: skip
    parser.add_argument("--output_dir", type=Path, required=True, help="the folder to write")
    parser.add_argument("--batch_size", type=int, default=1, help="pictures at a time [1]")
    parser.add_argument("--height", type=int, help="pixels, a multiple of 8 [what the model draws]")
    parser.add_argument("--width", type=int, help="pixels, a multiple of 8 [what the model draws]")
    parser.add_argument(
        "--dynamic",
        action="store_true",
        help="any batch size and picture size: slower than a fixed shape",
    )
    parser.add_argument(
        "--no_guidance",
        action="store_true",
        help="a fixed shape for --guidance_scale 1, as few-step models (LCM) draw: one sample per "
        "picture in place of two",
    )
    parser.add_argument(
        "--weights",
        choices=[weights for weights in write.WEIGHTS if weights != QAT],
        help="fp32: equal to PyTorch's; bf16: half the size (stored as fp16, computed in bf16 "
        "where the processor can); int8: a quarter (weights alone); hybrid: a quarter, and "
        "the UNet computes in int8 (calibrated on prompts: takes minutes) [fp32]",
    )
    parser.add_argument(
        "--calibration_prompts",
        type=Path,
        metavar="FILE",
        help="for hybrid: file with one prompt per line [training's sentences with the word]",
    )
    parser.add_argument(
        "--calibration_steps",
        type=int,
        default=CALIBRATION_STEPS,
        metavar="N",
        help=f"for hybrid: denoising steps to calibrate with, in all [{CALIBRATION_STEPS}]",
    )
    parser.add_argument(
        "--merge_tokens",
        type=float,
        metavar="RATIO",
        help="Token Merging: the share of tokens, up to 0.75, that self-attention at the highest "
        "resolution leaves out: faster, and another picture; 0.4 is usual [0]",
    )
    return parser


def _export(asked: argparse.Namespace) -> ExportRecord:
    # What is wrong is told before a model is loaded.
    check_packages("training.export")
    write.check_shape(asked.batch_size, asked.height or 8, asked.width or 8)
    check_ratio(asked.merge_tokens or 0)
    if asked.merge_tokens and asked.dynamic:
        raise UserError("--merge_tokens needs a fixed shape: leave out --dynamic.")
    if asked.no_guidance and asked.dynamic:
        raise UserError("--no_guidance: an export of any shape draws both ways; leave it out.")
    if asked.calibration_steps < 1:
        raise UserError(f"--calibration_steps {asked.calibration_steps}: must be at least 1.")
    source, config = _source(asked)
    merged: float = asked.merge_tokens or 0
    weights: Weights = asked.weights or "fp32"
    if source.unet is not None:
        assert isinstance(config, QuantizeConfig)
        _refuse_what_is_decided(asked)
        merged, weights = config.merge_tokens, QAT
    prompts = (
        prompts_in(asked.calibration_prompts, "--calibration_prompts")
        if asked.calibration_prompts
        else []
    )
    # A quantized UNet is put in when the rest has been converted.
    models, _, words = assemble(source.model_copy(update={"unet": None}))
    side = models.unet.config.sample_size * 2 ** (len(models.vae.config.block_out_channels) - 1)
    shape = (asked.batch_size, asked.height or side, asked.width or side)
    if weights == "hybrid" and not prompts:
        kind = "object"
        if isinstance(config, TextualInversionConfig):
            kind = config.learnable_property
        about = [word[0] for word in words] or NOUNS
        # A sentence of each in turn: few steps see few sentences.
        prompts = [one for each in zip(*(prompts_for(kind, [a]) for a in about), strict=True)
                   for one in each]  # fmt: skip
    batch_size, height, width = (None, None, None) if asked.dynamic else shape
    record = ExportRecord(
        model=source.model.model_name,
        words=[token for word in words for token in word],
        embeds=[word.file.sha256 for word in source.words],
        loras=[(lora.file.sha256, lora.weight) for lora in source.loras],
        vae=source.vae.sha256 if source.vae else None,
        unet=source.unet.sha256 if source.unet else None,
        batch_size=batch_size,
        height=height,
        width=width,
        guidance=not asked.no_guidance,
        weights=weights,
        calibration=prompts[: prompts_needed(asked.calibration_steps)]
        if weights == "hybrid"
        else [],
        merge_tokens=merged,
        vocabulary=vocabulary_digest(models.tokenizer),
    )
    write.write(
        models,
        asked.output_dir,
        record,
        quantized=source.unet.path if source.unet else None,
        guidance_scale=config.guidance_scale if config else GUIDANCE,
        calibration_steps=asked.calibration_steps,
    )
    return record


def _refuse_what_is_decided(asked: argparse.Namespace) -> None:
    """Raises UserError for flags that a run of training.quantize has answered."""
    for flag in ("weights", "merge_tokens", "calibration_prompts"):
        if getattr(asked, flag) is not None:
            raise UserError(
                f"--{flag}: {asked.run} has trained its UNet in 8 bits, with its own calibration "
                f"and share of merged tokens. Leave out --{flag}, or export its base model."
            )
    if asked.dynamic:
        raise UserError("--dynamic: a UNet that was trained in 8 bits needs a fixed shape.")
    if asked.lora:
        raise UserError(
            "--lora: a UNet that is quantized takes none. Quantize the model with the LoRA in it: "
            "the whole pipeline that training.lora --save_as_full_pipeline writes."
        )


def _source(asked: argparse.Namespace) -> tuple[Source, RunConfig | None]:
    """The weights to export, and the configuration of the run if they are a run's."""
    config = None
    if asked.model is not None:
        source = Source(model=ModelConfig(pretrained_model_name_or_path=asked.model))
    else:
        source, config = source_of_run(asked.run, None)
        if not events_of(read_events(asked.run), "done"):
            raise UserError(
                f"{asked.run}: this run has not finished. Resume it: "
                f"python -m training.{config.method} --resume {asked.run}"
            )
    changes = {
        "words": (*source.words, *(word_at(text) for text in asked.embeds or ())),
        "loras": (*source.loras, *(lora_at(text) for text in asked.lora or ())),
        "vae": File.at(asked.vae) if asked.vae is not None else None,
    }
    return source.model_copy(update=changes), config


if __name__ == "__main__":
    sys.exit(main())
