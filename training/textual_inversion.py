"""Textual inversion on CPUs: `python -m training.textual_inversion --help`.

Takes the flags of diffusers' `textual_inversion.py`, runs alone, under `accelerate launch`,
`torchrun` or `mpirun`, and writes what that script writes, where it writes it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import secrets
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import diffusers
import torch
import transformers
from accelerate import Accelerator

from training import concept, frozen, run_directory
from training.checkpoint import State, find_checkpoint
from training.command_line import parse
from training.config import TextualInversionConfig
from training.cpu import Cpu, this_cpu, threads_per_rank
from training.draws import Draws, chunks, share
from training.embeds import load_embeds
from training.errors import SharedError, UserError
from training.events import EventLog
from training.images import Picture, find_pictures
from training.latents import LatentCache, encode_missing, read_all
from training.learning_rate import DECAYING, learning_rate_schedule
from training.loop import Stopped, restore, train
from training.models import Models, add_placeholder, load_models, tokenize, weights_digest
from training.outputs import Outputs
from training.pipeline import publish, save_full_pipeline
from training.progress import StepProgress
from training.prompts import prompts_for
from training.ranks import Ranks, barrier, broadcast_text, joined, read_environment, together
from training.report import write_report
from training.run_directory import RunRecord
from training.stack import Stack, resolve_dtype, resolve_stack
from training.step import Denoising, TrainingStep

PROGRAM = "python -m training.textual_inversion"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (0, 2 for a user's error, 128 + signal)."""
    _quiet_libraries()
    first = read_environment(os.environ).rank == 0
    try:
        config, notices = parse(
            TextualInversionConfig, argv, PROGRAM, __doc__.split("\n\n")[1] if __doc__ else ""
        )
        return run(config, notices)
    except SharedError as error:
        if first:
            _complain(str(error))
    except UserError as error:
        # Before the ranks have met every one of them finds the same error in the flags.
        if first or torch.distributed.is_initialized():
            _complain(str(error))
    return 2


def _quiet_libraries() -> None:
    """Leave the terminal to this program: the libraries' warnings are about other programs."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    for library in (transformers.utils.logging, diffusers.utils.logging):
        library.set_verbosity_error()
        library.disable_progress_bar()


def _complain(text: str) -> None:
    print(f"error: {text}", file=sys.stderr, flush=True)


def run(config: TextualInversionConfig, notices: Sequence[str] = ()) -> int:
    """Train as `config` says, on all the ranks that the launcher started.

    Returns:
        0, or 128 + the signal that stopped the run (with a checkpoint).

    Raises:
        UserError: bad input, found on any rank.
    """
    stack = resolve_stack(config.stack)
    with joined(stack.backend, config.ddp_timeout, os.environ) as ranks, _run_folder(config, ranks):
        try:
            return _run_on(config, stack, ranks, notices)
        except UserError as error:
            if ranks.is_first and run_directory.holds_a_run(config.output_dir):
                with contextlib.suppress(UserError):
                    EventLog(config.output_dir).write("error", text=str(error))
            raise


@contextlib.contextmanager
def _run_folder(config: TextualInversionConfig, ranks: Ranks) -> Iterator[None]:
    """The first rank holds the run folder; if it cannot, no rank goes on."""
    with contextlib.ExitStack() as stack:
        together(
            ranks,
            lambda: (
                stack.enter_context(run_directory.locked(config.output_dir))
                if ranks.is_first
                else None
            ),
        )
        yield


@dataclass
class Inputs:
    """What is read before training, the same on every rank."""

    models: Models
    pictures: list[Picture]
    rows: torch.Tensor
    token_ids: list[int]
    content: dict[str, str]


def _read_inputs(config: TextualInversionConfig, notify: Callable[[str], None]) -> Inputs:
    pictures = find_pictures(config.train_data_dir, config.skip_broken_images, notify)
    models = load_models(config)
    rows, token_ids = add_placeholder(config, models)
    parts = (models.text_encoder, models.vae, models.unet)
    content = {
        "model": _digest([weights_digest(part) for part in parts]),
        "pictures": _digest([picture.digest for picture in pictures]),
        "rows": _digest(rows.tolist()),
    }
    return Inputs(models, pictures, rows, token_ids, content)


def _digest(values: object) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def _run_on(
    config: TextualInversionConfig, stack: Stack, ranks: Ranks, notices: Sequence[str]
) -> int:
    say = _printer(ranks)
    cpu = this_cpu()
    threads = threads_per_rank(cpu, ranks.local_size)
    torch.set_num_threads(threads)
    for line in (*_headlines(config, stack, ranks, cpu, threads), *notices):
        say(line)
    resuming = config.resume_from_checkpoint is not None and together(
        ranks, lambda: _resuming(config, ranks)
    )
    say("loading the model and the pictures")
    inputs = together(ranks, lambda: _read_inputs(config, say if ranks.is_first else _silent))
    record, state = _record(config, stack, ranks, inputs, resuming, cpu, say)
    dtype = DTYPES[record.dtype]
    models = frozen.prepare(inputs.models, record.frozen, stack, dtype)
    table = models.text_encoder.get_input_embeddings().weight.detach().float()
    embedding = concept.install(models.text_encoder, table, inputs.rows, inputs.token_ids)
    if config.gradient_checkpointing:
        models.unet.enable_gradient_checkpointing()
        models.unet.train()
    posteriors = _posteriors(config, inputs, models, dtype, ranks, say)

    prompts = prompts_for(config.learnable_property, config.placeholder_tokens)
    draws = Draws(
        seed=record.seed,
        global_batch=record.global_batch,
        pictures=len(inputs.pictures),
        prompts=len(prompts),
        num_train_timesteps=models.noise_scheduler.config.num_train_timesteps,
        latent_shape=tuple(posteriors.shape[-3:]),
    )
    max_train_steps = _max_train_steps(config, record, len(inputs.pictures))
    mine = share(record.global_batch, ranks.rank, ranks.size)
    accelerator = Accelerator(
        cpu=True,
        gradient_accumulation_steps=max(1, len(chunks(mine, config.train_batch_size))),
        log_with=None if config.report_to == "none" else config.report_to,
        project_dir=str(config.output_dir / config.logging_dir),
    )
    torch.set_num_threads(threads)  # accelerate sets its own count
    optimizer = torch.optim.AdamW(
        [embedding.rows],
        lr=record.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        weight_decay=config.adam_weight_decay,
        eps=config.adam_epsilon,
    )
    start = 0
    if state is not None:
        restore(state, embedding.rows, optimizer)
        start = state.step
    step = TrainingStep(
        Denoising(models, posteriors, tokenize(models.tokenizer, prompts), dtype),
        embedding,
        optimizer,
        draws,
        ranks,
        accelerator,
        config.train_batch_size,
        config.max_grad_norm,
    )
    progress = StepProgress("training", max_train_steps, start, shown=ranks.is_first)
    log = EventLog(config.output_dir) if ranks.is_first else None
    outputs = Outputs(config, record, models, log, accelerator, inputs.rows, progress)
    if log:
        log.write(
            "start", step=start, max_train_steps=max_train_steps, ranks=ranks.size,
            global_batch=record.global_batch, backend=ranks.backend, stack=stack.name,
            versions=stack.versions, cpu=cpu.model, dtype=record.dtype, frozen=record.frozen,
            threads=threads, prompts=config.validation_prompt or [],
        )  # fmt: skip
        if config.report_to != "none":
            accelerator.init_trackers("textual_inversion", _loggable(config))
    _notice_schedule(config, outputs, start, max_train_steps)
    schedule = learning_rate_schedule(config, record.learning_rate, max_train_steps)
    with _stop_on_signals() as stopped, progress:
        done = train(
            config, step, draws, schedule, start, max_train_steps, outputs, progress, stopped
        )
    barrier(ranks)
    if ranks.is_first:
        _finish(config, outputs, embedding, inputs.token_ids, done, max_train_steps)
    accelerator.end_training()
    barrier(ranks)
    return 0 if stopped.signal is None or done == max_train_steps else 128 + stopped.signal


def _printer(ranks: Ranks) -> Callable[[str], None]:
    def say(text: str) -> None:
        if ranks.is_first:
            print(text, file=sys.stderr, flush=True)

    return say


def _silent(text: str) -> None:
    """Says nothing: another rank has said it."""


def _headlines(
    config: TextualInversionConfig, stack: Stack, ranks: Ranks, cpu: Cpu, threads: int
) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in stack.versions.items())
    meeting = f"{ranks.size} ranks ({ranks.launcher}, {ranks.backend})" if ranks.backend else (
        "1 rank"
    )
    lines = [
        f"stack {stack.name} ({versions}); {meeting}, {threads} threads each",
        f"CPU {cpu.model}: {', '.join(cpu.flags) or 'no vector extensions reported'}",
    ]
    if config.model_name != config.pretrained_model_name_or_path:
        lines.append(
            f"{config.pretrained_model_name_or_path} is gone from the hub: "
            f"using its maintained copy {config.model_name}"
        )
    return lines


def _resuming(config: TextualInversionConfig, ranks: Ranks) -> bool:
    """Whether the folder holds a run to go on with (read by the first rank's disk alone)."""
    return not ranks.is_first or run_directory.holds_a_run(config.output_dir)


def _record(
    config: TextualInversionConfig,
    stack: Stack,
    ranks: Ranks,
    inputs: Inputs,
    resuming: bool,
    cpu: Cpu,
    say: Callable[[str], None],
) -> tuple[RunRecord, State | None]:
    """The run's fixed facts, new or read by the first rank and told to all; the state to go on at.

    The state goes out as bytes from the first rank: only its disk needs to hold the run.
    """
    folder = config.output_dir

    def on_first() -> tuple[str, str]:
        if not ranks.is_first:
            return "", ""
        if not resuming:
            run_directory.clear_for_new_run(folder, config.overwrite_output_dir)
            if config.resume_from_checkpoint is not None:
                say(f"{folder} holds no run: starting a new one")
            record = _new_record(config, stack, ranks, inputs, cpu)
            run_directory.write_config(folder, config, record)
            return record.model_dump_json(), "null"
        old = run_directory.read_config(folder)
        run_directory.refuse_differences(folder, old, config, inputs.content)
        state = find_checkpoint(folder, config.resume_from_checkpoint or "latest", say)
        if state is None:
            say(f"{folder} has no complete checkpoint: its run starts again from step 0")
        else:
            say(f"going on from checkpoint-{state.step}")
        return old[1].model_dump_json(), json.dumps(_state_as_lists(state))

    record_json, state_json = together(ranks, on_first)
    record = RunRecord.model_validate_json(broadcast_text(record_json, ranks))
    return record, _state_from_lists(json.loads(broadcast_text(state_json, ranks)))


def _new_record(
    config: TextualInversionConfig, stack: Stack, ranks: Ranks, inputs: Inputs, cpu: Cpu
) -> RunRecord:
    global_batch = config.train_batch_size * config.gradient_accumulation_steps * ranks.size
    dtype = resolve_dtype(config.mixed_precision, cpu)
    factor = 2 ** (len(inputs.models.vae.config.block_out_channels) - 1)
    how = frozen.choose(
        config.frozen, stack, inputs.models, dtype, math.ceil(config.resolution / factor)
    )
    return RunRecord(
        seed=config.seed if config.seed is not None else secrets.randbelow(2**31),
        global_batch=global_batch,
        learning_rate=config.learning_rate * (global_batch if config.scale_lr else 1),
        dtype=str(dtype).removeprefix("torch."),
        frozen=how,
        **inputs.content,
    )


def _state_as_lists(state: State | None) -> object:
    """A float32 is exactly a float64, and JSON keeps those exactly."""
    if state is None:
        return None
    tensors = (state.rows, state.exp_avg, state.exp_avg_sq)
    return [state.step, *(tensor.tolist() for tensor in tensors)]


def _state_from_lists(value: list[object] | None) -> State | None:
    if value is None:
        return None
    step, *tensors = value
    return State(int(str(step)), *(torch.tensor(tensor) for tensor in tensors))


def _posteriors(
    config: TextualInversionConfig,
    inputs: Inputs,
    models: Models,
    dtype: torch.dtype,
    ranks: Ranks,
    say: Callable[[str], None],
) -> torch.Tensor:
    folder = config.latents_cache_dir or config.output_dir / "latents"

    def progress(done: int, of: int) -> None:
        if of:
            say(f"encoding pictures: {done} of {of}")

    def encode() -> LatentCache:
        cache = LatentCache(folder, models.vae, config.resolution, config.center_crop, dtype)
        encode_missing(
            cache, inputs.pictures, models.vae, ranks.local_rank, ranks.local_size, progress
        )
        return cache

    cache = together(ranks, encode)
    return together(ranks, lambda: read_all(cache, inputs.pictures, models.vae))


def _max_train_steps(config: TextualInversionConfig, record: RunRecord, pictures: int) -> int:
    if config.max_train_steps is not None:
        return config.max_train_steps
    per_epoch = math.ceil(pictures * config.repeats / record.global_batch)
    return config.num_train_epochs * per_epoch


def _loggable(config: TextualInversionConfig) -> dict[str, str | int | float | bool]:
    values = config.model_dump(mode="json")
    return {k: v if isinstance(v, (str, int, float, bool)) else str(v) for k, v in values.items()}


def _notice_schedule(
    config: TextualInversionConfig, outputs: Outputs, start: int, max_train_steps: int
) -> None:
    if start == 0 or config.lr_scheduler not in DECAYING:
        return
    outputs.notice(
        f"the {config.lr_scheduler} schedule is restated: it now ends at step {max_train_steps}"
    )


@contextlib.contextmanager
def _stop_on_signals() -> Iterator[Stopped]:
    """SIGINT and SIGTERM ask the loop to end with a checkpoint; a second one ends at once."""
    stopped = Stopped()
    before = {}

    def ask(number: int, frame: object) -> None:
        if stopped.signal is not None:
            sys.exit(128 + number)
        stopped.signal = number

    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.signal(number, ask)
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _finish(
    config: TextualInversionConfig,
    outputs: Outputs,
    embedding: concept.ConceptEmbedding,
    token_ids: list[int],
    done: int,
    max_train_steps: int,
) -> None:
    """The outputs of a run that has ended, or of one that was asked to stop."""
    assert outputs.log is not None
    if done < max_train_steps:
        outputs.log.write("stopped", step=done)
        outputs.progress.note(
            f"stopped at step {done} with a checkpoint; go on with --resume_from_checkpoint latest"
        )
        return
    paths: list[Path] = outputs.final(embedding.rows)
    if config.save_as_full_pipeline:
        outputs.progress.note("saving the whole pipeline")
        save_full_pipeline(config, load_embeds(paths[0]))
    outputs.log.write("done", step=done, paths=[path.name for path in paths])
    paths.append(write_report(config.output_dir))
    for path in paths:
        outputs.progress.note(f"wrote {path}")
    if config.push_to_hub:
        publish(config, outputs.progress.note)


if __name__ == "__main__":
    sys.exit(main())

