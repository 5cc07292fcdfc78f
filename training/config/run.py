"""What the configuration of every method has."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import ClassVar, Self, TypeVar

from training.config.captions import CaptionConfig
from training.config.groups import (
    DataConfig,
    Group,
    MachineConfig,
    ModelConfig,
    OptimizationConfig,
    OutputsConfig,
    ValidationConfig,
)

GroupType = TypeVar("GroupType", bound=Group)


@dataclass(frozen=True)
class Sampling:
    """What a sample may be beside a picture with its sentence and noise.

    Attributes:
        mirror: whether half of the samples are mirror images.
        noise_offset: scale of a noise that is the same for all of a channel.
        empty_prompts: share of the samples whose sentence is the empty one.
    """

    mirror: bool = True
    noise_offset: float = 0.0
    empty_prompts: float = 0.0


CONFIG_FILE = "config.toml"
"""Of a run's folder: its configuration, and what was resolved from it."""


class RunConfig(
    ValidationConfig, OutputsConfig, MachineConfig, OptimizationConfig, DataConfig, ModelConfig
):
    """Everything that decides what a run computes and what it writes, whatever it trains.

    Attributes:
        method: what is trained: the name of its program, and of its JSON schema.
        may_differ_on_resume: keys that change neither what is learned nor its order: see
            docs/training.md.
        identified_by_content: keys that may name another place as long as the same bytes are found
            there, and the entry of `RunRecord` that tells.
    """

    method: ClassVar[str]
    may_differ_on_resume: ClassVar[frozenset[str]] = frozenset(
        {
            "max_train_steps",
            "num_train_epochs",
            "output_dir",
            "overwrite_output_dir",
            "save_steps",
            "save_as_full_pipeline",
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
    identified_by_content: ClassVar[dict[str, str]] = {
        "pretrained_model_name_or_path": "model",
        "revision": "model",
        "variant": "model",
        "allow_pickle": "model",
        "tokenizer_name": "tokenizer",
        "train_data_dir": "pictures",
        "skip_broken_images": "pictures",
    }

    def group(self, kind: type[GroupType]) -> GroupType:
        """The keys of one concern alone, for code that needs no other."""
        return kind.model_construct(**{name: getattr(self, name) for name in kind.model_fields})

    @property
    def model(self) -> ModelConfig:
        """The base model's keys."""
        return self.group(ModelConfig)

    @property
    def data(self) -> DataConfig:
        """The pictures' keys."""
        return self.group(DataConfig)

    @property
    def optimization(self) -> OptimizationConfig:
        """The keys of seed, batch, steps and AdamW."""
        return self.group(OptimizationConfig)

    @property
    def machine(self) -> MachineConfig:
        """The keys of precision, stack and ranks."""
        return self.group(MachineConfig)

    @property
    def outputs(self) -> OutputsConfig:
        """The run folder's keys."""
        return self.group(OutputsConfig)

    @property
    def validation(self) -> ValidationConfig:
        """The keys of validation pictures, the evaluation loss and trackers."""
        return self.group(ValidationConfig)

    @property
    def captions(self) -> CaptionConfig | None:
        """The captions' keys; None: this method's pictures have none."""
        return None

    @property
    def subfolders(self) -> tuple[str, ...] | None:
        """The subfolders that the pictures are in; (): all that have any; None: as usual."""
        return None

    def with_subfolders(self, names: list[str]) -> Self:
        """The configuration with what it leaves to the subfolders that were found; () asked."""
        raise NotImplementedError(f"{self.method} names nothing after {names}")

    @property
    def in_buckets(self) -> bool:
        """Whether pictures keep their shape, roughly, in aspect-ratio buckets."""
        return False

    @property
    def sampling(self) -> Sampling:
        """What may happen to a sample."""
        return Sampling()

    @property
    def title(self) -> str:
        """What the run's report is headed with."""
        return self.method.replace("_", " ")

    @property
    def summary(self) -> str:
        """What is trained, as the beginning of a sentence."""
        return f"Training ({self.title})"

    def usage(self, repository: str) -> str:
        """Lines of Python that draw with what was learned, once it is on the hub.

        Args:
            repository: there; the base model's pipeline is called `pipeline`.
        """
        del repository
        return ""

    @property
    def own_files(self) -> tuple[str, ...]:
        """Patterns of the files that the method writes into the run folder."""
        return ()


_CONFIGS: dict[str, type[RunConfig]] = {}


def register(config: type[RunConfig]) -> type[RunConfig]:
    """Make runs of `config.method` known to those who read a run folder; returns `config`."""
    _CONFIGS[config.method] = config
    return config


def config_of(method: str) -> type[RunConfig]:
    """The configuration of a method: the one registered, or `training.config.<method>`'s.

    Raises:
        ValueError: there is no such method.
    """
    if method not in _CONFIGS:
        if not method.isidentifier():
            raise ValueError(f"unknown method {method!r}")
        try:
            importlib.import_module(f"training.config.{method}")
        except ModuleNotFoundError as error:
            raise ValueError(f"unknown method {method!r}") from error
    return _CONFIGS[method]
