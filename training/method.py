"""The seam between a run and what it trains: all that loop, storage and outputs know of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn

if TYPE_CHECKING:
    from training.config.run import RunConfig
    from training.models.denoising import Batch, Denoising, Noised
    from training.models.loading import Models

Values = Mapping[str, torch.Tensor]
"""What is trained, by name, always in the same order."""


@dataclass(frozen=True)
class Sentences:
    """What pictures are paired with.

    Attributes:
        texts: each once.
        of_picture: the index into `texts` of each picture's own; None: any goes with any picture.
        variants: how many, one after the other from there on, are a picture's own.
    """

    texts: tuple[str, ...]
    of_picture: tuple[int, ...] | None = None
    variants: int = 1


class Method(ABC):
    """A way to fine-tune: a few parameters that are put into frozen models.

    One object serves one run, on one rank. It is made when the models are loaded; then `prepare`,
    `inject` (once they are frozen), `calibrate` (once pictures are encoded) and `losses` are
    called, in this order.

    Args:
        config: of the type `config_type`.
        models: as loaded: the text encoder in float32, VAE and UNet perhaps in bfloat16.

    Attributes:
        partial_weights: between 0 and 1, at which a finished run is drawn, too (`set_weight`).
        ema_decay: of the moving average of what is trained, which is what is learned then; None:
            there is none.
        start: what the parameters start from; float32.

    Raises:
        UserError: what the person named cannot be started from.
    """

    config_type: ClassVar[type[RunConfig]]
    partial_weights: ClassVar[tuple[float, ...]] = ()
    ema_decay: float | None = None
    start: dict[str, torch.Tensor]

    @abstractmethod
    def __init__(self, config: RunConfig, models: Models) -> None: ...

    @classmethod
    def check_packages(cls) -> None:
        """Make sure that what it needs beside PyTorch and diffusers is there, before models are.

        Raises:
            UserError: names what is missing, and the environment that has it.
        """
        del cls  # most need nothing else

    @abstractmethod
    def prepare(self, models: Models, notify: Callable[[str], None]) -> None:
        """Change the loaded models (a tokenizer, say), and check the configuration against them.

        Args:
            notify: told of what a person should know.

        Raises:
            UserError: the configuration does not fit these models.
        """

    @abstractmethod
    def sentences(self, captions: Sequence[str] | None) -> Sentences:
        """The sentences that pictures are paired with.

        Args:
            captions: of each picture; or, where the configuration asks for subfolders, the name of
                its own; None where it asks for neither.
        """

    @abstractmethod
    def inject(self, models: Models) -> dict[str, nn.Parameter]:
        """Put parameters with the values of `start` into the frozen models; returns them by name.

        They are parameters of the models' modules: `training.models.denoising` finds them there.
        """

    def calibrate(
        self, models: Models, samples: Callable[[int], Iterator[Noised]]
    ) -> dict[str, nn.Parameter]:
        """Put parameters that depend on the run's samples into the models; returns them by name.

        They come after those of `inject`. Most methods have none.

        Args:
            samples: gives the first samples of the run, one by one, of the number asked for.

        Raises:
            UserError: the models cannot be trained so.
        """
        return {}

    def checkpoint_gradients(self, models: Models) -> None:
        """Let the UNet compute its activations again in the backward pass: less memory."""
        models.unet.enable_gradient_checkpointing()
        models.unet.train()

    def first_step(self, name: str) -> int:
        """The optimizer step, from 0, in which a parameter is trained for the first time."""
        del name
        return 0

    def rate_factor(self, name: str) -> float:
        """What the learning rate is multiplied by for a parameter."""
        del name
        return 1.0

    def refuse_too_few_steps(self, max_train_steps: int) -> None:
        """Make sure that every parameter is trained in a run of so many steps.

        Raises:
            SharedError: one is not.
        """
        del max_train_steps

    def project(self, parameters: Values) -> None:
        """Bring parameters back, in place, to where they may be, after an optimizer step.

        Most may be anywhere.
        """
        del parameters

    def losses(self, denoising: Denoising, parameters: Values, batch: Batch) -> torch.Tensor:
        """The loss of each sample, [samples]: a pure function of `parameters` and `batch`."""
        return denoising.losses(parameters, batch)

    @property
    def loss_settings(self) -> tuple[object, ...]:
        """What `losses` computes by beside models, parameters and batch, where it is not theirs."""
        return ()

    @property
    def draws_randomly(self) -> bool:
        """Whether `losses` draws random numbers of its own, as dropout does."""
        return False

    def moved(self, values: Values) -> float:
        """How far `values` are from where they began, in lengths of that start.

        Where it was zero, the distance itself.
        """
        away = torch.cat([(values[k].detach() - v).flatten() for k, v in self.start.items()])
        length = torch.cat([value.flatten() for value in self.start.values()]).norm()
        return float(away.norm() / length if length > 0 else away.norm())

    def set_weight(self, models: Models, weight: float) -> None:
        """Let the models draw with a part of what was learned: 0 is none of it, 1 is all."""
        raise NotImplementedError(f"{type(self).__name__} has no partial weights")

    @abstractmethod
    def write_step(self, folder: Path, step: int, values: Values) -> None:
        """Write what has been learned by `step` to <name>-steps-<step>.<suffix>, kept for good."""

    @abstractmethod
    def write(self, folder: Path, values: Values) -> list[Path]:
        """Write what has been learned, at the run's end; returns the paths, the main one first."""

    @abstractmethod
    def learned_models(self, values: Values) -> Models:
        """The run's models, read afresh in float32, with what has been learned in them."""
