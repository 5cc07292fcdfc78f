"""One training run, put together: config -> data -> step -> loop -> outputs."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from accelerate import Accelerator

from training.config.textual_inversion import TextualInversionConfig
from training.data.draws import Draws, chunks, share
from training.data.inputs import Inputs, read_inputs, read_posteriors
from training.data.prompts import prompts_for
from training.dataset import epoch_length, one_pass
from training.errors import UserError
from training.loop.learning_rate import DECAYING, learning_rate_schedule
from training.loop.step import Denoising, TrainingStep
from training.loop.train import Stopped, restore, train
from training.machine import vector_math
from training.machine.cpu import this_cpu, threads_per_rank
from training.machine.stack import Stack, resolve_stack
from training.models import concept, frozen
from training.models.embeds import load_embeds
from training.models.loading import tokenize
from training.outputs.pipeline import publish, save_full_pipeline
from training.outputs.progress import StepProgress
from training.outputs.report import write_report
from training.outputs.writer import Outputs
from training.ranks.launcher import Ranks, asked_threads
from training.ranks.process_group import barrier, joined, together
from training.storage import run_directory
from training.storage.checkpoint import State, prune
from training.storage.copies import check_folder, keep_a_copy, run_folders
from training.storage.events import EventLog
from training.storage.resume import fixed_facts
from training.storage.run_directory import RunRecord

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def run(config: TextualInversionConfig, notices: Sequence[str] = ()) -> int:
    """Train as `config` says, on all the ranks that the launcher started.

    Args:
        notices: lines to print before anything else.

    Returns:
        0, or 128 + the signal that stopped the run (with a checkpoint).

    Raises:
        UserError: bad input, found on any rank.
    """
    vector_math.resolve_kernels()
    stack = resolve_stack(config.stack)
    with (
        joined(stack.backend, config.ddp_timeout, os.environ, stack.problem) as ranks,
        run_folders(config.output_dir, ranks) as keeps,
    ):
        try:
            return _train_and_save(config, stack, ranks, keeps, notices)
        except UserError as error:
            if ranks.is_first and run_directory.holds_a_run(config.output_dir):
                with contextlib.suppress(UserError):
                    EventLog(config.output_dir).write("error", text=str(error))
            raise


def _train_and_save(
    config: TextualInversionConfig,
    stack: Stack,
    ranks: Ranks,
    keeps: bool,
    notices: Sequence[str],
) -> int:
    say = _printer(ranks)
    asked = asked_threads(os.environ)
    threads = asked or threads_per_rank(this_cpu(), ranks.local_size)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    torch.set_num_threads(threads)
    for line in (*_headlines(config, stack, ranks, threads, asked is not None), *notices):
        say(line)
    check_folder(config, ranks, keeps)
    together(ranks, lambda: _check_tracker(config))
    say("loading the model and the pictures")
    inputs = together(ranks, lambda: read_inputs(config, say))
    record, state = fixed_facts(config, stack, ranks, inputs, say)
    keep_a_copy(config, record, ranks, keeps)

    step = assemble(config, stack, ranks, inputs, record, say)
    max_train_steps = _max_train_steps(config, record, inputs)
    start = _restore(step, state)
    progress = StepProgress("training", max_train_steps, start, shown=ranks.is_first)
    log = EventLog(config.output_dir) if ranks.is_first else None
    outputs = Outputs(
        config, record, step.denoising.models, log, step.accelerator, inputs.rows, progress, keeps
    )
    _announce(config, record, stack, ranks, outputs, start, max_train_steps, threads)
    schedule = learning_rate_schedule(config, record.learning_rate, max_train_steps)
    with _stop_on_signals() as stopped, progress:
        done = train(config, step, schedule, start, max_train_steps, outputs, progress, stopped)
    if keeps:
        prune(config.output_dir, config.checkpoints_total_limit)
    if ranks.is_first:
        _finish(config, outputs, step.concept.rows, done, max_train_steps)
    for tracker in step.accelerator.trackers:
        tracker.finish()
    barrier(ranks)
    return 0 if done >= max_train_steps else 128 + (stopped.signal or signal.SIGTERM)


def _printer(ranks: Ranks) -> Callable[[str], None]:
    def say(text: str) -> None:
        if ranks.is_first:
            print(text, file=sys.stderr, flush=True)

    return say


def _headlines(
    config: TextualInversionConfig, stack: Stack, ranks: Ranks, threads: int, asked: bool
) -> list[str]:
    cpu = this_cpu()
    versions = ", ".join(f"{name} {version}" for name, version in stack.versions.items())
    count = f"{ranks.size} ranks ({ranks.launcher}, {ranks.backend})" if ranks.backend else "1 rank"
    lines = [
        f"stack {stack.name} ({versions}); {count}, {threads} threads each"
        f"{' (OMP_NUM_THREADS)' if asked else ''}",
        f"CPU {cpu.model}: {', '.join(cpu.flags) or 'no vector extensions reported'}",
    ]
    if config.model_name != config.pretrained_model_name_or_path:
        lines.append(
            f"{config.pretrained_model_name_or_path} is gone from the hub: "
            f"using its maintained copy {config.model_name}"
        )
    return lines


def _check_tracker(config: TextualInversionConfig) -> None:
    """accelerate says nothing of a tracker that is not installed."""
    package = config.report_to
    if package not in ("all", "none") and importlib.util.find_spec(package) is None:
        raise UserError(
            f"report_to {package}: the package is not installed in this environment. "
            f"Install it, or use --report_to tensorboard or none."
        )


def assemble(
    config: TextualInversionConfig,
    stack: Stack,
    ranks: Ranks,
    inputs: Inputs,
    record: RunRecord,
    say: Callable[[str], None],
) -> TrainingStep:
    """The training step: frozen models, the concept over them, data, optimizer."""
    dtype = DTYPES[record.dtype]
    table = inputs.models.text_encoder.get_input_embeddings().weight.detach().clone()
    models = frozen.prepare(inputs.models, record.frozen, stack, dtype)
    embedding = concept.install(models.text_encoder, table, inputs.rows, inputs.token_ids)
    posteriors = read_posteriors(config, inputs.pictures, models.vae, dtype, ranks, say)
    if config.gradient_checkpointing:
        models.unet.enable_gradient_checkpointing()
        models.unet.train()
    prompts = prompts_for(config.learnable_property, config.placeholder_tokens)
    channels, height, width = posteriors.shape[-3:]
    draws = Draws(
        seed=record.seed,
        global_batch=record.global_batch,
        pictures=len(inputs.pictures),
        prompts=len(prompts),
        num_train_timesteps=models.noise_scheduler.config.num_train_timesteps,
        latent_shape=(channels, height, width),
        one_pass=one_pass(inputs.pictures),
    )
    mine = share(record.global_batch, ranks.rank, ranks.size)
    accelerator = Accelerator(
        cpu=True,
        gradient_accumulation_steps=max(1, len(chunks(mine, config.train_batch_size))),
        log_with=None if config.report_to == "none" else config.report_to,
        project_dir=str(config.output_dir / config.logging_dir),
    )
    optimizer = torch.optim.AdamW(
        [embedding.rows],
        lr=record.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        weight_decay=config.adam_weight_decay,
        eps=config.adam_epsilon,
    )
    return TrainingStep(
        Denoising(models, posteriors, tokenize(models.tokenizer, prompts), dtype),
        embedding,
        optimizer,
        draws,
        ranks,
        accelerator,
        config.train_batch_size,
        config.max_grad_norm,
    )


def _restore(step: TrainingStep, state: State | None) -> int:
    if state is None:
        return 0
    restore(state, step.concept.rows, step.optimizer)
    return state.step


def _max_train_steps(config: TextualInversionConfig, record: RunRecord, inputs: Inputs) -> int:
    if config.max_train_steps is not None:
        return config.max_train_steps
    per_epoch = math.ceil(epoch_length(inputs.pictures, config.repeats) / record.global_batch)
    return config.num_train_epochs * per_epoch


def _announce(
    config: TextualInversionConfig,
    record: RunRecord,
    stack: Stack,
    ranks: Ranks,
    outputs: Outputs,
    start: int,
    max_train_steps: int,
    threads: int,
) -> None:
    """The start event, the trackers, and what a resumed schedule does."""
    if outputs.log is None:
        return
    outputs.log.write(
        "start",
        step=start,
        max_train_steps=max_train_steps,
        ranks=ranks.size,
        global_batch=record.global_batch,
        backend=ranks.backend,
        stack=stack.name,
        versions=stack.versions,
        cpu=this_cpu().model,
        dtype=record.dtype,
        frozen=record.frozen,
        threads=threads,
    )
    if ranks.notice:
        outputs.notice(ranks.notice)
    if config.report_to != "none":
        values = config.model_dump(mode="json")
        simple = {k: v if isinstance(v, int | float) else str(v) for k, v in values.items()}
        outputs.accelerator.init_trackers("textual_inversion", simple)
    if start > 0 and config.lr_scheduler in DECAYING:
        outputs.notice(
            f"the {config.lr_scheduler} schedule is restated: it ends at step {max_train_steps}"
        )
    if start >= max_train_steps:
        outputs.notice(
            f"step {start} is the end already: raise --max_train_steps to go on with this run"
        )


@contextlib.contextmanager
def _stop_on_signals() -> Iterator[Stopped]:
    """SIGINT and SIGTERM ask the loop to end with a checkpoint; a second one ends at once."""
    stopped = Stopped()

    def ask(number: int, frame: object) -> None:
        if stopped.signal is not None:
            sys.exit(128 + number)
        stopped.signal = number

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _finish(
    config: TextualInversionConfig,
    outputs: Outputs,
    rows: torch.Tensor,
    done: int,
    max_train_steps: int,
) -> None:
    """The outputs of a run that has ended, or a word on one that was asked to stop."""
    assert outputs.log is not None
    if done < max_train_steps:
        outputs.log.write("stopped", step=done)
        outputs.progress.note(
            f"stopped at step {done} with a checkpoint; go on with --resume_from_checkpoint latest"
        )
        return
    paths: list[Path] = outputs.final(rows)
    if config.save_as_full_pipeline:
        outputs.progress.note("saving the whole pipeline")
        save_full_pipeline(config, load_embeds(paths[0]))
        paths.append(config.output_dir / "model_index.json")
    outputs.log.write("done", step=done, paths=[path.name for path in paths])
    paths.append(write_report(config.output_dir))
    for path in paths:
        outputs.progress.note(f"wrote {path}")
    if config.push_to_hub:
        publish(config, outputs.progress.note)
