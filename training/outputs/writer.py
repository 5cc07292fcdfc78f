"""What a run leaves behind while it trains, written by the first rank.

Checkpoints and what they learned are written once more on every machine whose disk is its own.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from PIL import Image

from training.config.groups import DECAYING, OutputsConfig, ValidationConfig
from training.inference.samples import build_pipeline, draw, save_picture
from training.machine.cpu import this_cpu
from training.machine.stack import Stack
from training.method import Method, Values
from training.models.loading import Models
from training.outputs.progress import StepProgress
from training.outputs.trackers import log_pictures, start_trackers
from training.ranks.launcher import Ranks
from training.storage.checkpoint import State, save_checkpoint
from training.storage.events import EventLog
from training.storage.kernels import used_kernels
from training.storage.run_directory import RunRecord

TIMED_STEPS = 3
"""The first of them, which sets kernels up, does not count."""


def sample_name(step: int, prompt: int, seed: int, weight: float | None = None) -> str:
    """Where in the run folder a validation picture is.

    Args:
        prompt: its number.
        weight: how much of what was learned it is drawn with; None: all.
    """
    part = "" if weight is None else f"-weight-{weight:g}"
    return f"samples/step-{step:06d}/prompt-{prompt}-seed-{seed}{part}.png"


@dataclass
class Outputs:
    """Writes what comes of a run; ranks other than the first only keep checkpoints.

    Attributes:
        resolution: side of the samples, in pixels.
        log: None on every rank but the first.
        method: writes what has been learned, and knows how far it has moved.
        saves_checkpoints: whether this rank writes checkpoints to the disk that it sees.
        timed: told once what a step takes, in seconds, after a few of them.
    """

    saving: OutputsConfig
    validation: ValidationConfig
    resolution: int
    record: RunRecord
    models: Models
    log: EventLog | None
    accelerator: Accelerator
    method: Method
    progress: StepProgress
    saves_checkpoints: bool
    timed: Callable[[float], None] = lambda seconds: None
    _pipeline: Any = None
    _seconds: list[float] = field(default_factory=list)

    def notice(self, text: str) -> None:
        """Tell the person, and note it in the events."""
        if self.log:
            self.progress.note(text)
            self.log.write("notice", text=text)

    def start(
        self,
        step: int,
        max_train_steps: int,
        frozen: str,
        stack: Stack,
        ranks: Ranks,
        threads: int,
        hyperparameters: dict[str, Any],
    ) -> None:
        """Write the start event, start the trackers, and say what resuming changes.

        Args:
            frozen: the engine that computes. It and the kernels may not be the record's: this
                machine may lack what the run started with.

        Raises:
            UserError: a tracker cannot be started.
        """
        if self.log is None:
            return
        self.log.write(
            "start",
            step=step,
            max_train_steps=max_train_steps,
            ranks=ranks.size,
            global_batch=self.record.global_batch,
            backend=ranks.backend,
            stack=stack.name,
            versions=stack.versions,
            cpu=this_cpu().model,
            dtype=self.record.dtype,
            frozen=frozen,
            **asdict(used_kernels(self.models.unet)),
            threads=threads,
        )
        if ranks.notice:
            self.notice(ranks.notice)
        report_to = self.validation.report_to
        if report_to != "none":
            start_trackers(self.accelerator, report_to, self.record.method, hyperparameters)
        scheduler = hyperparameters["lr_scheduler"]
        if step > 0 and scheduler in DECAYING:
            self.notice(
                f"the {scheduler} schedule is recomputed: it ends at step {max_train_steps}"
            )
        if step >= max_train_steps:
            self.notice(
                f"step {step} is the last one already: raise --max_train_steps to continue this run"
            )

    def stopped(self, step: int) -> None:
        """Note that a signal has stopped the run, with a checkpoint."""
        if self.log:
            self.log.write("stopped", step=step)
            self.progress.note(
                f"stopped at step {step} with a checkpoint; "
                "continue with --resume_from_checkpoint latest"
            )

    def write_done(self, step: int, paths: list[Path]) -> None:
        """Note that the run has ended, and what it has written."""
        if self.log:
            self.log.write("done", step=step, paths=[path.name for path in paths])

    def step(self, done: int, loss: float, rate: float, images_per_second: float) -> None:
        """Note a finished optimizer step."""
        if len(self._seconds) < TIMED_STEPS:
            self._seconds.append(self.record.global_batch / images_per_second)
            if len(self._seconds) == TIMED_STEPS:
                self.timed(statistics.median(self._seconds[1:]))
        if self.log:
            self.log.write(
                "step", step=done, loss=loss, lr=rate,
                images_per_second=round(images_per_second, 4),
            )  # fmt: skip

    def track(self, done: int, loss: float, rate: float) -> None:
        """Tell the trackers of an optimizer step; they (wandb) take no step before the last one."""
        if self.log:
            self.accelerator.log({"loss": loss, "lr": rate}, step=done)

    def evaluation(self, done: int, loss: float, values: Values) -> None:
        """Note the loss on the fixed samples, and how far what is trained is from its start."""
        if self.log:
            moved = self.method.moved(values)
            self.log.write("evaluation", step=done, loss=loss, moved=moved)
            self.accelerator.log({"evaluation_loss": loss, "rows_moved": moved}, step=done)

    def learned(self, done: int, values: Values) -> None:
        """Write what has been learned by step `done`, kept for good."""
        if self.saves_checkpoints:
            self.method.write_step(self.saving.output_dir, done, values)

    def checkpoint(self, state: State) -> None:
        """Write checkpoint-<step>, and what it has learned, which stays when old checkpoints go."""
        if not self.saves_checkpoints:
            return
        self.learned(state.step, state.learned)
        path = save_checkpoint(
            self.saving.output_dir, state, self.record, self.saving.checkpoints_total_limit
        )
        if self.log:
            self.log.write("checkpoint", step=state.step, path=path.name)

    def samples(self, done: int, values: Values) -> None:
        """Draw every validation prompt with the same seeds as ever; keep what draws them."""
        prompts = self.validation.validation_prompt
        if self.log is None or not prompts:
            return
        if done:
            self.learned(done, values)
        drawn: list[tuple[str, Image.Image]] = []
        for number, prompt, seed, picture in self._draw(done, prompts):
            name = sample_name(done, number, seed)
            save_picture(self.saving.output_dir / name, picture)
            self.log.write("sample", step=done, prompt=prompt, seed=seed, path=name)
            drawn.append((prompt, picture))
        log_pictures(self.accelerator.trackers, done, drawn)

    def partial_samples(self, done: int) -> None:
        """Draw the validation prompts with parts of what was learned, for the comparison."""
        prompts = self.validation.validation_prompt
        if self.log is None or not prompts:
            return
        for weight in self.method.partial_weights:
            self.method.set_weight(self.models, weight)
            for number, _, seed, picture in self._draw(done, prompts):
                name = sample_name(done, number, seed, weight)
                save_picture(self.saving.output_dir / name, picture)
            self.method.set_weight(self.models, 1.0)

    def _draw(self, done: int, prompts: list[str]) -> Iterator[tuple[int, str, int, Image.Image]]:
        """The number of a prompt, the prompt, a seed and its picture, for each."""
        if self._pipeline is None:
            self._pipeline = build_pipeline(self.models)
        seeds = [self.record.seed + i for i in range(self.validation.num_validation_images)]
        at = max(done, self.progress.done)
        for number, prompt in enumerate(prompts):
            pictures = draw(
                self._pipeline,
                prompt,
                seeds,
                self.resolution,
                self.validation.num_inference_steps,
                self.validation.guidance_scale,
                lambda i, n: self.progress.step(at, f"drawing picture {i + 1} of {n}"),
            )
            for seed, picture in zip(seeds, pictures, strict=True):
                yield number, prompt, seed, picture

    def final(self, values: Values) -> list[Path]:
        """Write what has been learned; returns the paths."""
        return self.method.write(self.saving.output_dir, values) if self.log else []
