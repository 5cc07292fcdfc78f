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
from training.models.merge_tokens import merge_tokens
from training.openvino import quantized_unet
from training.openvino.fixed_unet import convert_unet
from training.openvino.quantize import compress_quantized, compress_weights, quantize_unet
from training.openvino.record import FILE, ExportRecord, Weights
from training.openvino.tiny_vae import make_exportable
from training.openvino.tokenizer import write_tokenizer

WEIGHTS: dict[Weights, str] = {
    "fp32": "fp32",
    "bf16": "fp16",
    "int8": "fp32",
    "hybrid": "fp32",
    "qat": "fp32",
}
"""What optimum-intel converts them to. OpenVINO's files hold 16-bit weights as fp16; a processor
with bf16 instructions computes with them in bf16. int8: made from fp32, the weights alone, computed
with after expansion; hybrid: what the UNet computes with, too (`training.openvino.quantize`);
qat: the same, as `training.quantize` has trained it."""

PARTS = ("text_encoder", "unet", "vae_decoder", "vae_encoder")


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
    record: ExportRecord,
    *,
    quantized: Path | None = None,
    guidance_scale: float = 7.5,
    calibration_steps: int = 0,
) -> None:
    """Write `models` to `output_dir`; what was there is replaced once the new export is whole.

    Args:
        models: in float32, with everything in them that `record` names.
        record: what is written, and of what; goes into the folder, too.
        quantized: the file of a quantized UNet of these models, for "qat".
        guidance_scale: that "hybrid" weights are calibrated with.
        calibration_steps: of denoising, in all, to calibrate with.

    Raises:
        UserError: the vocabulary cannot be exported, `quantized` is of another base model, or the
            disk refuses.
    """
    check_vocabulary(models)
    if output_dir.exists() and not (output_dir / FILE).is_file():
        raise UserError(
            f"{output_dir}: is there and holds no {FILE}, so it is no export to be replaced. "
            "Choose another --output_dir."
        )

    if quantized is not None:  # before minutes of conversion
        quantized_unet.refuse_another_base(quantized, models.unet)

    def fill(folder: Path) -> None:
        dynamic = folder / "dynamic"
        exported = _convert(models, dynamic, record, quantized)
        if record.weights == "hybrid":
            quantize_unet(
                exported,
                record.calibration,
                steps=calibration_steps,
                guidance_scale=guidance_scale if record.guidance else 1,
                shape=record.shape,
                say=_say,
            )
        if quantized is not None:
            compress_quantized(exported.unet)
        if record.weights in ("int8", "hybrid", "qat"):
            compress_weights(exported, PARTS)
        exported.save_pretrained(folder)
        _say("3 of 3: converting the tokenizer")
        write_tokenizer(models.tokenizer, folder / "tokenizer")
        _make_strict(folder / "scheduler" / "scheduler_config.json")
        (folder / FILE).write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")
        del exported  # it reads its weights from there
        shutil.rmtree(dynamic)

    atomic_files.write_directory(output_dir, fill)


def _convert(models: Models, folder: Path, record: ExportRecord, quantized: Path | None) -> Any:
    """The OVStableDiffusionPipeline of `models`; any shape of it lies in `folder`."""
    from optimum.exporters.openvino.convert import export_from_model
    from optimum.intel import OVConfig, OVStableDiffusionPipeline

    for module in (models.text_encoder, models.vae, models.unet):
        module.requires_grad_(False).eval()
    make_exportable(models.vae)
    # openvino_genai knows DDIM, and not DPM-Solver.
    pipeline = models.pipeline(DDIMScheduler.from_config(models.noise_scheduler.config))
    stored = WEIGHTS[record.weights]
    _say("1 of 3: converting text encoder, UNet and VAE")
    export_from_model(pipeline, folder, task="text-to-image", ov_config=OVConfig(dtype=stored))
    exported = OVStableDiffusionPipeline.from_pretrained(folder, compile=False)
    if record.shape is not None:
        batch_size, height, width = record.shape
        _say(f"2 of 3: fixing the shape, {batch_size} x {height} x {width}")
        exported.reshape(*record.shape, num_images_per_prompt=1)
        if not record.guidance:
            _halve_batch(exported.unet.model, batch_size)
        # One prompt or, beside a negative one, two: it costs nothing to leave that open.
        ids = exported.text_encoder.model.inputs[0]
        length = ids.get_partial_shape()[1]
        exported.text_encoder.model.reshape({ids: [-1, length]})
        if quantized is not None:
            models.unet, _ = quantized_unet.load(quantized, models.unet)
        elif record.merge_tokens:
            merge_tokens(models.unet, record.merge_tokens)
        if quantized is not None or record.merge_tokens:
            exported.unet.model = convert_unet(
                models.unet, exported.unet.model, half=stored == "fp16"
            )
    return exported


def _halve_batch(unet: Any, batch_size: int) -> None:
    """Give a UNet of a fixed shape one sample per picture; optimum-intel always takes two."""
    shapes = {port: port.get_partial_shape() for port in unet.inputs}
    for port, shape in shapes.items():
        if port.get_any_name() != "timestep":
            shape[0] = batch_size
    unet.reshape(shapes)


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
