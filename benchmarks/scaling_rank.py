"""One rank of `benchmarks.scaling`: does and times training steps of the kind that it is told.

It is started once and told again and again, as loading takes longer than a measurement. The first
rank reads orders, a line of JSON each, from a file that `benchmarks.scaling` appends to, and
appends what it measured to another.

    mpirun -n 2 -ppn 1 python -m benchmarks.scaling_rank FOLDER MODEL PICTURES
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from training.config.textual_inversion import TextualInversionConfig
from training.data.inputs import read_inputs
from training.loop.build_step import build_step
from training.loop.step import TrainingStep
from training.machine import vector_math
from training.machine.stack import resolve_stack
from training.methods.textual_inversion import TextualInversion
from training.ranks.launcher import Ranks
from training.ranks.process_group import (
    all_reduce_sum,
    barrier,
    broadcast_text,
    joined_process_group,
)
from training.storage.resume import start_or_resume

TABLE = (49_408, 768)
"""Stable Diffusion 1.5's embedding table, which the usual script all-reduces (design facts)."""
LOOK_SECONDS = 0.05


def quiet(text: str) -> None:
    """Nobody is told."""


def make_step(folder: Path, model: Path, pictures: Path, ranks: Ranks) -> TrainingStep:
    """The training step as `training.run` builds it, at batch 1 a rank."""
    config = TextualInversionConfig(
        pretrained_model_name_or_path=str(model),
        train_data_dir=pictures,
        placeholder_token="<new>",
        initializer_token="toy",
        resolution=64,
        train_batch_size=1,
        max_train_steps=1,
        seed=7,
        mixed_precision="no",
        frozen="native",
        stack="upstream",
        latents_cache_dir=folder / "latents",
        output_dir=folder / f"run-{ranks.rank}",
    )
    config.output_dir.mkdir(parents=True, exist_ok=True)
    stack = resolve_stack(config.stack)
    inputs = read_inputs(TextualInversion, config, quiet)
    record, _ = start_or_resume(inputs, stack, ranks, quiet)
    return build_step(inputs, record, stack, ranks, quiet)


def orders(file: Path, ranks: Ranks) -> Iterator[dict[str, Any]]:
    """What the first rank reads from the file, on every rank, until it says stop."""
    read = 0
    while True:
        text = ""
        while ranks.is_main_process and not text:
            lines = file.read_text().splitlines() if file.exists() else []
            text = lines[read] if len(lines) > read else ""
            if not text:
                time.sleep(LOOK_SECONDS)
        order = json.loads(broadcast_text(text, ranks))
        read += 1
        if order["kind"] == "stop":
            return
        yield order


def measure(step: TrainingStep, kind: str, count: int, ranks: Ranks) -> list[float]:
    """Seconds of each of `count` steps.

    Args:
        kind: "rows", the step as it is; "alone", without what it sends; "table", with the
            all-reduce that a trainable embedding table of Stable Diffusion 1.5 needs besides;
            "message", what a step of Stable Diffusion 1.5 sends, without the step.
    """
    alone = Ranks(ranks.launcher, 0, 1, 0, 1)
    step.ranks = alone if kind == "alone" else ranks
    table = torch.zeros(TABLE) if kind == "table" else None
    message = torch.zeros(TABLE[1] + 2)
    seconds = []
    barrier(ranks)
    for number in range(count):
        begun = time.perf_counter()
        if kind == "message":
            all_reduce_sum(message, ranks)
        else:
            step(number, 1e-3, lambda: False)
        if table is not None:
            all_reduce_sum(table, ranks)
        seconds.append(time.perf_counter() - begun)
    barrier(ranks)
    return seconds


def main() -> int:
    """Serve orders until told to stop."""
    folder, model, pictures = (Path(word) for word in sys.argv[1:4])
    vector_math.resolve_kernels()
    with joined_process_group("gloo", 600, os.environ) as ranks:
        torch.set_num_threads(1)
        step = make_step(folder, model, pictures, ranks)
        measure(step, "rows", 3, ranks)
        for order in orders(folder / "orders", ranks):
            seconds = measure(step, order["kind"], order["steps"], ranks)
            if ranks.is_main_process:
                with (folder / "measured").open("a") as file:
                    file.write(json.dumps({"id": order["id"], "seconds": seconds}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
