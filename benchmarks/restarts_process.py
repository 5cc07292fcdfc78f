"""Resumed processes of `benchmarks.restarts`: each prints what its next steps come to.

    python -m benchmarks.restarts_process RUN_FOLDER STEPS --count 10 [--without-the-cure]

Importing takes ten times as long as the steps, so processes are forked from one that has imported
everything and computed nothing: of MKL, OpenMP and oneDNN each has to set up its own. Pictures are
encoded afresh, as on a machine that has lost its disk: what the cache holds need not be computed,
and the first exp of many elements is part of that.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import tempfile
from pathlib import Path

import torch

from training.data.inputs import read_inputs
from training.loop.build_step import build_step
from training.loop.step import TrainingStep
from training.loop.train import restore
from training.machine import vector_math
from training.machine.stack import resolve_stack
from training.methods.textual_inversion import TextualInversion
from training.ranks.launcher import read_environment
from training.storage.resume import start_or_resume
from training.storage.run_directory import read_config

THREADS = 2


def quiet(text: str) -> None:
    """Nobody is told."""


def resumed(folder: Path, latents: Path) -> tuple[TrainingStep, int, float]:
    """The training step of the run in `folder`, as `training.run` builds it.

    Returns:
        The step, at the newest checkpoint; how many steps are done; the learning rate.
    """
    config, _ = read_config(folder)
    changes = {"resume_from_checkpoint": "latest", "latents_cache_dir": latents}
    config = config.model_copy(update=changes)
    ranks = read_environment({})
    stack = resolve_stack(config.stack)
    inputs = read_inputs(TextualInversion, config, quiet)
    record, state = start_or_resume(inputs, stack, ranks, quiet)
    if state is None:
        raise SystemExit(f"{folder} holds no checkpoint.")
    step = build_step(inputs, record, stack, ranks, quiet)
    restore(state, step)
    return step, state.step, record.learning_rate


def outcome(step: TrainingStep, done: int, steps: int, learning_rate: float) -> str:
    """Do `steps` steps; returns a digest of their losses, what is trained and AdamW's moments."""
    digest = hashlib.sha256()
    for number in range(done, done + steps):
        loss = step(number, learning_rate, lambda: False).loss
        digest.update(loss.hex().encode())
    for parameter in step.parameters.values():
        moments = step.optimizer.state[parameter]
        for tensor in (parameter.detach(), moments["exp_avg"], moments["exp_avg_sq"]):
            digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def restart(folder: Path, steps: int, cured: bool) -> None:
    """What a process does that goes on with a run; prints the digest."""
    if cured:
        vector_math.resolve_kernels()
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as latents:
        step, done, learning_rate = resumed(folder, Path(latents))
        print(outcome(step, done, steps, learning_rate), flush=True)


def main() -> int:
    """Fork and wait, one process after the other; 1 where one of them fails."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.restarts_process")
    parser.add_argument("folder", type=Path)
    parser.add_argument("steps", type=int)
    parser.add_argument("--stack", default="upstream", help="the run's")
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--without-the-cure", action="store_true")
    chosen = parser.parse_args()
    resolve_stack(chosen.stack)  # which imports IPEX for the intel stack
    for _ in range(chosen.count):
        if (child := os.fork()) == 0:
            restart(chosen.folder, chosen.steps, not chosen.without_the_cure)
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
