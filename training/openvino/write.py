"""Writing a pipeline as OpenVINO IR: through optimum-intel, whole or not at all."""

from __future__ import annotations

import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any

from diffusers import DDIMScheduler

from training import atomic_files
from training.errors import UserError
from training.models.loading import Models
from training.openvino.merged_unet import convert_merged
from training.openvino.record import FILE, ExportRecord, Weights, vocabulary_digest
from training.openvino.tokenizer import write_tokenizer

WEIGHTS: dict[Weights, str] = {"fp32": "fp32", "bf16": "fp16", "int8": "int8"}
"""What optimum-intel stores them as. OpenVINO's files hold 16-bit weights as fp16; a processor with
bf16 instructions computes with them in bf16. int8: the weights alone, computed with after
expansion."""


def check_packages(program: str) -> None:
    """Raises UserError where OpenVINO's packages are missing.

    Args:
        program: the module that needs them.
    """
    try:
        import nncf  # noqa: F401
        import openvino  # noqa: F401
        import openvino_tokenizers  # noqa: F401
        import optimum.intel  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"OpenVINO's packages are missing here ({error.name}). Make their environment with "
            f"`make environment-openvino` and run .venv-openvino/bin/python -m {program} ..."
        ) from error


def check_shape(batch_size: int, height: int, width: int) -> None:
    """Raises UserError for a shape that the model cannot draw."""
    for name, value in (("--height", height), ("--width", width)):
        if value < 8 or value % 8:
            raise UserError(
                f"{name} {value}: must be a multiple of 8, for example {max(8, value // 8 * 8)}."
            )
    if batch_size < 1:
        raise UserError(f"--batch_size {batch_size}: must be at least 1.")


def check_vocabulary(models: Models) -> None:
    """Raises UserError where the tokenizer and the text encoder's table differ in length.

    `load_textual_inversion` appends rows to the table and words to the tokenizer: only where both
    are of one length do a word and its row get the same number.
    """
    rows = len(models.text_encoder.get_input_embeddings().weight)
    if len(models.tokenizer) != rows:
        raise UserError(
            f"the tokenizer has {len(models.tokenizer)} tokens and the text encoder's table {rows} "
            "rows: words added later would read other rows. Use the base model's own tokenizer."
        )


def write(
    models: Models,
    output_dir: Path,
    *,
    name: str,
    words: list[str],
    embeds: list[str],
    shape: tuple[int, int, int] | None,
    weights: Weights,
    merged: float = 0,
) -> ExportRecord:
    """Write `models` to `output_dir`; what was there is replaced once the new export is whole.

    Args:
        models: in float32, with the words in them.
        name: of the base model, for the record.
        embeds: the sha256 of the files that the words are from.
        shape: (pictures at a time, height, width in pixels), fixed in the graphs; None: any.
        merged: the share of tokens that the UNet merges (`training.models.merge_tokens`); above 0
            only with a fixed shape.

    Raises:
        UserError: the vocabulary cannot be exported, or the disk refuses.
    """
    check_vocabulary(models)
    batch_size, height, width = shape or (None, None, None)
    record = ExportRecord(
        model=name,
        words=words,
        embeds=embeds,
        batch_size=batch_size,
        height=height,
        width=width,
        weights=weights,
        merge_tokens=merged,
        vocabulary=vocabulary_digest(models.tokenizer),
    )
    if output_dir.exists() and not (output_dir / FILE).is_file():
        raise UserError(
            f"{output_dir}: is there and holds no {FILE}, so it is no export to be replaced. "
            "Choose another --output_dir."
        )
    atomic_files.write_directory(
        output_dir, lambda folder: _fill(models, folder, shape, weights, record)
    )
    return record


def _fill(
    models: Models,
    folder: Path,
    shape: tuple[int, int, int] | None,
    weights: Weights,
    record: ExportRecord,
) -> None:
    from optimum.exporters.openvino.convert import export_from_model
    from optimum.intel import OVConfig, OVStableDiffusionPipeline

    for module in (models.text_encoder, models.vae, models.unet):
        module.requires_grad_(False).eval()
    # openvino_genai knows DDIM, and not DPM-Solver.
    pipeline = models.pipeline(DDIMScheduler.from_config(models.noise_scheduler.config))
    stored = WEIGHTS[weights]
    config = OVConfig(dtype="fp32" if stored == "int8" else stored)
    _say("1 of 3: converting text encoder, UNet and VAE")
    dynamic = folder / "dynamic"
    export_from_model(pipeline, dynamic, task="text-to-image", ov_config=config)
    exported = OVStableDiffusionPipeline.from_pretrained(dynamic, compile=False)
    if shape is not None:
        _say(f"2 of 3: fixing the shape, {shape[0]} x {shape[1]} x {shape[2]}")
        exported.reshape(*shape, num_images_per_prompt=1)
        # One prompt or, beside a negative one, two: it costs nothing to leave that open.
        ids = exported.text_encoder.model.inputs[0]
        length = ids.get_partial_shape()[1]
        exported.text_encoder.model.reshape({ids: [-1, length]})
        if record.merge_tokens:
            exported.unet.model = convert_merged(
                models.unet, exported.unet.model, record.merge_tokens, half=stored == "fp16"
            )
    if stored == "int8":
        import nncf

        for part in ("text_encoder", "unet", "vae_decoder", "vae_encoder"):
            graph = getattr(exported, part)
            graph.model = nncf.compress_weights(graph.model)
    exported.save_pretrained(folder)
    _say("3 of 3: converting the tokenizer")
    write_tokenizer(models.tokenizer, folder / "tokenizer")
    _make_strict(folder / "scheduler" / "scheduler_config.json")
    (folder / FILE).write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")
    del exported  # it reads its weights from there
    shutil.rmtree(dynamic)


def _make_strict(path: Path) -> None:
    """Leave out infinities, which are defaults anyway: no JSON, and openvino_genai refuses it."""
    settings: dict[str, Any] = json.loads(path.read_text())
    kept = {
        key: value
        for key, value in settings.items()
        if not (isinstance(value, float) and not math.isfinite(value))
    }
    path.write_text(json.dumps(kept, indent=2) + "\n")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
