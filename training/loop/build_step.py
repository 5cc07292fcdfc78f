"""The training step, assembled: frozen models, what is trained in them, data, optimizer."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator

from training.config.groups import OptimizationConfig
from training.config.run import RunConfig
from training.data.dataset import one_pass
from training.data.draws import Draws, chunks, share
from training.data.encoded_data import EncodedData
from training.data.inputs import Inputs, read_posteriors
from training.loop.step import TrainingStep
from training.machine.recomputation import keep_less
from training.machine.stack import Stack
from training.method import Method
from training.models import frozen
from training.models.denoising import Denoising, Noised
from training.models.loading import Models, divisor, tokenize
from training.outputs.progress import StepProgress
from training.ranks.launcher import Ranks
from training.ranks.process_group import all_reduce_sum, on_all_ranks
from training.storage.compile_cost import PREPARED, known, note, place
from training.storage.kernels import (
    forget_encoder,
    usable_kernels,
    use_kernels,
    use_kernels_to_encode,
    used_kernels,
)
from training.storage.run_directory import RunRecord

if TYPE_CHECKING:
    from training.loop.compiled.gradients import CompiledGradients
    from training.loop.compiled.graph import Losses

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def build_step(
    inputs: Inputs, record: RunRecord, stack: Stack, ranks: Ranks, notify: Callable[[str], None]
) -> TrainingStep:
    """Prepare the models for this CPU, encode the pictures, and make the optimizer.

    `inputs.models` are the prepared models afterwards.

    Raises:
        UserError: the models cannot be prepared, or the encoded pictures not be written.
    """
    config = inputs.config
    optimization, dtype = config.optimization, DTYPES[record.dtype]
    models = inputs.models = frozen.prepare(inputs.models, record.frozen, stack, dtype)
    parameters = inputs.method.inject(models)
    kernels = usable_kernels(record, ranks, notify)
    posteriors = read_posteriors(
        config.output_dir,
        config.data,
        inputs.pictures,
        models,
        dtype,
        ranks,
        notify,
        divisor(models) if config.in_buckets else None,
        lambda: use_kernels_to_encode(models.vae, config.side, kernels),
    )
    forget_encoder(models.vae, kernels)
    denoising = Denoising(models, dtype, parameters)
    texts, empty_prompt = _texts(inputs)
    token_ids = tokenize(models.tokenizer, texts)
    data = EncodedData(posteriors, token_ids, _fixed_text(denoising, token_ids, ranks))
    draws = _draws(record, inputs, models, len(texts), empty_prompt, posteriors)

    def samples(count: int) -> Iterator[Noised]:
        for number in range(count):
            batch = data.batch([draws(*divmod(number, draws.global_batch))])
            yield denoising.noised(parameters, batch)

    calibrated = on_all_ranks(ranks, lambda: inputs.method.calibrate(models, samples))
    if calibrated:
        _as_on_first(calibrated, ranks)
        parameters = {**parameters, **calibrated}
        denoising = Denoising(models, dtype, parameters)
    if optimization.gradient_checkpointing:
        inputs.method.checkpoint_gradients(models)
    if not config.validation.validation_prompt:  # prompts are drawn with all of the models
        frozen.release(models.vae)
        if data.text is not None:
            frozen.release(models.text_encoder)
    # Now: what pictures were encoded with is gone.
    use_kernels(models.unet, inputs.latent_side, kernels, notify)
    losses = partial(inputs.method.losses, denoising)
    compiled = _compiled(inputs, record, losses, parameters, ranks, notify)
    if compiled is None and record.frozen != "ipex":
        keep_less(models.unet)
    step = TrainingStep(
        losses,
        parameters,
        _optimizer(parameters, inputs.method, optimization, record.learning_rate),
        data,
        draws,
        ranks,
        _accelerator(config, record.global_batch, ranks),
        optimization.train_batch_size,
        optimization.max_grad_norm,
        inputs.method.ema_decay,
        compiled,
        {name: inputs.method.first_step(name) for name in parameters},
        inputs.method.project,
    )
    step.compile()
    if step.compiled and step.compiled.seconds:
        kept = place(inputs, ranks, dtype, used_kernels(models.unet))
        longest = max(step.compiled.seconds, known(kept).get(PREPARED, 0))  # not found, compiled
        note(kept, **{PREPARED: longest})
    return step


def _compiled(
    inputs: Inputs,
    record: RunRecord,
    losses: Losses,
    parameters: dict[str, torch.nn.Parameter],
    ranks: Ranks,
    notify: Callable[[str], None],
) -> CompiledGradients | None:
    """What computes losses and gradients in the place of autograd, if anything is to."""
    if record.frozen != "compiled":
        return None
    if problem := _why_native(inputs):
        if ranks.local_rank == 0:  # each machine has a compiler, or has none
            print(f"--frozen compiled: {problem}: this runs native", file=sys.stderr, flush=True)
        return None
    from training.loop.compiled.gradients import CompiledGradients  # inductor: a second to import

    settings = (record.dtype, record.method, *inputs.method.loss_settings)
    return CompiledGradients(losses, parameters, inputs.models, settings, notify)


def _why_native(inputs: Inputs) -> str:
    """Why nothing can be compiled; "" if nothing speaks against it."""
    if inputs.config.gradient_checkpointing:
        return "--gradient_checkpointing computes parts of the UNet twice, which a graph cannot"
    if inputs.method.draws_randomly:
        return "dropout is drawn anew in every step, which a graph cannot"
    from training.loop.compiled.code import compiler_is_missing

    if compiler_is_missing():
        return "there is no C++ compiler (Debian: apt install g++ python3-dev)"
    return ""


@torch.no_grad()
def _as_on_first(parameters: dict[str, torch.nn.Parameter], ranks: Ranks) -> None:
    """Give every rank the first one's values: other processors may compute other last bits."""
    for value in parameters.values():
        if not ranks.is_main_process:
            value.zero_()
        all_reduce_sum(value.data, ranks)


def _texts(inputs: Inputs) -> tuple[list[str], int]:
    """Every sentence of the run, and the index of the empty one, if it is among them."""
    texts = list(inputs.sentences.texts)
    if inputs.config.sampling.empty_prompts > 0 and "" not in texts:
        texts.append("")
    return texts, texts.index("") if "" in texts else 0


def _fixed_text(denoising: Denoising, token_ids: torch.Tensor, ranks: Ranks) -> torch.Tensor | None:
    """What the text encoder makes of the sentences, where training does not change that."""
    if not denoising.text_is_fixed:
        return None
    count, shown = len(token_ids), ranks.is_main_process
    with StepProgress("encoding captions", count, 0, shown) as progress:
        return denoising.encode_each(token_ids, lambda done: progress.step(done, ""))


def _draws(
    record: RunRecord,
    inputs: Inputs,
    models: Models,
    prompts: int,
    empty_prompt: int,
    posteriors: list[torch.Tensor],
) -> Draws:
    shapes = [
        (channels, height, width)
        for channels, height, width in (posterior.shape[-3:] for posterior in posteriors)
    ]
    return Draws(
        seed=record.seed,
        global_batch=record.global_batch,
        pictures=len(inputs.pictures),
        prompts=prompts,
        num_train_timesteps=models.noise_scheduler.config.num_train_timesteps,
        latent_shape=shapes[0],
        latent_shapes=tuple(shapes) if len(set(shapes)) > 1 else (),
        one_pass=one_pass(inputs.pictures),
        of_picture=inputs.sentences.of_picture,
        variants=inputs.sentences.variants,
        sampling=inputs.config.sampling,
        empty_prompt=empty_prompt,
    )


def _optimizer(
    parameters: dict[str, torch.nn.Parameter],
    method: Method,
    optimization: OptimizationConfig,
    learning_rate: float,
) -> torch.optim.Optimizer:
    by_factor: dict[float, list[torch.nn.Parameter]] = {}
    for name, value in parameters.items():
        by_factor.setdefault(method.rate_factor(name), []).append(value)
    return torch.optim.AdamW(
        [{"params": values, "rate_factor": factor} for factor, values in by_factor.items()],
        lr=learning_rate,
        betas=(optimization.adam_beta1, optimization.adam_beta2),
        weight_decay=optimization.adam_weight_decay,
        eps=optimization.adam_epsilon,
    )


def _accelerator(config: RunConfig, global_batch: int, ranks: Ranks) -> Accelerator:
    """accelerate, for its trackers and gradient clipping: the ranks' all-reduce is the step's."""
    samples = share(global_batch, ranks.rank, ranks.size)
    return Accelerator(
        cpu=True,
        gradient_accumulation_steps=max(1, len(chunks(samples, config.train_batch_size))),
        log_with=None if config.report_to == "none" else config.report_to,
        project_dir=str(config.output_dir / config.logging_dir),
    )
