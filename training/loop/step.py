"""One optimizer step: this rank's samples, one all-reduce of the rows' gradient, AdamW."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from accelerate import Accelerator

from training.data.draws import Draw, Draws, chunks, share
from training.errors import UserError
from training.models import objective
from training.models.concept import ConceptEmbedding
from training.models.loading import Models
from training.ranks.launcher import Ranks
from training.ranks.process_group import all_reduce_sum


@dataclass(frozen=True)
class Denoising:
    """The loss of samples under the frozen models.

    Attributes:
        models: prepared by `training.models.frozen`, the concept installed in the text encoder.
        posteriors: [pictures, 2, 2, C, H, W] from `training.data.latents`.
        token_ids: [prompts, length].
        dtype: of the frozen UNet.
    """

    models: Models
    posteriors: torch.Tensor
    token_ids: torch.Tensor
    dtype: torch.dtype

    def losses(self, draws: list[Draw]) -> torch.Tensor:
        """The loss of each sample: [len(draws)], float32 (float64 under float64 models)."""
        work = torch.promote_types(self.dtype, torch.float32)
        posterior = torch.stack([self.posteriors[d.picture, int(d.flip)] for d in draws]).to(work)
        noise = torch.stack([d.noise for d in draws]).to(work)
        timesteps = torch.tensor([d.timestep for d in draws])
        scheduler = self.models.noise_scheduler
        alphas = scheduler.alphas_cumprod.to(work)[timesteps]
        latents = objective.sample_posterior(
            posterior[:, 0],
            posterior[:, 1],
            torch.stack([d.posterior_noise for d in draws]).to(work),
            self.models.vae.config.scaling_factor,
        )
        noisy = objective.add_noise(latents, noise, alphas)
        wanted = objective.target(scheduler.config.prediction_type, latents, noise, alphas)
        prediction = self.models.unet(
            noisy.to(self.dtype),
            timesteps,
            encoder_hidden_states=self._text(draws).to(self.dtype),
        ).sample
        return objective.mean_squared_error(prediction, wanted)

    def _text(self, draws: list[Draw]) -> torch.Tensor:
        ids = self.token_ids[[d.prompt for d in draws]]
        with torch.autocast("cpu", torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            hidden: torch.Tensor = self.models.text_encoder(ids)[0]
        return hidden


@dataclass(frozen=True)
class StepResult:
    """What a step found, the same on every rank.

    Attributes:
        loss: mean over the global batch.
        stop: whether any rank was asked to stop.
    """

    loss: float
    stop: bool


class TrainingStep:
    """Computes optimizer steps.

    Samples are shared out in order; each rank adds up its own gradient in micro-batches of at
    most `train_batch_size`, and one all-reduce adds the ranks'. Its 4 x (rows x width + 2)
    bytes are all that travels in a step: gradient, loss, and the wish to stop.
    """

    def __init__(
        self,
        denoising: Denoising,
        concept: ConceptEmbedding,
        optimizer: torch.optim.Optimizer,
        draws: Draws,
        ranks: Ranks,
        accelerator: Accelerator,
        train_batch_size: int,
        max_grad_norm: float | None,
    ) -> None:
        self.denoising = denoising
        self.concept = concept
        self.optimizer = optimizer
        self.draws = draws
        self.ranks = ranks
        self.accelerator = accelerator
        self.max_grad_norm = max_grad_norm
        mine = share(draws.global_batch, ranks.rank, ranks.size)
        self.micro_batches = chunks(mine, train_batch_size)

    def __call__(self, step: int, learning_rate: float, stop: Callable[[], bool]) -> StepResult:
        """Do optimizer step `step` (from 0). A loss that is not finite leaves the rows alone.

        Args:
            stop: asked once this rank's work is done, whether it wants to stop after it.
        """
        loss = self._accumulate(step)
        rows = self.concept.rows
        if rows.grad is None and self.micro_batches:
            raise UserError(
                "no gradient has reached the rows: the prepared UNet or text encoder does not "
                "pass it on. Use --frozen native."
            )
        gradient = torch.zeros_like(rows) if rows.grad is None else rows.grad
        flat = torch.cat([gradient.flatten(), gradient.new_tensor([loss, float(stop())])])
        all_reduce_sum(flat, self.ranks)
        result = StepResult(float(flat[-2]), bool(flat[-1] > 0))
        rows.grad = flat[:-2].view_as(rows).clone()
        if math.isfinite(result.loss) and bool(torch.isfinite(rows.grad).all()):
            if self.max_grad_norm is not None:
                self.accelerator.clip_grad_norm_([rows], self.max_grad_norm)
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate
            self.optimizer.step()
        else:
            result = StepResult(math.nan, result.stop)
        self.optimizer.zero_grad(set_to_none=True)
        return result

    def _accumulate(self, step: int) -> float:
        """Add this rank's gradient to the rows; returns its part of the mean loss."""
        total = 0.0
        for micro_batch in self.micro_batches:
            draws = [self.draws(step, index) for index in micro_batch]
            loss = self.denoising.losses(draws).sum() / self.draws.global_batch
            # accelerate divides by its accumulation steps; here the division is by samples.
            self.accelerator.backward(loss * self.accelerator.gradient_accumulation_steps)
            total += loss.item()
        return total

    @torch.no_grad()
    def evaluate(self, fixed: list[Draw], train_batch_size: int) -> float:
        """The mean loss of fixed samples, shared among the ranks."""
        mine = share(len(fixed), self.ranks.rank, self.ranks.size)
        total = torch.zeros(1, dtype=torch.float64)
        for micro_batch in chunks(mine, train_batch_size):
            total += self.denoising.losses([fixed[i] for i in micro_batch]).sum()
        all_reduce_sum(total, self.ranks)
        return float(total) / len(fixed)
