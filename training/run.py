"""One training run: configuration -> inputs -> step -> loop -> outputs."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from training.config.run import RunConfig
from training.data.dataset import epoch_length
from training.data.inputs import Inputs, read_inputs
from training.loop.build_step import DTYPES, build_step
from training.loop.learning_rate import learning_rate_schedule, refuse_overflow
from training.loop.step import TrainingStep
from training.loop.stop_signal import caught_stop_signals
from training.loop.train import restore, train
from training.machine import vector_math
from training.machine.allocator import freed_memory_returned
from training.machine.stack import Stack, resolve_stack
from training.method import Method
from training.outputs.hub import ask_for_repository
from training.outputs.progress import StepProgress
from training.outputs.results import write_results
from training.outputs.startup_messages import machine_messages, size_message
from training.outputs.ticking import ticking
from training.outputs.trackers import refuse_missing_tracker
from training.outputs.writer import Outputs
from training.ranks.launcher import Ranks
from training.ranks.process_group import barrier, joined_process_group, on_all_ranks
from training.ranks.threads import set_threads
from training.storage import compile_cost
from training.storage.checkpoint import State, prune
from training.storage.checkpoint_copies import check_folder, locked_run_folders, prepare_copies
from training.storage.events import EventLog, errors_recorded
from training.storage.kernels import used_kernels
from training.storage.resume import loading_dtype, start_or_resume
from training.storage.run_directory import RunRecord


@dataclass(frozen=True)
class Process:
    """This rank: what it computes with, and what it writes.

    Attributes:
        threads: of this rank.
        saves_checkpoints: to the disk that it sees; one rank per disk does.
        repository: on the hub, which has said that it takes the results; "": none is to.
    """

    stack: Stack
    ranks: Ranks
    threads: int
    saves_checkpoints: bool
    repository: str

    def print_rank_0(self, text: str) -> None:
        """Print a line on the first rank alone."""
        if self.ranks.is_main_process:
            print(text, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Run:
    """What is trained from what.

    Attributes:
        inputs: models, pictures and method, and the configuration.
        record: what stays fixed when the run is resumed.
        state: the checkpoint that it is resumed from; None at its beginning.
    """

    inputs: Inputs
    record: RunRecord
    state: State | None


@dataclass(frozen=True)
class Trained:
    """How the loop has ended.

    Attributes:
        global_step, max_train_steps: optimizer steps done in all, and asked for.
        signal: the one that stopped it; None: no signal did.
    """

    outputs: Outputs
    global_step: int
    max_train_steps: int
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
    with _configure(config, notices) as process:
        run = _read(method, config, process)
        with errors_recorded(config.output_dir, process.ranks.is_main_process):
            step = _build(run, process, config.resolution is None)
            trained = _train(run, process, step)
            return _write(run, process, step, trained)


@contextlib.contextmanager
def _configure(config: RunConfig, notices: Sequence[str]) -> Iterator[Process]:
    """Join the other ranks, hold the run folder, and refuse what cannot work."""
    outputs = config.outputs
    stack = resolve_stack(config.stack)
    with (
        joined_process_group(stack.backend, config.ddp_timeout, os.environ, stack.problem) as ranks,
        locked_run_folders(outputs.output_dir, ranks) as saves_checkpoints,
    ):
        threads = set_threads(ranks)
        process = Process(stack, ranks, threads.count, saves_checkpoints, "")
        for line in (*machine_messages(config.model, stack, ranks, threads), *notices):
            process.print_rank_0(line)
        refuse_overflow(config.optimization, config.base_learning_rate(ranks.size))
        check_folder(outputs, ranks, saves_checkpoints)
        on_all_ranks(ranks, lambda: refuse_missing_tracker(config.report_to))
        pushes = outputs.push_to_hub and ranks.is_main_process
        repository = on_all_ranks(ranks, lambda: ask_for_repository(outputs) if pushes else "")
        yield Process(stack, ranks, threads.count, saves_checkpoints, repository)


@freed_memory_returned()
def _read(method: type[Method], config: RunConfig, process: Process) -> Run:
    """Read what the person named, and the run's record and checkpoint, if it is resumed."""
    what = "loading the model and the pictures"
    process.print_rank_0(what)
    dtype = loading_dtype(config, process.stack, process.ranks)
    with ticking(process.print_rank_0, what):
        inputs = on_all_ranks(
            process.ranks, lambda: read_inputs(method, config, process.print_rank_0, dtype)
        )
    optimization, epoch = inputs.config.optimization, _epoch(inputs)
    batch = optimization.global_batch(process.ranks.size)
    inputs.method.refuse_too_few_steps(optimization.total_steps(epoch, batch))
    with ticking(process.print_rank_0, "choosing engine and kernels"):
        record, state = start_or_resume(inputs, process.stack, process.ranks, process.print_rank_0)
    return Run(inputs, record, state)


def _epoch(inputs: Inputs) -> int:
    return epoch_length(inputs.pictures, inputs.config.repeats)


@freed_memory_returned()
def _build(run: Run, process: Process, native_resolution: bool) -> TrainingStep:
    """Assemble the training step, at the state that the run is resumed from."""
    config, record = run.inputs.config, run.record
    prepare_copies(config, record, process.ranks, process.saves_checkpoints)
    process.print_rank_0(size_message(config.data, config.optimization, record, native_resolution))
    with ticking(process.print_rank_0, "preparing the training step"):
        step = build_step(run.inputs, record, process.stack, process.ranks, process.print_rank_0)
    if run.state is not None:
        restore(run.state, step)
    return step


def _train(run: Run, process: Process, step: TrainingStep) -> Trained:
    """Do optimizer steps to the last one, or until a signal stops the loop."""
    inputs, record = run.inputs, run.record
    data, optimization = inputs.config.data, inputs.config.optimization
    saving, validation = inputs.config.outputs, inputs.config.validation
    end = optimization.total_steps(_epoch(inputs), record.global_batch)
    start, first = run.state.step if run.state else 0, process.ranks.is_main_process
    outputs = Outputs(
        saving,
        validation,
        data.side,
        record,
        inputs.models,
        EventLog(saving.output_dir) if first else None,
        step.accelerator,
        inputs.method,
        StepProgress("training", end, start, shown=first),
        process.saves_checkpoints,
        timed=_timed(run, process, step),
    )
    outputs.start(
        start,
        end,
        _engine(run, step),
        process.stack,
        process.ranks,
        process.threads,
        inputs.config.model_dump(mode="json"),
    )
    schedule = learning_rate_schedule(optimization, record.learning_rate, end)
    with caught_stop_signals() as caught, outputs.progress as progress:
        done = train(saving, validation, step, schedule, start, end, outputs, progress, caught)
    return Trained(outputs, done, end, caught.number)


def _timed(run: Run, process: Process, step: TrainingStep) -> Callable[[float], None]:
    """What keeps a step's time, for `--frozen auto` of later runs: one rank per machine does."""
    place, batch = None, run.inputs.config.global_batch(process.ranks.size)
    # A run that other ranks started has other samples per rank than its configuration says.
    as_started = run.record.global_batch == batch and run.record.frozen in compile_cost.ENGINES
    if process.ranks.is_local_main_process and as_started:
        dtype, kernels = DTYPES[run.record.dtype], used_kernels(run.inputs.models.unet)
        place = compile_cost.place(run.inputs, process.ranks, dtype, kernels)
    engine = _engine(run, step)
    return lambda seconds: compile_cost.note(place, **{engine: seconds})


def _engine(run: Run, step: TrainingStep) -> str:
    """How the step is computed: native where the code of a compiled one could not be made."""
    frozen = run.record.frozen
    return "native" if frozen == "compiled" and step.compiled is None else frozen


def _write(run: Run, process: Process, step: TrainingStep, trained: Trained) -> int:
    """Write what has been learned; returns the exit code."""
    config, finished = run.inputs.config, trained.global_step >= trained.max_train_steps
    if process.saves_checkpoints:
        prune(config.output_dir, config.checkpoints_total_limit)
    if process.ranks.is_main_process and finished:
        write_results(
            config, process.repository, trained.outputs, trained.global_step, step.learned
        )
    elif process.ranks.is_main_process:
        trained.outputs.stopped(trained.global_step)
    for tracker in step.accelerator.trackers:
        tracker.finish()
    barrier(process.ranks)
    return 0 if finished else 128 + (trained.signal or signal.SIGTERM)
