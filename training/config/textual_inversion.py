"""The configuration of a textual inversion run: one documented field per flag and TOML key.

Names and defaults are those of diffusers' `textual_inversion.py`; where a default differs
the field says so.
"""

from __future__ import annotations

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

_NUMBER = r"\d*\.?\d+(?:[eE][-+]?\d+)?"
_STEP_RULES = re.compile(rf"(?:{_NUMBER}:\d+,\s*)*{_NUMBER}")


def _in(group: str, default: Any, description: str, **limits: Any) -> Any:
    return Field(
        default,
        description=description,
        json_schema_extra={"group": group},
        validate_default=True,
        **limits,
    )


class TextualInversionConfig(BaseModel):
    """Everything that decides what a run computes and what it writes."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, str_strip_whitespace=True, allow_inf_nan=False
    )

    # --- model ---
    pretrained_model_name_or_path: str = _in(
        "model", ..., "A diffusers pipeline folder, or a model's name on the Hugging Face hub."
    )
    revision: str | None = _in("model", None, "Revision (branch, tag, commit) on the hub.")
    variant: str | None = _in("model", None, "Variant of the weight files, for example fp16.")
    tokenizer_name: str | None = _in(
        "model", None, "Tokenizer folder or hub name, if it is not the model's own."
    )

    # --- concept ---
    placeholder_token: str = _in(
        "concept", ..., "The new word, for example <dicoo>. Must not be a token yet.", min_length=1
    )
    initializer_token: str | None = _in(
        "concept",
        None,
        "A one-token word that says roughly what the concept is, or as many tokens as vectors.",
    )
    initial_embeds: Path | None = _in(
        "concept", None, "Start from an earlier learned_embeds file instead of a word."
    )
    num_vectors: int = _in("concept", 1, "Embedding rows that the new word stands for.", ge=1)
    learnable_property: Literal["object", "style"] = _in(
        "concept", "object", "Whether the pictures share an object or a style."
    )

    # --- data ---
    train_data_dir: Path = _in("data", ..., "Folder with the pictures of the concept.")
    repeats: int = _in("data", 100, "Times the pictures are seen in one epoch.", ge=1)
    resolution: int = _in(
        "data", 512, "Side, in pixels, of the square that pictures are resized to.", ge=8
    )
    center_crop: bool = _in("data", False, "Crop the central square before resizing.")
    skip_broken_images: bool = _in(
        "data", False, "Leave out pictures that cannot be read instead of stopping."
    )
    latents_cache_dir: Path | None = _in(
        "data", None, "Where encoded pictures are kept; default: latents/ in the output folder."
    )

    # --- training ---
    seed: int | None = _in(
        "training",
        None,
        "Seed of order, noise and timesteps; drawn and noted if not given.",
        ge=0,
        le=2**63 - 1,
    )
    train_batch_size: int = _in("training", 16, "Pictures per rank and forward pass.", ge=1)
    gradient_accumulation_steps: int = _in(
        "training", 1, "Forward passes per rank in one optimizer step.", ge=1
    )
    max_train_steps: int | None = _in(
        "training", 5000, "Optimizer steps; 'none' counts num_train_epochs instead.", ge=1
    )
    num_train_epochs: int = _in("training", 100, "Epochs, where max_train_steps is 'none'.", ge=1)
    learning_rate: float = _in("training", 1e-4, "Learning rate after warmup.", gt=0)
    scale_lr: bool = _in(
        "training", False, "Multiply the learning rate by the global batch (ranks included)."
    )
    lr_scheduler: LrScheduler = _in("training", "constant", "Learning rate schedule.")
    lr_warmup_steps: int = _in("training", 500, "Optimizer steps of warmup.", ge=0)
    lr_num_cycles: int = _in("training", 1, "Cycles of cosine_with_restarts.", ge=1)
    lr_power: float = _in("training", 1.0, "Power of the polynomial schedule.", gt=0)
    lr_step_rules: str | None = _in(
        "training",
        None,
        "Rules of piecewise_constant: '1:10,0.1:20,0.01' is x1 to step 10, x0.1 to 20, then x0.01.",
    )
    adam_beta1: float = _in("training", 0.9, "AdamW's beta1.", ge=0, lt=1)
    adam_beta2: float = _in("training", 0.999, "AdamW's beta2.", ge=0, lt=1)
    adam_weight_decay: float = _in("training", 1e-2, "AdamW's weight decay.", ge=0)
    adam_epsilon: float = _in("training", 1e-8, "AdamW's epsilon.", gt=0)
    max_grad_norm: float | None = _in(
        "training", None, "Clip the gradient of the rows to this norm; default: no clipping.", gt=0
    )
    gradient_checkpointing: bool = _in(
        "training", False, "Recompute the UNet's activations: less memory, more time."
    )

    # --- machine ---
    mixed_precision: Literal["auto", "no", "bf16"] = _in(
        "machine",
        "auto",
        "bf16, or no (fp32); auto: bf16 where the CPU computes in it (AMX or AVX512-BF16); "
        "diffusers' default is no.",
    )
    stack: Literal["auto", "intel", "upstream"] = _in(
        "machine",
        "auto",
        "intel: IPEX and oneCCL; upstream: PyTorch alone; auto: intel where IPEX imports.",
    )
    frozen: Literal["auto", "native", "ipex"] = _in(
        "machine",
        "auto",
        "How the frozen parts are prepared; auto times native and ipex.optimize on this CPU.",
    )
    ddp_timeout: int = _in(
        "machine",
        1800,
        "Seconds a rank waits for another that hangs; one that dies is noticed at once.",
        ge=1,
    )

    # --- outputs ---
    output_dir: Path = _in("outputs", Path("text-inversion-model"), "The run folder.")
    overwrite_output_dir: bool = _in(
        "outputs", False, "Delete the run that the output folder holds and start afresh."
    )
    save_steps: int = _in(
        "outputs", 500, "Write learned_embeds-steps-<n> every this many steps.", ge=1
    )
    save_as_full_pipeline: bool = _in("outputs", False, "Save the whole pipeline at the end.")
    no_safe_serialization: bool = _in(
        "outputs", False, "Write learned_embeds as .bin (pickle) instead of safetensors."
    )
    embeds_format: Literal["diffusers", "a1111"] = _in(
        "outputs",
        "diffusers",
        "a1111: also write <word>.safetensors as A1111, ComfyUI and kohya read it.",
    )
    checkpointing_steps: int = _in("outputs", 500, "Checkpoint every this many steps.", ge=1)
    checkpoints_total_limit: int | None = _in(
        "outputs", None, "Keep only so many checkpoint folders.", ge=1
    )
    resume_from_checkpoint: str | None = _in(
        "outputs", None, "'latest', or the name of a checkpoint folder, to go on from."
    )
    push_to_hub: bool = _in("outputs", False, "Upload the results to the hub at the end.")
    hub_model_id: str | None = _in("outputs", None, "Repository for push_to_hub.")

    # --- watching ---
    validation_prompt: list[str] | None = _in(
        "watching", None, "One or more prompts drawn during training (with the new word in them)."
    )
    num_validation_images: int = _in("watching", 4, "Pictures per validation prompt.", ge=1)
    validation_steps: int = _in("watching", 100, "Draw every this many steps.", ge=1)
    num_inference_steps: int = _in("watching", 25, "Denoising steps of a picture.", ge=1)
    guidance_scale: float = _in("watching", 7.5, "Guidance of a picture.", ge=0)
    evaluation_steps: int = _in(
        "watching", 100, "Measure the loss on fixed pictures and noises every this many.", ge=1
    )
    num_evaluation_samples: int = _in(
        "watching", 8, "Fixed (picture, noise, timestep) triples of that loss.", ge=1
    )
    report_to: Literal["tensorboard", "wandb", "comet_ml", "all", "none"] = _in(
        "watching", "tensorboard", "Where to log, beside events.jsonl."
    )
    logging_dir: Path = _in("watching", Path("logs"), "TensorBoard folder in the output folder.")
    dataloader_num_workers: int = _in(
        "watching", 0, "Accepted and without effect: pictures are encoded once.", ge=0
    )

    @field_validator("mixed_precision", mode="before")
    @classmethod
    def _precision_names(cls, value: object) -> object:
        if value == "fp16":
            raise ValueError("fp16 is for GPUs; use bf16, no (fp32) or auto")
        return "no" if value == "fp32" else value

    @field_validator("max_train_steps", "checkpoints_total_limit", "max_grad_norm", mode="before")
    @classmethod
    def _none_by_word(cls, value: object) -> object:
        return None if value == "none" else value

    @field_validator("validation_prompt", mode="before")
    @classmethod
    def _one_prompt_is_a_list(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @field_validator("resolution")
    @classmethod
    def _multiple_of_eight(cls, value: int) -> int:
        if value % 8:
            raise ValueError(f"must be a multiple of 8; the nearest is {round(value / 8) * 8}")
        return value

    @field_validator("placeholder_token")
    @classmethod
    def _one_word(cls, value: str) -> str:
        if any(character.isspace() for character in value):
            raise ValueError("must be one word, without spaces")
        return value

    @field_validator("initial_embeds")
    @classmethod
    def _a_start(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is None and info.data.get("initializer_token", "") is None:
            raise ValueError("give initializer_token (a word) or initial_embeds (a file)")
        return value

    @field_validator("lr_step_rules")
    @classmethod
    def _rules_for_piecewise(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None and info.data.get("lr_scheduler") == "piecewise_constant":
            raise ValueError("piecewise_constant needs rules, for example '1:10,0.1:20,0.01'")
        if value is not None and not _STEP_RULES.fullmatch(value):
            raise ValueError("must be rules such as '1:10,0.1:20,0.01', the last without a step")
        return value

    @property
    def model_name(self) -> str:
        """The model to load: a retired hub name is replaced by its maintained copy."""
        name = self.pretrained_model_name_or_path
        return name if Path(name).exists() else RETIRED_HUB_NAMES.get(name, name)

    @property
    def placeholder_tokens(self) -> list[str]:
        """The tokens that the new word stands for, one per vector."""
        more = [f"{self.placeholder_token}_{i}" for i in range(1, self.num_vectors)]
        return [self.placeholder_token, *more]


MAY_DIFFER_ON_RESUME = frozenset(
    {
        "max_train_steps",
        "num_train_epochs",
        "output_dir",
        "overwrite_output_dir",
        "save_steps",
        "save_as_full_pipeline",
        "no_safe_serialization",
        "embeds_format",
        "checkpointing_steps",
        "checkpoints_total_limit",
        "resume_from_checkpoint",
        "push_to_hub",
        "hub_model_id",
        "validation_prompt",
        "num_validation_images",
        "validation_steps",
        "num_inference_steps",
        "guidance_scale",
        "evaluation_steps",
        "num_evaluation_samples",
        "report_to",
        "logging_dir",
        "dataloader_num_workers",
        "ddp_timeout",
        "latents_cache_dir",
    }
)
"""Keys that change neither the rows that are learned nor their order: see docs/training.md."""
