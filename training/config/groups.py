"""A run's configuration by concern: one model each, with one field per flag and TOML key.

Names and defaults are those of diffusers' training scripts; where a default differs the field
says so. A method's configuration is all of them and what it adds (`training.config.run`).
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

RETIRED_HUB_NAMES = {
    "runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
}

LrScheduler = Literal[
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
    "piecewise_constant",
]
DECAYING = frozenset({"linear", "cosine", "cosine_with_restarts", "polynomial"})
"""Schedules whose value at a step depends on max_train_steps."""

_NUMBER = r"\d*\.?\d+(?:[eE][-+]?\d+)?"
_STEP_RULES = re.compile(rf"(?:{_NUMBER}:\d+,\s*)*{_NUMBER}")


def key(group: str, default: Any, description: str, **limits: Any) -> Any:
    """A field that is a flag and a TOML key, listed in `--help` under `group`."""
    return Field(
        default,
        description=description,
        json_schema_extra={"group": group},
        validate_default=True,
        **limits,
    )


GROUPS = (
    "model",
    "concept",
    "adapter",
    "quantization",
    "data",
    "captions",
    "training",
    "machine",
    "outputs",
    "validation",
)
"""The order in which `--help`, the JSON schema and config.toml have them."""


class Group(BaseModel):
    """The keys of one concern."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, str_strip_whitespace=True, allow_inf_nan=False
    )

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Bring the fields into the order of `GROUPS`: pydantic has them in that of the bases."""
        super().__pydantic_init_subclass__(**kwargs)

        def place(item: tuple[str, Any]) -> int:
            return GROUPS.index(item[1].json_schema_extra["group"])

        ordered = dict(sorted(cls.__pydantic_fields__.items(), key=place))
        if list(ordered) != list(cls.__pydantic_fields__):
            cls.__pydantic_fields__ = ordered
            cls.model_rebuild(force=True)


class ModelConfig(Group):
    """The base model: what to load, and of which revision."""

    pretrained_model_name_or_path: str = key(
        "model",
        ...,
        "A diffusers pipeline folder, a model's name on the Hugging Face hub, or a single "
        ".safetensors file of Stable Diffusion 1.x.",
    )
    revision: str | None = key("model", None, "Revision (branch, tag, commit) on the hub.")
    variant: str | None = key("model", None, "Variant of the weight files, for example fp16.")
    allow_pickle: bool = key(
        "model",
        False,
        "Read weights that are there as pickles alone (.bin), as tensors and nothing else.",
    )
    tokenizer_name: str | None = key(
        "model", None, "Tokenizer folder or hub name, if it is not the model's own."
    )

    @property
    def model_name(self) -> str:
        """The model to load: a retired hub name is replaced by its maintained copy."""
        name = self.pretrained_model_name_or_path
        return name if Path(name).exists() else RETIRED_HUB_NAMES.get(name, name)


class DataConfig(Group):
    """The pictures, and how they are prepared."""

    train_data_dir: Path = key("data", ..., "Folder with the pictures of the concept.")
    repeats: int = key("data", 100, "Times the pictures are seen in one epoch.", ge=1)
    resolution: int | None = key(
        "data",
        None,
        "Side, in pixels, of the square that pictures are resized to; default: what the model was "
        "made for (512 for Stable Diffusion 1.5; diffusers' default is 512 for every model).",
        ge=8,
    )
    center_crop: bool = key("data", False, "Crop the central square before resizing.")
    skip_broken_images: bool = key(
        "data", False, "Leave out pictures that cannot be read instead of stopping."
    )
    latents_cache_dir: Path | None = key(
        "data", None, "Where encoded pictures are kept; default: latents/ in the output folder."
    )

    @field_validator("resolution")
    @classmethod
    def _multiple_of_eight(cls, value: int | None) -> int | None:
        if value is not None and value % 8:
            raise ValueError(f"must be a multiple of 8; the nearest is {round(value / 8) * 8}")
        return value

    @property
    def side(self) -> int:
        """`resolution`, once it is known: a run's record has it, and `read_inputs` finds it."""
        assert self.resolution is not None
        return self.resolution


class OptimizationConfig(Group):
    """Seed, batch, steps, AdamW and its learning rate."""

    seed: int | None = key(
        "training",
        None,
        "Seed of order, noise and timesteps; drawn and noted if not given.",
        ge=0,
        le=2**63 - 1,
    )
    train_batch_size: int = key("training", 16, "Pictures per rank and forward pass.", ge=1)
    gradient_accumulation_steps: int = key(
        "training", 1, "Forward passes per rank in one optimizer step.", ge=1
    )
    max_train_steps: int | None = key(
        "training", 5000, "Optimizer steps; 'none' counts num_train_epochs instead.", ge=1
    )
    num_train_epochs: int = key("training", 100, "Epochs, where max_train_steps is 'none'.", ge=1)
    learning_rate: float = key("training", 1e-4, "Learning rate after warmup.", gt=0)
    scale_lr: bool = key(
        "training", False, "Multiply the learning rate by the global batch (ranks included)."
    )
    lr_scheduler: LrScheduler = key("training", "constant", "Learning rate schedule.")
    lr_warmup_steps: int = key("training", 500, "Optimizer steps of warmup.", ge=0)
    lr_num_cycles: int = key("training", 1, "Cycles of cosine_with_restarts.", ge=1)
    lr_power: float = key("training", 1.0, "Power of the polynomial schedule.", gt=0)
    lr_step_rules: str | None = key(
        "training",
        None,
        "Rules of piecewise_constant: '1:10,0.1:20,0.01' is x1 to step 10, x0.1 to 20, then x0.01.",
    )
    adam_beta1: float = key("training", 0.9, "AdamW's beta1.", ge=0, lt=1)
    adam_beta2: float = key("training", 0.999, "AdamW's beta2.", ge=0, lt=1)
    adam_weight_decay: float = key("training", 1e-2, "AdamW's weight decay.", ge=0)
    adam_epsilon: float = key("training", 1e-8, "AdamW's epsilon.", gt=0)
    max_grad_norm: float | None = key(
        "training", None, "Clip the gradient to this norm; default: no clipping.", gt=0
    )
    gradient_checkpointing: bool = key(
        "training", False, "Recompute the UNet's activations: less memory, more time."
    )

    @field_validator("max_train_steps", "max_grad_norm", mode="before")
    @classmethod
    def _none_by_word(cls, value: object) -> object:
        return None if value == "none" else value

    @field_validator("lr_step_rules")
    @classmethod
    def _rules_for_piecewise(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None and info.data.get("lr_scheduler") == "piecewise_constant":
            raise ValueError("piecewise_constant needs rules, for example '1:10,0.1:20,0.01'")
        if value is not None and not _STEP_RULES.fullmatch(value):
            raise ValueError("must be rules such as '1:10,0.1:20,0.01', the last without a step")
        return value

    def global_batch(self, ranks: int) -> int:
        """Samples per optimizer step of a run that `ranks` ranks start."""
        return self.train_batch_size * self.gradient_accumulation_steps * ranks

    def total_steps(self, epoch_length: int, global_batch: int) -> int:
        """Optimizer steps of the whole run: `max_train_steps`, or those of its epochs.

        Args:
            epoch_length: pictures per epoch.
        """
        if self.max_train_steps is not None:
            return self.max_train_steps
        return self.num_train_epochs * math.ceil(epoch_length / global_batch)

    def base_learning_rate(self, ranks: int) -> float:
        """The learning rate after warmup, `scale_lr` applied."""
        return self.learning_rate * (self.global_batch(ranks) if self.scale_lr else 1)


class MachineConfig(Group):
    """What the machine computes with."""

    mixed_precision: Literal["auto", "no", "bf16"] = key(
        "machine",
        "auto",
        "bf16, or no (fp32); auto: the faster one, bf16 with AMX (AVX512-BF16 alone is timed); "
        "diffusers' default is no.",
    )
    stack: Literal["auto", "intel", "upstream"] = key(
        "machine",
        "auto",
        "intel: IPEX and oneCCL; upstream: PyTorch alone; auto: intel where IPEX imports.",
    )
    frozen: Literal["auto", "native", "ipex", "compiled"] = key(
        "machine",
        "auto",
        "How the frozen parts are prepared; auto times native and ipex.optimize on this CPU, and "
        "takes compiled where it is known to repay; "
        "compiled: the step as one graph in C++, which takes minutes and a compiler (g++).",
    )
    attention: Literal["auto", "torch", "fused"] = key(
        "machine",
        "auto",
        "The UNet's self-attention: torch: PyTorch's; fused: our own kernel (AVX-512 or "
        "AVX2), compiled once (g++); auto: the faster one on this CPU, which is timed.",
    )
    convolution: Literal["auto", "torch", "winograd"] = key(
        "machine",
        "auto",
        "3 x 3 convolutions: torch: PyTorch's; winograd: our own kernel (fp32; AVX-512 "
        "or AVX2, compiled once by g++; 1.5 GB more for weights of Stable Diffusion 1.5's size); "
        "auto: the faster one on this CPU, which is timed.",
    )
    ddp_timeout: int = key(
        "machine",
        1800,
        "Seconds a rank waits for another that hangs; one that dies is noticed at once.",
        ge=1,
    )

    @field_validator("mixed_precision", mode="before")
    @classmethod
    def _precision_names(cls, value: object) -> object:
        if value == "fp16":
            raise ValueError("fp16 is for GPUs; use bf16, no (fp32) or auto")
        return "no" if value == "fp32" else value


class OutputsConfig(Group):
    """The run folder: what is written there, and going on with what it holds."""

    output_dir: Path = key("outputs", Path("text-inversion-model"), "The run folder.")
    overwrite_output_dir: bool = key(
        "outputs", False, "Delete the run that the output folder holds and start afresh."
    )
    save_steps: int = key(
        "outputs",
        500,
        "Write learned_embeds-steps-<n> every this many steps; it is written with every checkpoint "
        "and with validation pictures, too.",
        ge=1,
    )
    save_as_full_pipeline: bool = key("outputs", False, "Save the whole pipeline at the end.")
    checkpointing_steps: int = key("outputs", 500, "Checkpoint every this many steps.", ge=1)
    checkpoints_total_limit: int | None = key(
        "outputs", None, "Keep only this many checkpoint folders.", ge=1
    )
    resume_from_checkpoint: str | None = key(
        "outputs", None, "Resume from 'latest', or from the checkpoint folder of this name."
    )
    push_to_hub: bool = key(
        "outputs",
        False,
        "Upload what was learned, its pictures and the whole pipeline to the hub at the end.",
    )
    hub_model_id: str | None = key("outputs", None, "Repository for push_to_hub.")

    @field_validator("checkpoints_total_limit", mode="before")
    @classmethod
    def _no_limit_by_word(cls, value: object) -> object:
        return None if value == "none" else value


class ValidationConfig(Group):
    """What shows whether the run is learning."""

    validation_prompt: list[str] | None = key(
        "validation", None, "One or more prompts drawn during training (with the new word in them)."
    )
    num_validation_images: int = key("validation", 4, "Pictures per validation prompt.", ge=0)
    validation_steps: int = key(
        "validation", 100, "Draw the validation prompts every this many optimizer steps.", ge=1
    )
    num_inference_steps: int = key(
        "validation", 25, "Denoising steps per validation picture.", ge=1
    )
    guidance_scale: float = key("validation", 7.5, "Guidance scale of validation pictures.", ge=0)
    evaluation_steps: int = key(
        "validation",
        100,
        "Measure the loss on fixed pictures and noises every this many steps.",
        ge=1,
    )
    num_evaluation_samples: int = key(
        "validation", 8, "Fixed (picture, noise, timestep) triples of that loss.", ge=1
    )
    report_to: Literal["tensorboard", "wandb", "comet_ml", "all", "none"] = key(
        "validation", "tensorboard", "Where to log, beside events.jsonl."
    )
    logging_dir: Path = key("validation", Path("logs"), "TensorBoard folder in the output folder.")
    dataloader_num_workers: int = key(
        "validation", 0, "Accepted and without effect: pictures are encoded once.", ge=0
    )

    @field_validator("validation_prompt", mode="before")
    @classmethod
    def _one_prompt_is_a_list(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value
