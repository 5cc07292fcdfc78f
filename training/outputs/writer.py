"""What a run leaves behind while it trains, written by the first rank.

Checkpoints and their rows are written once more on every machine whose disk is its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from training.config.textual_inversion import TextualInversionConfig
from training.inference.samples import build_pipeline, draw, save_picture
from training.models.embeds import SUFFIXES, save_a1111, save_embeds
from training.models.loading import Models
from training.outputs.progress import StepProgress
from training.storage.checkpoint import State, save_checkpoint
from training.storage.events import EventLog
from training.storage.run_directory import RunRecord

SAMPLES = "samples"


@dataclass
class Outputs:
    """Writes steps, checkpoints, rows and samples of a run; other ranks only keep checkpoints.

    Attributes:
        log: None on every rank but the first.
        rows_at_start: [vectors, width], to measure how far the rows have moved.
        keeps: whether this rank writes checkpoints to the disk that it sees.
    """

    config: TextualInversionConfig
    record: RunRecord
    models: Models
    log: EventLog | None
    accelerator: Accelerator
    rows_at_start: torch.Tensor
    progress: StepProgress
    keeps: bool
    _pipeline: Any = None

    def notice(self, text: str) -> None:
        """Tell the person, and note it in the events."""
        if self.log:
            self.progress.note(text)
            self.log.write("notice", text=text)

    def step(self, done: int, loss: float, rate: float, images_per_second: float) -> None:
        """Note a finished optimizer step."""
        if self.log:
            self.log.write(
                "step", step=done, loss=loss, lr=rate,
                images_per_second=round(images_per_second, 4),
            )  # fmt: skip
            self.accelerator.log({"loss": loss, "lr": rate}, step=done)

    def evaluation(self, done: int, loss: float, rows: torch.Tensor) -> None:
        """Note the loss on the fixed samples, and how far the rows are from where they began."""
        if self.log:
            moved = (rows.detach() - self.rows_at_start).norm() / self.rows_at_start.norm()
            self.log.write("evaluation", step=done, loss=loss, moved=float(moved))
            self.accelerator.log({"evaluation_loss": loss, "rows_moved": float(moved)}, step=done)

    def embeds(self, done: int, rows: torch.Tensor) -> None:
        """Write learned_embeds-steps-<done>, kept for good."""
        if self.keeps:
            self._save_rows(f"learned_embeds-steps-{done}", rows)

    def _save_rows(self, name: str, rows: torch.Tensor) -> Path:
        """Write rows in the format that was asked for.

        The same file in the other format, left by an earlier part of the run, goes: it would be
        taken for this one.
        """
        kind, other = SUFFIXES if not self.config.no_safe_serialization else SUFFIXES[::-1]
        path = self.config.output_dir / f"{name}{kind}"
        save_embeds(path, self.config.placeholder_token, rows)
        path.with_suffix(other).unlink(missing_ok=True)
        return path

    def checkpoint(self, state: State) -> None:
        """Write checkpoint-<step>, and its rows, which stay when old checkpoints go."""
        if not self.keeps:
            return
        self.embeds(state.step, state.rows)
        path = save_checkpoint(
            self.config.output_dir, state, self.record, self.config.checkpoints_total_limit
        )
        if self.log:
            self.log.write("checkpoint", step=state.step, path=path.name)

    def samples(self, done: int, rows: torch.Tensor) -> None:
        """Draw every validation prompt with the same seeds as ever, and keep the rows drawn."""
        prompts = self.config.validation_prompt
        if self.log is None or not prompts:
            return
        if done:
            self.embeds(done, rows)
        if self._pipeline is None:
            self._pipeline = build_pipeline(self.models)
        config = self.config
        seeds = [self.record.seed + i for i in range(config.num_validation_images)]
        for number, prompt in enumerate(prompts):
            pictures = draw(
                self._pipeline,
                prompt,
                seeds,
                config.resolution,
                config.num_inference_steps,
                config.guidance_scale,
                lambda i, n: self.progress.step(done, f"drawing picture {i + 1} of {n}"),
            )
            for seed, picture in zip(seeds, pictures, strict=True):
                name = f"step-{done:06d}/prompt-{number}-seed-{seed}.png"
                save_picture(config.output_dir / SAMPLES / name, picture)
                self.log.write(
                    "sample", step=done, prompt=prompt, seed=seed, path=f"{SAMPLES}/{name}"
                )
            self._to_tensorboard(done, prompt, pictures)

    def _to_tensorboard(self, done: int, prompt: str, pictures: list[Any]) -> None:
        import numpy as np

        for tracker in self.accelerator.trackers:
            if tracker.name == "tensorboard":
                images = np.stack([np.asarray(picture) for picture in pictures])
                tracker.writer.add_images(prompt, images, done, dataformats="NHWC")

    def final(self, rows: torch.Tensor) -> list[Path]:
        """Write learned_embeds, in A1111's form too if asked for; returns the paths."""
        if self.log is None:
            return []
        paths = [self._save_rows("learned_embeds", rows)]
        if self.config.embeds_format == "a1111":
            paths.append(save_a1111(self.config.output_dir, self.config.placeholder_token, rows))
        return paths
