"""The configuration of a LoRA run: adapters, captions, new words, and the files of all that."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import ValidationInfo, field_validator

from training.config.captioned_run import CaptionedRunConfig
from training.config.groups import Group, key
from training.config.run import Sampling, register
from training.config.word_run import WordRunConfig
from training.config.words import WordConfig, loading_lines, refuse_no_start

LORA_NAME = "pytorch_lora_weights"
KOHYA_FILE = "kohya_lora.safetensors"
ATTENTION = ["to_k", "to_q", "to_v", "to_out.0"]
"""The projections of the UNet's attention, which diffusers' script trains."""


class AdapterConfig(Group):
    """Which layers get an adapter, and of what size."""

    rank: int = key("adapter", 4, "Rank of the matrices that are learned for each layer.", ge=1)
    lora_alpha: float | None = key(
        "adapter",
        None,
        "What is learned is scaled by lora_alpha / rank; default: the rank, which scales by 1.",
        gt=0,
    )
    lora_dropout: float = key(
        "adapter", 0.0, "Share of an adapter's inputs that a training step leaves out.", ge=0, lt=1
    )
    lora_layers: list[str] = key(
        "adapter",
        ATTENTION,
        "Names, or ends of names, of the UNet's layers (linear or convolution) that get an adapter;"
        " diffusers' script trains these, the attention's.",
        min_length=1,
    )
    train_text_encoder: bool = key(
        "adapter", False, "Train adapters on the text encoder's attention, too."
    )

    @field_validator("lora_layers", mode="before")
    @classmethod
    def _by_comma(cls, value: object) -> object:
        """diffusers' scripts take one text with commas in it."""
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
            return value
        return [name.strip() for text in texts for name in text.split(",") if name.strip()]

    @property
    def scale(self) -> float:
        """What the product of an adapter's matrices is multiplied by."""
        return 1.0 if self.lora_alpha is None else self.lora_alpha / self.rank


class LoraFileConfig(Group):
    """The form of the learned weights' files."""

    lora_format: Literal["diffusers", "kohya"] = key(
        "outputs",
        "diffusers",
        f"kohya: also write {KOHYA_FILE}, with the keys that A1111, ComfyUI and kohya's scripts "
        "read.",
    )


class PivotalConfig(WordConfig):
    """New words that are learned before the adapters, and then together with them."""

    train_text_encoder_ti: bool = key(
        "concept",
        False,
        "Learn new words, too, which the captions have in them: they alone at first, then they and "
        "the adapters (pivotal tuning).",
    )
    max_train_steps_ti: int = key(
        "concept",
        200,
        "Optimizer steps, the first, in which the new words alone are learned.",
        ge=0,
    )
    learning_rate_ti: float = key(
        "concept", 5e-4, "Learning rate of the new words, after warmup.", gt=0, le=1
    )

    @field_validator("train_text_encoder_ti")
    @classmethod
    def _with_words(cls, value: bool, info: ValidationInfo) -> bool:
        if "placeholder_token" not in info.data or "initializer_token" not in info.data:
            return value  # they are wrong, and told so
        words: str | None = info.data["placeholder_token"]
        if value and words is None:
            raise ValueError("needs placeholder_token: the new word, as the captions have it")
        if value and words is not None:
            refuse_no_start(words, info.data["initializer_token"], info.data.get("initial_embeds"))
        if not value and words is not None:
            raise ValueError(
                f"placeholder_token {words} is learned with it alone: give "
                "--train_text_encoder_ti, or leave the word out"
            )
        for name in ("initializer_token", "initial_embeds"):
            if words is None and info.data.get(name) is not None:
                raise ValueError(
                    f"{name} {info.data[name]} is what a new word starts from, and none is "
                    "learned: give --train_text_encoder_ti and --placeholder_token, or leave it out"
                )
        if words is None and info.data.get("keep_embedding_norm"):
            raise ValueError(
                "keep_embedding_norm is for the rows of a new word, and none is learned: give "
                "--train_text_encoder_ti and --placeholder_token, or leave it out"
            )
        return value


@register
class LoraConfig(LoraFileConfig, CaptionedRunConfig, WordRunConfig, AdapterConfig, PivotalConfig):
    """Everything that decides what a LoRA run computes and what it writes.

    Defaults are those of diffusers' train_text_to_image_lora.py.
    """

    method: ClassVar[str] = "lora"
    may_differ_on_resume: ClassVar[frozenset[str]] = WordRunConfig.may_differ_on_resume | {
        "lora_format"
    }
    identified_by_content: ClassVar[dict[str, str]] = {
        **CaptionedRunConfig.identified_by_content,
        **WordRunConfig.identified_by_content,
    }

    aspect_ratio_buckets: bool = key(
        "data",
        False,
        "Keep the shape of pictures: each is cut to the one of a few sizes that suits it, none "
        "with more pixels than the square.",
    )
    noise_offset: float = key(
        "training", 0.0, "Scale of a noise that is the same for all of a channel.", ge=0
    )
    snr_gamma: float | None = key(
        "training", None, "Min-SNR weighting of the loss (Hang et al. 2023 recommend 5).", gt=0
    )
    prediction_type: Literal["epsilon", "v_prediction"] | None = key(
        "training", None, "What the UNet is trained to predict; default: as its scheduler says."
    )
    max_train_steps: int | None = key(
        "training", None, "Optimizer steps; default: those of num_train_epochs.", ge=1
    )
    output_dir: Path = key("outputs", Path("sd-model-finetuned-lora"), "The run folder.")

    @property
    def adapter(self) -> AdapterConfig:
        """The adapters' keys."""
        return self.group(AdapterConfig)

    @property
    def in_buckets(self) -> bool:
        """As `aspect_ratio_buckets` says."""
        return self.aspect_ratio_buckets

    @property
    def sampling(self) -> Sampling:
        """As the keys of the same names say."""
        return replace(super().sampling, noise_offset=self.noise_offset)

    @property
    def title(self) -> str:
        """The pictures' folder: a LoRA has no other name."""
        return f"LoRA of {self.train_data_dir.name or self.train_data_dir}"

    @property
    def summary(self) -> str:
        """The rank, and which parts have adapters."""
        parts = "UNet and the text encoder" if self.train_text_encoder else "UNet"
        words = ", ".join(word.placeholder_token for word in self.concepts)
        return f"LoRA of rank {self.rank} for the {parts}{f', with {words}' if words else ''}"

    def usage(self, repository: str) -> str:
        """Loading the weights, and the new words."""
        words = [concept.placeholder_token for concept in self.concepts]
        lines = [
            f'pipeline.load_lora_weights("{repository}")',
            *loading_lines(self.concepts, repository),
            f'pipeline("{", ".join(words) or "..."}").images[0]\n',
        ]
        return "\n".join(lines)

    @property
    def own_files(self) -> tuple[str, ...]:
        """What `training.methods.lora` writes into the run folder."""
        words = [name for concept in self.concepts for name in concept.own_files]
        return (f"{LORA_NAME}.safetensors", f"{LORA_NAME}-steps-*", KOHYA_FILE, *words)
