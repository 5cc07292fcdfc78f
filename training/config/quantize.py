"""The configuration of quantization-aware training: the quantizers, the losses, the average."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import model_validator

from training.config.captioned_run import CaptionedRunConfig
from training.config.groups import Group, key
from training.config.run import register

QUANTIZED_NAME = "quantized_unet"
"""What the file with the quantized UNet is called, without its suffix."""
MERGED_AT_MOST = 0.75
"""Of every four tokens three can be merged."""


class QuantizationConfig(Group):
    """How the UNet is quantized, and what it is trained towards."""

    calibration_samples: int = key(
        "quantization",
        64,
        "Samples of the run (noised pictures with their captions) that the quantizers' ranges are "
        "fitted to before the first step.",
        ge=1,
    )
    merge_tokens: float = key(
        "quantization",
        0.0,
        "Token Merging in the quantized UNet: the share of tokens that self-attention at the "
        "highest resolution leaves out; 0.4 is usual.",
        ge=0,
        le=MERGED_AT_MOST,
    )
    task_loss_weight: float = key(
        "quantization", 1.0, "Weight of the loss against the noise of the pictures.", ge=0
    )
    distillation_loss_weight: float = key(
        "quantization",
        1.0,
        "Weight of the loss against what the UNet in fp32 predicts of the same samples.",
        ge=0,
    )
    use_ema: bool = key(
        "quantization",
        True,
        "Keep an exponential moving average of what is trained, in memory, and write that; "
        "diffusers' default is false.",
    )
    ema_decay: float = key(
        "quantization",
        0.9999,
        "Decay of the average, reached slowly: (1 + step) / (10 + step) while that is less.",
        ge=0,
        lt=1,
    )

    @model_validator(mode="after")
    def _one_loss(self) -> Self:
        if self.task_loss_weight == 0 and self.distillation_loss_weight == 0:
            raise ValueError(
                "task_loss_weight and distillation_loss_weight are both 0: nothing would be learned"
            )
        return self

    @property
    def decay(self) -> float | None:
        """The average's decay; None: there is no average."""
        return self.ema_decay if self.use_ema else None


@register
class QuantizeConfig(CaptionedRunConfig, QuantizationConfig):
    """Everything that decides what quantization-aware training computes and what it writes.

    Defaults are those of diffusers' train_text_to_image.py, but for what the fields say.
    """

    method: ClassVar[str] = "quantize"

    proportion_empty_prompts: float = key(
        "captions",
        0.1,
        "Share of the samples that are learned, and calibrated on, without their caption: what "
        "guidance needs.",
        ge=0,
        le=1,
    )
    max_train_steps: int | None = key(
        "training", 4096, "Optimizer steps; 'none' counts num_train_epochs instead.", ge=1
    )
    learning_rate: float = key(
        "training", 1e-5, "Learning rate after warmup; diffusers' default is 1e-4.", gt=0
    )
    mixed_precision: Literal["no"] = key(
        "machine", "no", "fp32 alone: bf16 is as coarse as the 8-bit steps that are learned."
    )
    frozen: Literal["native"] = key(
        "machine", "native", "ipex.optimize cannot prepare a UNet that is trained."
    )
    attention: Literal["torch"] = key(
        "machine", "torch", "NNCF's quantizers are in PyTorch's own attention."
    )
    convolution: Literal["torch"] = key(
        "machine", "torch", "NNCF's quantizers are before PyTorch's own convolutions."
    )
    output_dir: Path = key("outputs", Path("sd-model-quantized"), "The run folder.")

    @property
    def quantization(self) -> QuantizationConfig:
        """The keys of quantizers, losses and average."""
        return self.group(QuantizationConfig)

    @property
    def title(self) -> str:
        """The pictures' folder, as the UNet has no other name."""
        return f"8-bit UNet, trained on {self.train_data_dir.name or self.train_data_dir}"

    @property
    def summary(self) -> str:
        """The UNet's precision, and whether it merges tokens."""
        merged = f", merging {self.merge_tokens:g} of the tokens" if self.merge_tokens else ""
        return f"Quantization-aware training of the UNet to 8 bits{merged}"

    @property
    def own_files(self) -> tuple[str, ...]:
        """What `training.methods.quantize` writes into the run folder."""
        return (f"{QUANTIZED_NAME}.safetensors", f"{QUANTIZED_NAME}-steps-*")
