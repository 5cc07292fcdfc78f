"""Training the rows alone is the same as training the whole table and restoring it."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from tests.training_fixtures import Flags
from training.config.command_line import parse
from training.config.textual_inversion import TextualInversionConfig
from training.data.draws import Draw, Draws
from training.data.encoded_data import EncodedData
from training.data.inputs import Inputs, read_inputs
from training.data.latents import LatentCache, encode_missing, read_all
from training.data.prompts import prompts_for
from training.loop.step import TrainingStep
from training.methods.textual_inversion import TextualInversion
from training.models import concept
from training.models.denoising import Denoising
from training.models.loading import tokenize
from training.models.objective import add_noise, mean_squared_error, sample_posterior, target
from training.ranks.launcher import Ranks

STEPS = 20
LEARNING_RATE = 5e-3
ALONE = Ranks("no launcher", 0, 1, 0, 1)


@dataclass
class Problem:
    """A tiny run, read and encoded."""

    config: TextualInversionConfig
    inputs: Inputs
    method: TextualInversion
    posteriors: torch.Tensor
    token_ids: torch.Tensor
    dtype: torch.dtype
    embedding: concept.ConceptEmbedding | None = None

    def draws(self, global_batch: int) -> Draws:
        prompts = len(self.token_ids)
        channels, height, width = self.posteriors.shape[-3:]
        return Draws(3, global_batch, 5, prompts, 1000, (channels, height, width))

    def step(self, batch: int, accumulation: int = 1) -> TrainingStep:
        """Our training step on copies of the models."""
        models = copy.deepcopy(self.inputs.models)
        table = models.text_encoder.get_input_embeddings().weight
        rows = self.method.start["rows"].to(self.dtype)
        embedding = concept.install(models.text_encoder, table, rows, self.method.token_ids)
        self.embedding = embedding
        parameters = {"rows": embedding.rows}
        models.unet.requires_grad_(False)
        return TrainingStep(
            Denoising(models, self.dtype, parameters).losses,
            parameters,
            torch.optim.AdamW([embedding.rows], lr=LEARNING_RATE),
            EncodedData(self.posteriors, self.token_ids),
            self.draws(batch * accumulation),
            ALONE,
            Accelerator(cpu=True, gradient_accumulation_steps=accumulation),
            train_batch_size=batch,
            max_grad_norm=None,
        )


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def problem(request: pytest.FixtureRequest, flags: Flags, latents: Path) -> Problem:
    config, _ = parse(TextualInversionConfig, flags(num_vectors=2), "test", "")
    inputs = read_inputs(TextualInversion, config, lambda text: None)
    assert isinstance(inputs.method, TextualInversion)
    models = inputs.models
    cache = LatentCache(latents, models.vae, 32, False, torch.float32)
    encode_missing(cache, inputs.pictures, models.vae, 0, 1, lambda done, of: None)
    posteriors = read_all(cache, inputs.pictures, models.vae)
    models.text_encoder.to(request.param)
    models.unet.to(request.param)
    prompts = prompts_for("object", config.placeholder_tokens)
    ids = tokenize(models.tokenizer, prompts)
    return Problem(config, inputs, inputs.method, posteriors, ids, request.param)


class FullTable:
    """The usual script: the whole table trained by AdamW, all other rows restored each step."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.models = copy.deepcopy(problem.inputs.models)
        encoder = self.models.text_encoder
        encoder.resize_token_embeddings(len(self.models.tokenizer), mean_resizing=False)
        encoder.requires_grad_(False)
        self.table = encoder.get_input_embeddings().weight.requires_grad_()
        self.ids = problem.method.token_ids
        with torch.no_grad():
            self.table[self.ids] = problem.method.start["rows"].to(self.table.dtype)
        self.original = self.table.detach().clone()
        self.optimizer = torch.optim.AdamW([self.table], lr=LEARNING_RATE)

    def gradient(self, draws: list[Draw]) -> torch.Tensor:
        """The gradient of the whole table for these samples: [vocabulary, width]."""
        dtype = self.table.dtype
        scheduler = self.models.noise_scheduler
        self.optimizer.zero_grad()
        posterior = torch.stack(
            [self.problem.posteriors[d.picture, int(d.flip)] for d in draws]
        ).to(dtype)
        latents = sample_posterior(
            posterior[:, 0],
            posterior[:, 1],
            torch.stack([d.posterior_noise for d in draws]).to(dtype),
            self.models.vae.config.scaling_factor,
        )
        noise = torch.stack([d.noise for d in draws]).to(dtype)
        timesteps = torch.tensor([d.timestep for d in draws])
        alphas = scheduler.alphas_cumprod.to(dtype)[timesteps]
        hidden = self.models.text_encoder(self.problem.token_ids[[d.prompt for d in draws]])[0]
        prediction = self.models.unet(
            add_noise(latents, noise, alphas), timesteps, encoder_hidden_states=hidden
        ).sample
        wanted = target(scheduler.config.prediction_type, latents, noise, alphas)
        mean_squared_error(prediction, wanted).mean().backward()
        assert self.table.grad is not None
        return self.table.grad

    def step(self, draws: list[Draw]) -> None:
        self.gradient(draws)
        self.optimizer.step()
        others = torch.ones(len(self.table), dtype=torch.bool)
        others[self.ids] = False
        with torch.no_grad():
            self.table[others] = self.original[others]


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def test_gradients_from_equal_rows_agree_at_every_step(problem: Problem) -> None:
    ours, theirs = problem.step(batch=2), FullTable(problem)
    bound = 1e-5 if problem.dtype == torch.float32 else 1e-12
    for number in range(STEPS):
        draws = [ours.draws(number, index) for index in range(2)]
        rows = ours.parameters["rows"]
        with torch.no_grad():
            theirs.table[theirs.ids] = rows
        wanted = theirs.gradient(draws)[theirs.ids]
        (ours.losses(ours.parameters, ours.data.batch(draws)).sum() / 2).backward()
        assert rows.grad is not None
        assert relative(rows.grad, wanted) < bound
        rows.grad = None
        ours(number, LEARNING_RATE, lambda: False)


def test_rows_after_twenty_steps_agree_and_every_other_row_is_untouched(problem: Problem) -> None:
    ours, theirs = problem.step(batch=2), FullTable(problem)
    embedding = problem.embedding
    assert embedding is not None
    before = embedding.table.clone()
    for number in range(STEPS):
        theirs.step([ours.draws(number, index) for index in range(2)])
        ours(number, LEARNING_RATE, lambda: False)
    bound = 1e-4 if problem.dtype == torch.float32 else 1e-11
    assert relative(ours.parameters["rows"].detach(), theirs.table[theirs.ids].detach()) < bound
    assert (
        relative(ours.parameters["rows"].detach(), problem.method.start["rows"].to(problem.dtype))
        > 0.01
    )
    assert torch.equal(embedding.table, before)
    full = embedding.full_table()
    others = [i for i in range(len(full)) if i not in problem.method.token_ids]
    assert torch.equal(full[others], theirs.original[others])


def test_accumulation_and_batch_size_do_not_matter(problem: Problem) -> None:
    """The same global batch of four as 4 x 1, 2 x 2 and 1 x 4 micro-batches."""
    ends = []
    for batch, accumulation in ((4, 1), (2, 2), (1, 4)):
        step = problem.step(batch, accumulation)
        for number in range(STEPS):
            step(number, LEARNING_RATE, lambda: False)
        ends.append(step.parameters["rows"].detach())
    bound = 1e-4 if problem.dtype == torch.float32 else 1e-11
    for end in ends[1:]:
        assert relative(end, ends[0]) < bound
