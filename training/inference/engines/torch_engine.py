"""PyTorch as it is: diffusers' pipeline over the models in the run's own precision."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image

from training.errors import UserError
from training.inference import long_prompts, schedulers
from training.inference.engines import OnStep, Say
from training.inference.engines.pipeline_call import call_pipeline
from training.inference.settings import Settings, Source
from training.machine.stack import resolve_stack
from training.models import frozen
from training.models.loading import Models, load_models
from training.models.lora.fuse import fuse_loras
from training.models.vae import load_vae
from training.models.words import add_words
from training.openvino import quantized_unet

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class TorchArtist:
    """Draws with a StableDiffusionPipeline (see `training.inference.engines.Artist`).

    Args:
        words: the tokens of each learned word.
    """

    token_limit: int | None = None

    def __init__(self, pipeline: Any, settings: Settings, words: list[list[str]]) -> None:
        self.pipeline, self.words = pipeline, words
        self.tokenizer = pipeline.tokenizer
        self.noise = pipeline.scheduler.config
        self.change(settings)

    def change(self, settings: Settings) -> None:
        """Draw by other settings from now on."""
        self.pipeline.scheduler = schedulers.build(settings.scheduler, self.noise)
        self.settings = settings

    def draw(self, prompt: str, seed: int, on_step: OnStep) -> Image.Image:
        """One picture."""
        with self.computing():
            text = self._text(prompt)
            return call_pipeline(self.pipeline, self.settings, seed, on_step, text)

    def computing(self) -> _Computing:
        """The context that everything is computed in."""
        return _Computing(self.pipeline.unet.dtype == torch.bfloat16)

    def _text(self, prompt: str) -> dict[str, Any]:
        """The pipeline's arguments for what to draw: text, or embeddings of longer texts."""
        # Without guidance the negative prompt has no effect, nor may its length have one.
        guided = self.settings.guidance_scale > 1
        both = [prompt, self.settings.negative_prompt if guided else ""]
        if not any(long_prompts.is_long(text, self.tokenizer) for text in both):
            return {"prompt": prompt, "negative_prompt": self.settings.negative_prompt or None}
        embeddings = long_prompts.encode(
            both, self.tokenizer, self.pipeline.text_encoder, self.words
        )
        return dict(zip(("prompt_embeds", "negative_prompt_embeds"), embeddings, strict=True))


class _Computing:
    """No gradients, and autocast where the UNet computes in bf16."""

    def __init__(self, reduced: bool) -> None:
        self._parts = (torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=reduced))

    def __enter__(self) -> None:
        for part in self._parts:
            part.__enter__()

    def __exit__(self, *error: Any) -> None:
        for part in reversed(self._parts):
            part.__exit__(*error)


def assemble(source: Source) -> tuple[Models, Any, list[list[str]]]:
    """The models of `source` in float32, words and VAE in place, LoRAs fused; a pipeline over
    them; and the tokens of each word.

    Whoever exports a source begins with it, too.

    Raises:
        UserError: a file cannot be read, or is of another base model.
    """
    models = load_models(source.model)
    if source.unet is not None:
        _put_quantized(models, source)
    words = add_words(models, [(word.token, word.file.path) for word in source.words])
    if source.vae is not None:
        models.vae = load_vae(source.vae.path, models)
    pipeline = models.pipeline(models.noise_scheduler)
    pipeline.set_progress_bar_config(disable=True)
    fuse_loras(pipeline, [(lora.file.path, lora.weight) for lora in source.loras])
    return models, pipeline, words


def _put_quantized(models: Models, source: Source) -> None:
    """Put a quantized UNet in the place of the model's own.

    Raises:
        UserError: what else is asked for does not go with it, or NNCF is missing.
    """
    assert source.unet is not None
    if source.loras:
        raise UserError(
            "--lora: a UNet that is quantized takes none. Quantize the model with the LoRA in it: "
            "the whole pipeline that training.lora --save_as_full_pipeline writes."
        )
    if source.dtype != "float32":
        raise UserError(
            "--mixed_precision bf16: PyTorch draws with a quantized UNet in fp32 alone. Use "
            "--mixed_precision no, or export it and draw with --engine openvino."
        )
    quantized_unet.check_packages("training.generate")
    models.unet, _ = quantized_unet.load(source.unet.path, models.unet)


def load(source: Source, settings: Settings, say: Say) -> TorchArtist:
    """Get ready to draw with PyTorch (see `training.inference.engines`)."""
    del say
    models, pipeline, words = assemble(source)
    frozen.prepare(models, "native", resolve_stack("upstream"), DTYPES[source.dtype])
    return TorchArtist(pipeline, settings, words)
