"""One training run, put together: configuration -> inputs -> step -> loop -> outputs."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator

from training.config.run import RunConfig
from training.data.dataset import epoch_length, one_pass
from training.data.draws import Draws, chunks, share
from training.data.inputs import Inputs, read_inputs, read_posteriors
from training.data.samples import EncodedData
from training.errors import UserError, first_line
from training.loop.learning_rate import DECAYING, learning_rate_schedule, refuse_overflow
from training.loop.step import TrainingStep
from training.loop.train import Stopped, restore, train
from training.machine import vector_math
from training.machine.cpu import this_cpu, threads_per_rank
from training.machine.stack import Stack, resolve_stack
from training.method import Method, Values
from training.models import frozen
from training.models.denoising import Denoising
from training.models.loading import tokenize
from training.outputs.hub import ask_for_repository, publish
from training.outputs.pipeline import save_full_pipeline
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


@dataclass(frozen=True)
class Machine:
    """What a run computes on.

    Attributes:
        threads: of this rank.
        keeps: whether this rank keeps the run in the folder that it sees.
        say: tells the person, from the first rank alone.
        repository: on the hub, which has said that it takes the results; "": none is to.
    """

    stack: Stack
    ranks: Ranks
    threads: int
    keeps: bool
    say: Callable[[str], None]
    repository: str


@dataclass(frozen=True)
class Ended:
    """How the loop has ended.

    Attributes:
        done, end: optimizer steps done in all, and asked for.
        signal: the one that asked to stop, if one did.
    """

    outputs: Outputs
    done: int
    end: int
    signal: int | None


def run(method: type[Method], config: RunConfig, notices: Sequence[str] = ()) -> int:
    """Train as `config` says, on all the ranks that the launcher started.

    Args:
        method: what is trained; `config` is of its `config_type`.
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
        machine = _configure(config, stack, ranks, keeps, notices)
        inputs, record, state = _read(method, config, machine)
        follows = config.resolution is None
        config = inputs.config
        with _errors_noted(config.output_dir, ranks):
            keep_a_copy(config, record, ranks, keeps)
            machine.say(_sizes(config, follows, record))
            step = assemble(config, stack, ranks, inputs, record, machine.say)
            ended = _loop(config, machine, inputs, record, step, state)
            return _write(config, machine, step, ended)


@contextlib.contextmanager
def _errors_noted(folder: Path, ranks: Ranks) -> Iterator[None]:
    """Note an error in the run's events: from here on the folder holds the run that was asked for.

    What is refused before has touched no run, and the one in the folder is told nothing of it.
    """
    try:
        yield
    except UserError as error:
        if ranks.is_first and run_directory.holds_a_run(folder):
            with contextlib.suppress(UserError):
                EventLog(folder).write("error", text=str(error))
        raise


def _configure(
    config: RunConfig, stack: Stack, ranks: Ranks, keeps: bool, notices: Sequence[str]
) -> Machine:
    """Set this process up, say what it computes on, and refuse what cannot work."""
    say = _printer(ranks)
    asked = asked_threads(os.environ)
    threads = asked or threads_per_rank(this_cpu(), ranks.local_size)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    torch.set_num_threads(threads)
    for line in (*_headlines(config, stack, ranks, threads, asked is not None), *notices):
        say(line)
    refuse_overflow(config, config.base_learning_rate(ranks.size))
    check_folder(config, ranks, keeps)
    together(ranks, lambda: _check_tracker(config))
    hub = config.push_to_hub and ranks.is_first
    repository = together(ranks, lambda: ask_for_repository(config) if hub else "")
    return Machine(stack, ranks, threads, keeps, say, repository)


def _read(
    method: type[Method], config: RunConfig, machine: Machine
) -> tuple[Inputs, RunRecord, State | None]:
    """What the person named, the run's fixed facts, and the state to go on at."""
    ranks, say = machine.ranks, machine.say
    say("loading the model and the pictures")
    inputs = together(ranks, lambda: read_inputs(method, config, say))
    record, state = fixed_facts(inputs.config, machine.stack, ranks, inputs, say)
    return inputs, record, state


def _begin(
    config: RunConfig,
    machine: Machine,
    inputs: Inputs,
    record: RunRecord,
    step: TrainingStep,
    state: State | None,
) -> tuple[Outputs, int]:
    """Where the run writes, its start told there; and how many steps it is to have."""
    end = _max_train_steps(config, record, inputs)
    if state is not None:
        restore(state, step)
    start, first = state.step if state else 0, machine.ranks.is_first
    outputs = Outputs(
        config,
        config,
        config.side,
        record,
        inputs.models,
        EventLog(config.output_dir) if first else None,
        step.accelerator,
        inputs.method,
        StepProgress("training", end, start, shown=first),
        machine.keeps,
    )
    _announce(config, record, machine, outputs, start, end)
    return outputs, end


def _loop(
    config: RunConfig,
    machine: Machine,
    inputs: Inputs,
    record: RunRecord,
    step: TrainingStep,
    state: State | None,
) -> Ended:
    """Train from `state` to the last step, or until a signal asks to stop."""
    outputs, end = _begin(config, machine, inputs, record, step, state)
    schedule = learning_rate_schedule(config, record.learning_rate, end)
    start = state.step if state else 0
    with _stop_on_signals() as stopped, outputs.progress as progress:
        done = train(config, config, step, schedule, start, end, outputs, progress, stopped)
    return Ended(outputs, done, end, stopped.signal)


def _write(config: RunConfig, machine: Machine, step: TrainingStep, ended: Ended) -> int:
    """Write what has been learned; returns the exit code."""
    if machine.keeps:
        prune(config.output_dir, config.checkpoints_total_limit)
    if machine.ranks.is_first:
        _finish(config, machine.repository, ended, step.parameters)
    for tracker in step.accelerator.trackers:
        tracker.finish()
    barrier(machine.ranks)
    return 0 if ended.done >= ended.end else 128 + (ended.signal or signal.SIGTERM)


def _printer(ranks: Ranks) -> Callable[[str], None]:
    def say(text: str) -> None:
        if ranks.is_first:
            print(text, file=sys.stderr, flush=True)

    return say


def _headlines(
    config: RunConfig, stack: Stack, ranks: Ranks, threads: int, asked: bool
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


def _sizes(config: RunConfig, from_model: bool, record: RunRecord) -> str:
    """The size of the pictures, of a step, and of what it changes."""
    whose = ", what the model was made for" if from_model else ""
    scaled = f" ({config.learning_rate:g} x {record.global_batch})" if config.scale_lr else ""
    return (
        f"resolution {config.side}{whose}; global batch {record.global_batch}; "
        f"learning rate {record.learning_rate:g}{scaled}"
    )


def _check_tracker(config: RunConfig) -> None:
    """accelerate says nothing of a tracker that is not installed."""
    package = config.report_to
    if package not in ("all", "none") and importlib.util.find_spec(package) is None:
        raise UserError(
            f"report_to {package}: the package is not installed in this environment. "
            f"Install it, or use --report_to tensorboard or none."
        )


def assemble(
    config: RunConfig,
    stack: Stack,
    ranks: Ranks,
    inputs: Inputs,
    record: RunRecord,
    say: Callable[[str], None],
) -> TrainingStep:
    """The training step: frozen models, what is trained in them, data, optimizer."""
    dtype = DTYPES[record.dtype]
    models = inputs.models = frozen.prepare(inputs.models, record.frozen, stack, dtype)
    parameters = inputs.method.enter(models)
    posteriors = read_posteriors(
        config.output_dir, config, inputs.pictures, models.vae, dtype, ranks, say
    )
    if config.gradient_checkpointing:
        models.unet.enable_gradient_checkpointing()
        models.unet.train()
    prompts = inputs.method.prompts()
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
        list(parameters.values()),
        lr=record.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        weight_decay=config.adam_weight_decay,
        eps=config.adam_epsilon,
    )
    return TrainingStep(
        partial(inputs.method.losses, Denoising(models, dtype, parameters)),
        parameters,
        optimizer,
        EncodedData(posteriors, tokenize(models.tokenizer, prompts)),
        draws,
        ranks,
        accelerator,
        config.train_batch_size,
        config.max_grad_norm,
    )


def _max_train_steps(config: RunConfig, record: RunRecord, inputs: Inputs) -> int:
    if config.max_train_steps is not None:
        return config.max_train_steps
    per_epoch = math.ceil(epoch_length(inputs.pictures, config.repeats) / record.global_batch)
    return config.num_train_epochs * per_epoch


def _announce(
    config: RunConfig,
    record: RunRecord,
    machine: Machine,
    outputs: Outputs,
    start: int,
    max_train_steps: int,
) -> None:
    """The start event, the trackers, and what a resumed schedule does."""
    if outputs.log is None:
        return
    stack, ranks = machine.stack, machine.ranks
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
        threads=machine.threads,
    )
    if ranks.notice:
        outputs.notice(ranks.notice)
    if config.report_to != "none":
        values = config.model_dump(mode="json")
        simple = {k: v if isinstance(v, int | float) else str(v) for k, v in values.items()}
        try:
            outputs.accelerator.init_trackers(config.method, simple)
        except Exception as error:  # the tools raise what they like where nobody is logged in
            raise UserError(
                f"report_to {config.report_to}: cannot be started ({first_line(error)}). "
                "Log in to it, or use --report_to tensorboard or none."
            ) from error
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


def _finish(config: RunConfig, repository: str, ended: Ended, values: Values) -> None:
    """The outputs of a run that has ended, or a word on one that was asked to stop."""
    outputs = ended.outputs
    assert outputs.log is not None
    if ended.done < ended.end:
        outputs.log.write("stopped", step=ended.done)
        outputs.progress.note(
            f"stopped at step {ended.done} with a checkpoint; "
            "go on with --resume_from_checkpoint latest"
        )
        return
    paths: list[Path] = outputs.final(values)
    if config.save_as_full_pipeline or config.push_to_hub:  # as diffusers' script
        outputs.progress.note("saving the whole pipeline")
        save_full_pipeline(config.output_dir, config, outputs.method.learned_models(values))
        paths.append(config.output_dir / "model_index.json")
    outputs.log.write("done", step=ended.done, paths=[path.name for path in paths])
    paths.append(write_report(config.output_dir))
    for path in paths:
        outputs.progress.note(f"wrote {path}")
    if config.push_to_hub:
        publish(config, repository, outputs.progress.note)
