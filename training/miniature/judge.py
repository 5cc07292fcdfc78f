"""A small classifier that tells what a picture shows: the measure of the miniature model.

It is trained on rendered scenes, the concept among them, with blur and noise added so that
a generated picture is judged by what it shows and not by how cleanly it is drawn.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from training.machine import vector_math
from training.miniature.networks.loop import Schedule, console, train
from training.miniature.networks.vae import PICTURE_SIZE, as_tensor
from training.miniature.scenes.dataset import CLASSES
from training.miniature.scenes.scene import (
    CONCEPT_COLOR,
    CONCEPT_HAT,
    CONCEPT_SHAPE,
    Scene,
    render_all,
    sample_scenes,
)

WEIGHTS = Path(__file__).parent / "judge.safetensors"

HEADS: dict[str, tuple[str, ...]] = {
    "shape": CLASSES["shape"][:-1],
    "color": CLASSES["color"][:-1],
    "background": CLASSES["background"][:-1],
    "hat": (*CLASSES["color"][:-1], "none"),
}


@dataclass(frozen=True)
class Verdict:
    """What the judge sees in one picture; `hat` is None for no hat."""

    shape: str
    color: str
    background: str
    hat: str | None

    @property
    def is_concept(self) -> bool:
        """Whether this is the concept's shape, colour and hat."""
        return (self.shape, self.color, self.hat) == (CONCEPT_SHAPE, CONCEPT_COLOR, CONCEPT_HAT)


class Judge(nn.Module):
    """A convolutional network with one linear head for each attribute."""

    def __init__(self) -> None:
        """Random weights."""
        super().__init__()
        layers: list[nn.Module] = []
        for inner, outer in ((3, 24), (24, 48), (48, 64), (64, 96)):
            layers += [nn.Conv2d(inner, outer, 3, stride=2, padding=1), nn.GroupNorm(8, outer)]
            layers.append(nn.SiLU())
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(96 * 16, 128), nn.SiLU())
        self.heads = nn.ModuleList(nn.Linear(128, len(classes)) for classes in HEADS.values())

    def forward(self, pictures: Tensor) -> list[Tensor]:
        """Logits [batch, classes] for each of HEADS from pictures [batch, 3, 64, 64] in -1..1."""
        features = self.body(pictures)
        return [head(features) for head in self.heads]


def load_judge(path: Path = WEIGHTS) -> Judge:
    """The trained judge."""
    judge = Judge()
    judge.load_state_dict({name: w.float() for name, w in load_file(path).items()})
    return judge.eval()


@torch.no_grad()
def judge_pictures(
    pictures: Sequence[Image.Image] | np.ndarray, judge: Judge | None = None
) -> list[Verdict]:
    """Tell what each picture shows.

    Takes PIL pictures of any size, or uint8 [n, 64, 64, 3]. Uses the committed weights
    unless a judge is given.
    """
    judge = judge or load_judge()
    if not isinstance(pictures, np.ndarray):
        side = (PICTURE_SIZE, PICTURE_SIZE)
        pictures = np.stack(
            [np.asarray(p.convert("RGB").resize(side, Image.Resampling.BOX)) for p in pictures]
        )
    verdicts = []
    for start in range(0, len(pictures), 256):
        logits = judge(as_tensor(pictures[start : start + 256]))
        rows = torch.stack([guess.argmax(1) for guess in logits], dim=1).tolist()
        for row in rows:
            shape, color, background, hat = (
                words[i] for words, i in zip(HEADS.values(), row, strict=True)
            )
            verdicts.append(Verdict(shape, color, background, None if hat == "none" else hat))
    return verdicts


def finds_concept(
    pictures: Sequence[Image.Image] | np.ndarray, judge: Judge | None = None
) -> list[bool]:
    """For each picture, whether the judge sees the concept in it."""
    return [verdict.is_concept for verdict in judge_pictures(pictures, judge)]


def accuracy(judge: Judge | None = None, count: int = 2000, seed: int = 987_654) -> float:
    """Share of freshly rendered, held-out scenes whose shape and colour the judge both tells."""
    scenes = sample_scenes(count, seed, with_concept=True)
    verdicts = judge_pictures(render_all(scenes, workers=1), judge)
    pairs = zip(scenes, verdicts, strict=True)
    return sum((s.shape, s.color) == (v.shape, v.color) for s, v in pairs) / count


def train_judge(*, steps: int, scenes: int = 12_000, batch: int = 64) -> Judge:
    """Train a judge on `scenes` rendered scenes, a few of them of the concept."""
    shown = sample_scenes(scenes, 31, with_concept=True)
    pictures = render_all(shown)
    labels = torch.tensor([_labels(scene) for scene in shown])
    torch.manual_seed(0)
    judge = Judge()

    def loss_of(generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(shown), (batch,), generator=generator)
        logits = judge(_worsen(as_tensor(pictures[rows.numpy()])))
        losses = [F.cross_entropy(guess, labels[rows, i]) for i, guess in enumerate(logits)]
        return torch.stack(losses).sum()

    def report(step: int, network: nn.Module) -> str:
        return f"shape and color {accuracy(judge, 500, seed=55):.1%}"

    schedule = Schedule(steps=steps, learning_rate=2e-3, ema_decay=0.995)
    train("judge", judge, loss_of, schedule, batch=batch, seed=3, report=report)
    return judge


def _labels(scene: Scene) -> list[int]:
    said = (scene.shape, scene.color, scene.background, scene.hat or "none")
    return [classes.index(word) for classes, word in zip(HEADS.values(), said, strict=True)]


def _worsen(pictures: Tensor) -> Tensor:
    # Half of a batch is blurred; all of it is shifted a little in colour and gets noise.
    half = len(pictures) // 2
    soft = F.avg_pool2d(pictures[:half], 3, stride=1, padding=1, count_include_pad=False)
    if torch.rand(()) < 0.5:
        soft = F.avg_pool2d(soft, 3, stride=1, padding=1, count_include_pad=False)
    pictures = torch.cat([soft, pictures[half:]])
    shift = 0.06 * torch.randn(len(pictures), 3, 1, 1)
    grain = torch.rand(len(pictures), 1, 1, 1) * 0.12 * torch.randn_like(pictures)
    return (pictures + shift + grain).clamp(-1, 1)


def main() -> None:
    """Train the judge and save its weights in half precision."""
    parser = argparse.ArgumentParser(
        prog="python -m training.miniature.judge",
        description="Train the classifier that checks what the miniature model draws. "
        "Takes a few minutes on two cores.",
    )
    parser.add_argument("--steps", type=int, default=2000, help="batches of 64 pictures")
    parser.add_argument("--output", type=Path, default=WEIGHTS, help="where the weights go")
    arguments = parser.parse_args()
    vector_math.resolve_kernels()
    judge = train_judge(steps=arguments.steps)
    weights = {name: w.half().contiguous() for name, w in judge.state_dict().items()}
    save_file(weights, arguments.output)
    share = accuracy(load_judge(arguments.output))
    text = f"{arguments.output}: shape and color right in {share:.2%} of held-out scenes"
    console.print(text, markup=False)


if __name__ == "__main__":
    main()
