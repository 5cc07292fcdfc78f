"""Loading a pipeline's parts: from a folder, from the hub, or from a single file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from huggingface_hub import try_to_load_from_cache
from transformers import CLIPTextModel, CLIPTokenizer

from training.config.groups import ModelConfig
from training.errors import UserError, first_line
from training.models.families import INDEX, refuse_other_architectures, refuse_other_pipelines
from training.models.files import digests, single_file
from training.models.files.hub_access import refuse_unreachable
from training.models.files.weights import load_part, refuse_missing

PARTS = ("tokenizer", "scheduler", "text_encoder", "vae", "unet")
Notify = Callable[[str], None]


@dataclass
class Models:
    """The parts of a Stable Diffusion pipeline that training uses.

    Attributes:
        sources: the files of parts that hold their weights just as they were read, by name.
    """

    tokenizer: Any
    noise_scheduler: Any
    text_encoder: Any
    vae: Any
    unet: Any
    sources: dict[str, digests.Source | None] = field(default_factory=dict)

    def pipeline(self, scheduler: Any) -> Any:
        """A StableDiffusionPipeline over these very parts, with `scheduler`; no safety checker."""
        from diffusers import StableDiffusionPipeline  # a second to import

        return StableDiffusionPipeline(
            vae=self.vae,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            unet=self.unet,
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )


for _library in (transformers.utils.logging, diffusers.utils.logging):
    _library.disable_progress_bar()  # loading takes less than it takes to read the bar


def load_models(
    model: ModelConfig, notify: Notify = lambda text: None, dtype: torch.dtype = torch.float32
) -> Models:
    """Load tokenizer, noise scheduler, text encoder (float32), VAE and UNet.

    Args:
        notify: called with a line for each part that is read from other files than those asked for.
        dtype: of the VAE and the UNet.

    Raises:
        UserError: a part is missing or cannot be read, and is named; or the model is of another
            family than Stable Diffusion 1.x and 2.x.
    """
    name = model.model_name
    is_file = Path(name).is_file()
    models = _from_file(model, dtype) if is_file else _from_pipeline(model, notify, dtype)
    refuse_other_architectures(name, models)
    # Some tokenizers do not say how much the text encoder takes; no prompt may be longer.
    positions = models.text_encoder.config.max_position_embeddings
    models.tokenizer.model_max_length = min(models.tokenizer.model_max_length, positions)
    if models.noise_scheduler.config.prediction_type not in ("epsilon", "v_prediction", "sample"):
        raise UserError(
            f"{name}/scheduler: prediction type {models.noise_scheduler.config.prediction_type!r} "
            "is not one that this objective knows (epsilon, v_prediction, sample)."
        )
    return models


def _from_pipeline(model: ModelConfig, notify: Notify, dtype: torch.dtype) -> Models:
    """The parts of a pipeline folder, or of a repository on the hub."""
    name = model.model_name
    hub = {"revision": model.revision}
    refuse_unreachable(name, (INDEX, "unet/config.json"), model.revision)
    refuse_other_pipelines(name, model.revision)
    needed = [part for part in PARTS if part != "tokenizer" or not model.tokenizer_name]
    missing = [part for part in needed if Path(name).is_dir() and not (Path(name) / part).is_dir()]
    if missing:
        raise UserError(
            f"{name}: not a whole pipeline, {', '.join(missing)} missing. A pipeline folder has "
            f"{', '.join(PARTS)}; download it again."
        )
    with _part_named(name, "tokenizer"):
        tokenizer = load_tokenizer(model.tokenizer_name) if model.tokenizer_name else (
            load_tokenizer(name, subfolder="tokenizer", **hub)
        )  # fmt: skip
    with _part_named(name, "scheduler"):
        noise_scheduler = DDPMScheduler.from_pretrained(name, subfolder="scheduler", **hub)

    def text_encoder(variant: str | None, safetensors: bool) -> Any:
        # The dtype is asked for: transformers 5 keeps a file's fp16, which cannot be mixed.
        module, found = CLIPTextModel.from_pretrained(
            name,
            subfolder="text_encoder",
            dtype=torch.float32,
            use_safetensors=safetensors,
            variant=variant,
            output_loading_info=True,
            **hub,
        )
        refuse_missing(found["missing_keys"])
        for weight in module.parameters():
            # A weight is a piece of the file, which stays in memory whole as long as one is used.
            weight.data = weight.data.clone()
        return module

    def from_diffusers(kind: Any, part: str) -> Callable[[str | None, bool], Any]:
        def load(variant: str | None, safetensors: bool) -> Any:
            module = kind.from_pretrained(
                name,
                subfolder=part,
                torch_dtype=dtype,
                use_safetensors=safetensors,
                variant=variant,
                low_cpu_mem_usage=True,
                **hub,
            )
            refuse_missing([key for key, value in module.state_dict().items() if value.is_meta])
            return module

        return load

    loaders = {
        "text_encoder": text_encoder,
        "vae": from_diffusers(AutoencoderKL, "vae"),
        "unet": from_diffusers(UNet2DConditionModel, "unet"),
    }
    parts, sources = {}, {}
    for part, load in loaders.items():
        with _part_named(name, part):
            before = _source(model, part, dtype)
            parts[part] = load_part(model, part, load, notify)
            after = _source(model, part, dtype)  # the hub may have had a newer revision
            sources[part] = after if before == after else None
    return Models(tokenizer, noise_scheduler, **parts, sources=sources)


def _source(model: ModelConfig, part: str, dtype: torch.dtype) -> digests.Source | None:
    """A part's files as they are now: all in its folder, whichever of them are read.

    None: the part is on the hub alone.
    """
    name = model.model_name
    if Path(name).exists():
        place = Path(name) / part if Path(name).is_dir() else Path(name)
    else:
        config = try_to_load_from_cache(name, f"{part}/config.json", revision=model.revision)
        if not isinstance(config, str):
            return None
        place = Path(config).parent
    files = [path for path in place.iterdir() if path.is_file()] if place.is_dir() else [place]
    versions = [str(module.__version__) for module in (torch, diffusers, transformers)]
    chosen = [part, str(model.variant), str(model.allow_pickle), str(dtype)]
    return digests.source_of(files, [*chosen, *versions])


def _from_file(model: ModelConfig, dtype: torch.dtype) -> Models:
    """The parts of a single file, as Stable Diffusion was published in."""
    path = Path(model.model_name)
    single_file.check(path)
    where = model.tokenizer_name or single_file.TOKENIZER
    try:
        tokenizer = (
            load_tokenizer(where)
            if model.tokenizer_name
            else load_tokenizer(where, subfolder="tokenizer")
        )
    except Exception as error:  # whatever transformers or the hub's client stumbles over
        raise UserError(
            f"{path}: has no tokenizer in it, and {where} cannot be loaded: "
            f"{first_line(error)[:300]}\n  Give --tokenizer_name a folder with Stable Diffusion's "
            f"(a pipeline folder's tokenizer/), or convert the file where the hub can be reached:\n"
            f"{single_file.convert(path)}"
        ) from error
    parts, sources = {}, {}
    for part in ("text_encoder", "vae", "unet"):
        with _part_named(str(path), part):
            sources[part] = _source(model, part, dtype)
            parts[part] = single_file.load(path, part, dtype)
            lacking = [key for key, value in parts[part].state_dict().items() if value.is_meta]
            refuse_missing(lacking)
    return Models(tokenizer, single_file.scheduler(DDPMScheduler), **parts, sources=sources)


def load_tokenizer(name: str, **where: Any) -> Any:
    """A CLIP tokenizer.

    Raises:
        Exception: whatever transformers says, and ValueError where it would say nothing.
    """
    folder = where.get("subfolder", ".")
    files = [f"{folder}/vocab.json", f"{folder}/tokenizer.json"]
    refuse_unreachable(name, files, where.get("revision"))
    tokenizer = CLIPTokenizer.from_pretrained(name, **where)
    if len(tokenizer) <= len(tokenizer.all_special_tokens):  # transformers 5 says nothing
        raise ValueError("its vocabulary (vocab.json and merges.txt) is missing.")
    return tokenizer


class _part_named:
    """Turn a loader's failure into one message that names the model's part."""

    def __init__(self, name: str, part: str) -> None:
        self.name, self.part = name, part

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if not isinstance(error, Exception) or isinstance(error, UserError):
            return
        raise UserError(
            f"{self.name}: its {self.part} cannot be loaded: {first_line(error)[:300]}\n"
            "  The model must be a folder here, a name on the hub (HF_ENDPOINT says which) or a "
            "single .safetensors file of 1.x, whole, with safetensors weights."
        ) from error


def vae_scale_factor(models: Models) -> int:
    """Pixels of a picture's side per place of its latents' side."""
    return int(2 ** (len(models.vae.config.block_out_channels) - 1))


def divisor(models: Models) -> int:
    """What each side of a picture must be a multiple of, for the UNet to halve it as it does."""
    return vae_scale_factor(models) * int(2 ** (len(models.unet.config.block_out_channels) - 1))


def native_resolution(models: Models) -> int:
    """Side, in pixels, of the pictures that the model was made for, a multiple of 8.

    As diffusers' pipelines choose it: the UNet's sample_size, 64 where it says none.
    """
    sample = models.unet.config.get("sample_size") or 64
    side = (sample if isinstance(sample, int) else min(sample)) * vae_scale_factor(models)
    return max(8, side - side % 8)


def tokenize(tokenizer: Any, prompts: list[str]) -> torch.Tensor:
    """Token ids [prompts, model_max_length], int64, padded and truncated as the pipeline does."""
    encoded = tokenizer(
        prompts,
        padding="max_length",
        truncation=True,
        max_length=tokenizer.model_max_length,
        return_tensors="pt",
    )
    ids: torch.Tensor = encoded.input_ids
    return ids


def part_digest(models: Models, part: str) -> str:
    """`weights_digest` of a part whose weights are as they were read; remembered where it can be.

    They may have another dtype by now, but are otherwise unchanged.
    """
    module = getattr(models, part)
    now = str(next(module.parameters()).dtype)
    return digests.remembered(models.sources.get(part), [now], lambda: weights_digest(module))


def weights_digest(weights: torch.nn.Module | Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over the names, dtypes and bytes of a module's weights, or of tensors."""
    tensors = weights.state_dict() if isinstance(weights, torch.nn.Module) else weights
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
