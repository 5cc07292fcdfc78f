"""A new run's record, or the record and the checkpoint of the run that is resumed."""

from __future__ import annotations

import secrets
from collections.abc import Callable

import torch

from training.config.run import RunConfig
from training.data.dataset import epoch_length
from training.data.identity import hashed_anew
from training.data.inputs import Inputs
from training.machine.convolution import choice as convolution
from training.machine.cpu import this_cpu
from training.machine.precision import resolve_dtype
from training.machine.stack import Stack
from training.models import frozen
from training.ranks.launcher import Ranks
from training.ranks.process_group import (
    broadcast_tensors,
    broadcast_text,
    every_rank,
    on_all_ranks,
)
from training.storage import compile_cost, run_directory
from training.storage.checkpoint import State, find_checkpoint
from training.storage.kernels import Kernels, choose_kernels
from training.storage.run_directory import RunRecord

Notify = Callable[[str], None]


def start_or_resume(
    inputs: Inputs, stack: Stack, ranks: Ranks, notify: Notify
) -> tuple[RunRecord, State | None]:
    """The run's record and the state to resume from (None: step 0), on every rank.

    The first rank reads them and broadcasts them: only its disk needs to hold the run.

    Raises:
        UserError: the folder's run is of another configuration, or its checkpoint unreadable.
    """
    config, folder = inputs.config, inputs.config.output_dir
    dtype = common_dtype(config.mixed_precision, ranks)
    goes_on = on_all_ranks(ranks, lambda: "yes" if _goes_on_first(config, ranks) else "")
    kernels = Kernels()
    if not broadcast_text(goes_on, ranks):
        kernels = choose_kernels(inputs, dtype, ranks, notify)
    known = _known(inputs, stack, ranks, dtype, kernels)

    def on_first() -> tuple[str, State | None]:
        if not ranks.is_main_process:
            return "", None
        if not _goes_on(config):
            run_directory.clear_for_new_run(folder)
            if config.resume_from_checkpoint is not None:
                notify(f"{folder} holds no run: starting a new one")
            batch = config.global_batch(ranks.size)
            how = _engine(inputs, stack, known, dtype, batch, notify)
            if how == "ipex" and config.convolution == convolution.WINOGRAD:
                notify("--convolution winograd: ipex.optimize packs convolutions for its own")
            record = _new_record(inputs, ranks, dtype, how, kernels)
            run_directory.write_config(folder, config, record)
            return record.model_dump_json(), None
        old = run_directory.read_config(folder)
        content = inputs.content
        if old[1].model != content["model"]:  # what is remembered of files is not to stop a run
            content = {**content, "model": hashed_anew(inputs.models)}
        run_directory.refuse_differences(folder, old, config, content)
        state = find_checkpoint(folder, config.resume_from_checkpoint or "latest", notify)
        if state is None:
            notify(f"{folder} has no complete checkpoint: its run starts again from step 0")
        else:
            notify(f"resuming from checkpoint-{state.step}")
        return old[1].model_dump_json(), state

    record_json, state = on_all_ranks(ranks, on_first)
    record = RunRecord.model_validate_json(broadcast_text(record_json, ranks))
    return record, on_every_rank(state, ranks)


def on_every_rank(state: State | None, ranks: Ranks) -> State | None:
    """The first rank's state, on every rank; None where it has none."""
    step = broadcast_text("" if state is None else str(state.step), ranks)
    if not step or ranks.size == 1:
        return state
    tensors = broadcast_tensors({} if state is None else state.tensors(), ranks)
    return state or State.of(int(step), tensors)


def _goes_on_first(config: RunConfig, ranks: Ranks) -> bool:
    return ranks.is_main_process and _goes_on(config)


def _goes_on(config: RunConfig) -> bool:
    asked = config.resume_from_checkpoint is not None
    return asked and run_directory.holds_a_run(config.output_dir)


def loading_dtype(config: RunConfig, stack: Stack, ranks: Ranks) -> torch.dtype:
    """What VAE and UNet are read in: in a run that is resumed, as when it started.

    Raises:
        UserError: the folder's run has no readable record.
    """
    dtype = common_dtype(config.mixed_precision, ranks)

    def on_first() -> str:
        if not ranks.is_main_process:
            return ""
        if _goes_on(config):
            return run_directory.read_config(config.output_dir)[1].loaded_as
        return _name(frozen.loading_dtype(config.frozen, stack, dtype))

    name = broadcast_text(on_all_ranks(ranks, on_first), ranks)
    return torch.bfloat16 if name == _name(torch.bfloat16) else torch.float32


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def common_dtype(mixed_precision: str, ranks: Ranks) -> torch.dtype:
    """bf16 where it suits every rank's processor: the slowest sets the pace."""
    found = every_rank(_name(resolve_dtype(mixed_precision, this_cpu())), ranks)
    return torch.bfloat16 if set(found) == {_name(torch.bfloat16)} else torch.float32


def _known(
    inputs: Inputs, stack: Stack, ranks: Ranks, dtype: torch.dtype, kernels: Kernels
) -> list[str]:
    """What each rank's machine knows of compiling such a run; "" where it is not asked for."""
    asked = inputs.config.frozen == "auto" and stack.optimize is None
    place = compile_cost.place(inputs, ranks, dtype, kernels) if asked else None
    return every_rank(compile_cost.knowledge(place), ranks)


def _engine(
    inputs: Inputs, stack: Stack, known: list[str], dtype: torch.dtype, batch: int, notify: Notify
) -> str:
    """How the frozen parts are prepared, decided for the whole of a new run.

    Args:
        known: `_known`.
        batch: samples per optimizer step, over all ranks.
    """
    config = inputs.config
    epoch = epoch_length(inputs.pictures, config.repeats)
    found = compile_cost.sum_of(known, config.optimization.total_steps(epoch, batch))
    if found is None:
        return frozen.choose(config.frozen, stack, inputs.models, dtype, inputs.latent_side)
    notify(str(found))
    return "compiled" if found.repays else "native"


def _new_record(
    inputs: Inputs, ranks: Ranks, dtype: torch.dtype, how: str, kernels: Kernels
) -> RunRecord:
    config = inputs.config
    return RunRecord(
        seed=config.seed if config.seed is not None else secrets.randbelow(2**31),
        global_batch=config.global_batch(ranks.size),
        learning_rate=config.base_learning_rate(ranks.size),
        dtype=_name(dtype),
        loaded_as=_name(inputs.loaded_as),
        frozen=how,
        attention=kernels.attention,
        # ipex.optimize packs the weights of convolutions for its own.
        convolution=kernels.convolution if how != "ipex" else Kernels.convolution,
        method=config.method,
        **inputs.content,
    )
