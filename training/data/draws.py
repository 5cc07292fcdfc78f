"""What sample `index` of step `step` is: its picture, flip, prompt, timestep and noise.

Everything is a function of (seed, step, index) and of nothing else, so the rank layout, the
batch size, accumulation, and where a run was interrupted cannot change it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import torch

from training.config.run import Sampling


@dataclass(frozen=True)
class Draw:
    """One training sample.

    Attributes:
        picture: index into the pictures.
        flip: whether its mirror image is used (probability one half).
        prompt: index into the prompts.
        timestep: in [0, num_train_timesteps).
        posterior_noise, noise: [channels, height, width], float32, standard normal.
    """

    picture: int
    flip: bool
    prompt: int
    timestep: int
    posterior_noise: torch.Tensor
    noise: torch.Tensor


@dataclass(frozen=True)
class Draws:
    """The whole run's samples, drawn when asked for.

    Attributes:
        seed: of the run.
        global_batch: samples per optimizer step, over all ranks.
        pictures, prompts: how many there are.
        num_train_timesteps: of the noise scheduler.
        latent_shape: (channels, height, width).
        latent_shapes: of each picture, where they differ.
        one_pass: the pictures of a pass, where some are seen more often than others.
        of_picture: the prompt of each picture; None: any goes with any picture.
        sampling: what may happen to a sample.
        empty_prompt: the index of the empty prompt, where `sampling` asks for it.
        variants: how many prompts, from that of `of_picture` on, are a picture's own.
    """

    seed: int
    global_batch: int
    pictures: int
    prompts: int
    num_train_timesteps: int
    latent_shape: tuple[int, int, int]
    one_pass: tuple[int, ...] = ()
    of_picture: tuple[int, ...] | None = None
    sampling: Sampling = field(default_factory=Sampling)
    empty_prompt: int = 0
    latent_shapes: tuple[tuple[int, int, int], ...] = ()
    variants: int = 1

    def __call__(self, step: int, index: int) -> Draw:
        """Sample `index` (0 <= index < global_batch) of optimizer step `step` (from 0)."""
        generator = generator_for(self.seed, "sample", step, index)
        flip, prompt, timestep = (
            int(torch.randint(high, (1,), generator=generator))
            for high in (2, self.prompts, self.num_train_timesteps)
        )
        picture = self._picture(step * self.global_batch + index)
        posterior_noise, noise = (
            torch.randn(self._shape(picture), generator=generator) for _ in range(2)
        )
        return Draw(
            picture=picture,
            flip=bool(flip) and self.sampling.mirror,
            prompt=self._prompt(picture, prompt, step, index),
            timestep=timestep,
            posterior_noise=posterior_noise,
            noise=noise + self._offset(step, index),
        )

    def _shape(self, picture: int) -> tuple[int, int, int]:
        return self.latent_shapes[picture] if self.latent_shapes else self.latent_shape

    def _prompt(self, picture: int, drawn: int, step: int, index: int) -> int:
        """The picture's own prompt, where it has one, or the empty one."""
        if self.sampling.empty_prompts > 0:
            generator = generator_for(self.seed, "empty prompt", step, index)
            if float(torch.rand((), generator=generator)) < self.sampling.empty_prompts:
                return self.empty_prompt
        return self._own(picture, drawn)

    def _own(self, picture: int, number: int) -> int:
        """Prompt `number` of those that go with a picture, counted around."""
        if self.of_picture is None:
            return number % self.prompts
        return self.of_picture[picture] + number % self.variants

    def _offset(self, step: int, index: int) -> torch.Tensor | float:
        """A noise that is the same for all of a channel: [channels, 1, 1] (crosslabs.org, 2023)."""
        if self.sampling.noise_offset == 0:
            return 0.0
        generator = generator_for(self.seed, "noise offset", step, index)
        shape = (self.latent_shape[0], 1, 1)
        return self.sampling.noise_offset * torch.randn(shape, generator=generator)

    def _picture(self, position: int) -> int:
        """Pictures in passes: each pass is a permutation of its own."""
        order = self.one_pass or range(self.pictures)
        number, place = divmod(position, len(order))
        generator = generator_for(self.seed, "order", number)
        return order[int(torch.randperm(len(order), generator=generator)[place])]

    def evaluation(self, count: int) -> list[Draw]:
        """`count` fixed samples: pictures and prompts in turn, timesteps evenly spread."""
        draws = []
        for index in range(count):
            generator = generator_for(self.seed, "evaluation", index)
            picture = index % self.pictures
            draws.append(
                Draw(
                    picture=picture,
                    flip=False,
                    prompt=self._own(picture, index),
                    timestep=int((index + 0.5) / count * self.num_train_timesteps),
                    posterior_noise=torch.randn(self._shape(picture), generator=generator),
                    noise=torch.randn(self._shape(picture), generator=generator),
                )
            )
        return draws


def generator_for(seed: int, *what: str | int) -> torch.Generator:
    """A generator whose seed is a hash of `seed` and `what`: streams do not overlap by accident."""
    text = "/".join(str(part) for part in (seed, *what))
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def share(total: int, rank: int, size: int) -> range:
    """The contiguous part of `range(total)` that `rank` of `size` computes: even within one."""
    return range(total * rank // size, total * (rank + 1) // size)


def chunks(indices: range, length: int) -> list[range]:
    """`indices` cut into micro-batches of at most `length`."""
    return [indices[start : start + length] for start in range(0, len(indices), length)]
