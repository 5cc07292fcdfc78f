"""The training that tests run: six steps on a tiny model, a second or two."""

from __future__ import annotations

from pathlib import Path

from training.machine.cpu import this_cpu

PRECISIONS = ("no", "bf16") if this_cpu().computes_bf16 else ("no",)
"""Values of `mixed_precision` that this processor computes in."""


def short_run(
    model: Path, pictures: Path, latents: Path, output: Path, **changes: object
) -> list[str]:
    """Its command line; keyword arguments add and replace, None leaves out."""
    values: dict[str, object] = {
        "pretrained_model_name_or_path": model,
        "train_data_dir": pictures,
        "placeholder_token": "<new>",
        "initializer_token": "toy",
        "resolution": 32,
        "train_batch_size": 1,
        "max_train_steps": 6,
        "learning_rate": 1e-2,
        "lr_warmup_steps": 0,
        "seed": 3,
        "checkpointing_steps": 2,
        "num_evaluation_samples": 2,
        "report_to": "none",
        "mixed_precision": "no",
        "stack": "upstream",
        "latents_cache_dir": latents,
        "output_dir": output,
        **changes,
    }
    return [f"--{key}={value}" for key, value in values.items() if value is not None]
