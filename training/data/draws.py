"""What sample `index` of step `step` is: its picture, flip, prompt, timestep and noise.

Everything is a function of (seed, step, index) and of nothing else, so the rank layout, the
batch size, accumulation, and where a run was interrupted cannot change it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch


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
        one_pass: the pictures of a pass, where some are seen more often than others.
    """

    seed: int
    global_batch: int
    pictures: int
    prompts: int
    num_train_timesteps: int
    latent_shape: tuple[int, int, int]
    one_pass: tuple[int, ...] = ()

    def __call__(self, step: int, index: int) -> Draw:
        """Sample `index` (0 <= index < global_batch) of optimizer step `step` (from 0)."""
        generator = generator_for(self.seed, "sample", step, index)
        flip, prompt, timestep = (
            int(torch.randint(high, (1,), generator=generator))
            for high in (2, self.prompts, self.num_train_timesteps)
        )
        return Draw(
            picture=self._picture(step * self.global_batch + index),
            flip=bool(flip),
            prompt=prompt,
            timestep=timestep,
            posterior_noise=torch.randn(self.latent_shape, generator=generator),
            noise=torch.randn(self.latent_shape, generator=generator),
        )

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
            draws.append(
                Draw(
                    picture=index % self.pictures,
                    flip=False,
                    prompt=index % self.prompts,
                    timestep=int((index + 0.5) / count * self.num_train_timesteps),
                    posterior_noise=torch.randn(self.latent_shape, generator=generator),
                    noise=torch.randn(self.latent_shape, generator=generator),
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
