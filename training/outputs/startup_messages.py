"""What a run says before it trains: stack, ranks, processor, sizes."""

from __future__ import annotations

from training.config.groups import DataConfig, ModelConfig, OptimizationConfig
from training.machine.cpu import this_cpu
from training.machine.stack import Stack
from training.ranks.launcher import Ranks
from training.ranks.threads import Threads
from training.storage.run_directory import RunRecord


def machine_messages(model: ModelConfig, stack: Stack, ranks: Ranks, threads: Threads) -> list[str]:
    """The software stack, the ranks and the processor; the model's hub name, if it has moved."""
    cpu = this_cpu()
    versions = ", ".join(f"{name} {version}" for name, version in stack.versions.items())
    count = f"{ranks.size} ranks ({ranks.launcher}, {ranks.backend})" if ranks.backend else "1 rank"
    lines = [
        f"stack {stack.name} ({versions}); {count}, {threads.count} threads each"
        f"{' (OMP_NUM_THREADS)' if threads.from_environment else ''}",
        f"CPU {cpu.model}: {', '.join(cpu.flags) or 'no vector extensions reported'}",
    ]
    if model.model_name != model.pretrained_model_name_or_path:
        lines.append(
            f"{model.pretrained_model_name_or_path} is gone from the hub: "
            f"using its maintained copy {model.model_name}"
        )
    return lines


def size_message(
    data: DataConfig, optimization: OptimizationConfig, record: RunRecord, native: bool
) -> str:
    """Resolution, global batch and learning rate.

    Args:
        native: whether the resolution is the model's own, as none was given.
    """
    source = ", what the model was made for" if native else ""
    factors = f" ({optimization.learning_rate:g} x {record.global_batch})"
    return (
        f"resolution {data.side}{source}; global batch {record.global_batch}; "
        f"learning rate {record.learning_rate:g}{factors if optimization.scale_lr else ''}"
    )
