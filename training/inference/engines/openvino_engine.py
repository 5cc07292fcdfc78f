"""OpenVINO: the pipeline that `python -m training.export` has written, through optimum-intel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from training.errors import UserError
from training.inference import schedulers
from training.inference.engines import OnStep, Say
from training.inference.engines.pipeline_call import call_pipeline
from training.inference.settings import Settings, Source
from training.machine.cpu import Cpu, this_cpu
from training.openvino.packages import check_packages
from training.openvino.record import (
    FOLDER,
    ExportRecord,
    Weights,
    read_record,
    vocabulary_digest,
)

PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}
FAKE_QUANTIZE_IN_INT8 = "LP_TRANSFORMS_MODE"
"""OpenVINO's property ("low precision transformations"), which is on unless it is turned off."""
COMPUTED_IN_INT8: tuple[Weights, ...] = ("hybrid", "qat")


class OpenVINOArtist:
    """Draws with an OVStableDiffusionPipeline (see `training.inference.engines.Artist`)."""

    def __init__(self, pipeline: Any, settings: Settings) -> None:
        self.pipeline = pipeline
        self.tokenizer = pipeline.tokenizer
        self.token_limit: int | None = pipeline.tokenizer.model_max_length
        self.noise = pipeline.scheduler.config
        self.change(settings)

    def change(self, settings: Settings) -> None:
        """Draw by other settings from now on."""
        self.pipeline.scheduler = schedulers.build(settings.scheduler, self.noise)
        self.settings = settings

    def draw(self, prompt: str, seed: int, on_step: OnStep) -> Image.Image:
        """One picture."""
        text = {"prompt": prompt, "negative_prompt": self.settings.negative_prompt or None}
        return call_pipeline(self.pipeline, self.settings, seed, on_step, text)


def load(source: Source, settings: Settings, say: Say) -> OpenVINOArtist:
    """Get ready to draw with an export (see `training.inference.engines`)."""
    check_packages("training.generate")
    folder = _folder(source)
    record = read_record(folder, _export_command(source, folder))
    _refuse_another_source(source, record, folder)
    _refuse_other_names(source, record, folder)
    _refuse_another_shape(settings, record, folder)
    from optimum.intel import OVStableDiffusionPipeline

    told = properties(source.dtype, record.weights, this_cpu())
    if FAKE_QUANTIZE_IN_INT8 in told:
        say("8-bit layers do not compute in int8, whose sums overflow without VNNI")
    say(f"compiling {folder} for this processor")
    pipeline = OVStableDiffusionPipeline.from_pretrained(
        folder,
        dynamic_shapes=record.height is None,
        ov_config=told,
    )
    if vocabulary_digest(pipeline.tokenizer) != record.vocabulary:
        raise UserError(
            f"{folder}: its tokenizer has another vocabulary than when it was exported, so words "
            f"would read other rows. Export again: {_export_command(source, folder)}"
        )
    pipeline.set_progress_bar_config(disable=True)
    return OpenVINOArtist(pipeline, settings)


def properties(dtype: str, weights: Weights, cpu: Cpu) -> dict[str, Any]:
    """OpenVINO's properties, by which a processor computes what was trained.

    Where 8-bit sums would overflow, the graph with its 8-bit weights is computed in fp32: the
    bundled model's UNet is 22 % off in int8 on a processor with AVX2 alone, and 3 % in fp32.

    Args:
        dtype: "float32" or "bfloat16", of what is not 8-bit.
        weights: of the export's record.
    """
    found: dict[str, Any] = {"INFERENCE_PRECISION_HINT": PRECISIONS[dtype]}
    if weights in COMPUTED_IN_INT8 and cpu.int8_sums_saturate:
        found[FAKE_QUANTIZE_IN_INT8] = False
    return found


def _folder(source: Source) -> Path:
    if source.exported is not None:
        return source.exported
    if source.run is not None:
        return source.run / FOLDER
    raise UserError(
        "--engine openvino: name an export with --exported. To make one: "
        f"{_export_command(source, Path('FOLDER'))}"
    )


def _export_command(source: Source, folder: Path) -> str:
    what = [str(source.run) if source.run else f"--model {source.model.model_name}"]
    words = source.words[1:] if source.run else source.words
    what += [f"--embeds '{word.token}={word.file.path}'" for word in words]
    what += [f"--lora {lora.file.path}:{lora.weight:g}" for lora in source.loras]
    if source.vae is not None:
        what.append(f"--vae {source.vae.path}")
    return f"python -m training.export {' '.join(what)} --output_dir {folder}"


def _refuse_another_source(source: Source, record: ExportRecord, folder: Path) -> None:
    """Raises UserError where the export was made of other weights than `source` names."""
    command = _export_command(source, folder)
    if record.model != source.model.model_name:
        raise UserError(
            f"{folder}: was exported from {record.model}, not from {source.model.model_name}. "
            f"Export again: {command}"
        )
    if record.embeds != [word.file.sha256 for word in source.words]:
        raise UserError(
            f"{folder}: was exported with other learned words than asked for "
            f"(it has {', '.join(record.words) or 'none'}). Export again: {command}"
        )
    if record.loras != [(lora.file.sha256, lora.weight) for lora in source.loras]:
        raise UserError(
            f"{folder}: was exported with other LoRAs, or weights of them, than asked for with "
            f"--lora (it has {len(record.loras)}). Export again: {command}"
        )
    if record.unet != (source.unet.sha256 if source.unet else None):
        raise UserError(
            f"{folder}: was exported with another UNet than the run's newest. Export again: "
            f"{command}"
        )
    if record.vae != (source.vae.sha256 if source.vae else None):
        has = "the model's own VAE" if record.vae is None else "another VAE"
        raise UserError(
            f"{folder}: was exported with {has}, not with what is asked for by --vae. "
            f"Export again: {command}"
        )


def _refuse_other_names(source: Source, record: ExportRecord, folder: Path) -> None:
    """Raises UserError where a word is asked for by another name than it was exported with."""
    for word in source.words:
        if word.token not in record.words:
            raise UserError(
                f"{folder}: has the word of {word.file.path} as {record.words[0]}, not as "
                f"{word.token}. Write {record.words[0]}, or draw with --engine torch."
            )


def _refuse_another_shape(settings: Settings, record: ExportRecord, folder: Path) -> None:
    """Raises UserError where an export of a fixed shape cannot draw what `settings` ask for."""
    if record.height is None:
        return
    again = "or export with --dynamic, or with that shape"
    if (record.height, record.width) != (settings.height, settings.width):
        raise UserError(
            f"{folder}: draws {record.width} x {record.height} pixels, not {settings.width} x "
            f"{settings.height}. Use --width {record.width} --height {record.height}, {again}."
        )
    if record.batch_size != 1:
        raise UserError(
            f"{folder}: draws {record.batch_size} pictures at a time and generate one. "
            "Export with --batch_size 1, or with --dynamic."
        )
    if record.guidance and settings.guidance_scale <= 1:
        raise UserError(
            f"{folder}: its fixed shape is made for guidance. Use a --guidance_scale above 1, or "
            "export with --no_guidance."
        )
    if not record.guidance and settings.guidance_scale > 1:
        raise UserError(
            f"{folder}: its fixed shape is made for no guidance. Use --guidance_scale 1, or export "
            "without --no_guidance."
        )
