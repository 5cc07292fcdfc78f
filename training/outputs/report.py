"""report.html: one file that shows whether, when and what a run has learned."""

from __future__ import annotations

import base64
import contextlib
import io
import statistics
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
from PIL import Image, ImageOps

from training import atomic_files
from training.config.run import RunConfig
from training.data.dataset import first_pictures
from training.errors import UserError
from training.storage.events import events_of, read_events
from training.storage.run_directory import COMPARISON_FILE, read_config

matplotlib.use("Agg")
from matplotlib import pyplot as plt

REPORT_FILE = "report.html"
CURVE_FILE = "loss.png"
MEASURED = ("loss", "moved")
"""What an evaluation says."""
NOTICES = ("notice", "error", "stopped", "restart", "gave_up")
"""Events with a text for people; the last two are of who started the run again on a cluster."""
SHOWN_SOURCES, SOURCE_SIDE = 8, 224
"""How many training pictures a report without a comparison shows, and their side in pixels."""


@dataclass(frozen=True)
class SampleTable:
    """One prompt's pictures: one row per seed, one column per step.

    Attributes:
        steps: of the columns.
        rows: (seed, paths of the pictures in the order of `steps`; None where not drawn).
    """

    prompt: str
    steps: list[int]
    rows: list[tuple[int, list[str | None]]]


def write_report(folder: Path) -> Path:
    """Write loss.png and report.html from a run's events; returns the report's path."""
    events = read_events(folder)
    curve = draw_curves(events)
    atomic_files.write_file(folder / CURVE_FILE, lambda path: path.write_bytes(curve))
    config, record = read_config(folder)
    comparison = folder / COMPARISON_FILE
    starts = events_of(events, "start")
    rates = [e["images_per_second"] for e in events_of(events, "step", "images_per_second")]
    file_of = {
        int(path.stem.rsplit("-", 1)[1]): path.name
        for pattern in config.own_files
        if "-steps-" in pattern
        for path in folder.glob(pattern)
    }
    step_files = next((p.replace("*", "<step>") for p in config.own_files if "-steps-" in p), "")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True
    )
    html = environment.get_template("report.html.jinja").render(
        config={k: _short(v) for k, v in config.model_dump(mode="json").items() if v is not None},
        record=record.model_dump(),
        start=starts[-1] if starts else {},
        images_per_second=statistics.median(rates) if rates else None,
        curve=_data_uri(curve),
        comparison=_data_uri(comparison.read_bytes()) if comparison.exists() else None,
        # A comparison has them in it.
        sources=[] if comparison.exists() else _training_pictures(config),
        tables=[
            (
                table,
                [(seed, [_embedded(folder, path) for path in paths]) for seed, paths in table.rows],
            )
            for table in sample_tables(events)
        ],
        evaluations=events_of(events, "evaluation", *MEASURED),
        notices=[e for e in events if e["event"] in NOTICES],
        title=config.title,
        method=record.method.replace("_", " "),
        summary=config.summary,
        file_of=file_of,
        step_files=step_files,
    )
    atomic_files.write_text(folder / REPORT_FILE, html)
    return folder / REPORT_FILE


def sample_tables(events: list[dict[str, Any]]) -> list[SampleTable]:
    """The samples among the events, one table per prompt."""
    by_prompt: dict[str, dict[tuple[int, int], str]] = defaultdict(dict)
    for event in events_of(events, "sample", "prompt", "seed", "path"):
        by_prompt[event["prompt"]][event["seed"], event["step"]] = event["path"]
    tables = []
    for prompt, paths in by_prompt.items():
        steps = sorted({step for _, step in paths})
        seeds = sorted({seed for seed, _ in paths})
        tables.append(
            SampleTable(
                prompt,
                steps,
                [(seed, [paths.get((seed, step)) for step in steps]) for seed in seeds],
            )
        )
    return tables


def draw_curves(events: list[dict[str, Any]]) -> bytes:
    """A PNG: the loss on fixed samples over the training loss; below, small, the distance moved."""
    steps = events_of(events, "step", "loss")
    evaluations = events_of(events, "evaluation", *MEASURED)
    figure, (axis, moved) = plt.subplots(
        2, 1, figsize=(8, 5), dpi=120, sharex=True, height_ratios=(5, 1)
    )
    axis.plot(
        [e["step"] for e in steps], [e["loss"] for e in steps],
        color="0.85", linewidth=0.8, label="training loss (another noise at each step)",
    )  # fmt: skip
    at = [e["step"] for e in evaluations]
    axis.plot(
        at, [e["loss"] for e in evaluations], "o-",
        color="tab:blue", markersize=3, label="evaluation loss: stop when it no longer falls",
    )  # fmt: skip
    axis.set(ylabel="loss")
    axis.set_ylim(bottom=0)
    moved.plot(at, [e["moved"] for e in evaluations], color="0.5", linewidth=1)
    moved.set(xlabel="optimizer step", ylabel="distance\nfrom start")
    moved.yaxis.label.set_size(8)
    moved.tick_params(axis="y", labelsize=7)
    moved.set_ylim(bottom=0)
    lines = axis.get_lines()
    axis.legend(
        lines,
        [str(line.get_label()) for line in lines],
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        ncols=3,
        fontsize=8,
        frameon=False,
    )
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    plt.close(figure)
    return buffer.getvalue()


def _training_pictures(config: RunConfig) -> list[str]:
    """The first training pictures, cut square, as data URIs; none where they cannot be read."""
    with contextlib.suppress(UserError, OSError):
        pictures = first_pictures(config.train_data_dir, SHOWN_SOURCES, config.subfolders)
        side = (SOURCE_SIDE, SOURCE_SIDE)
        return [_data_uri(_png(ImageOps.fit(picture, side))) for picture in pictures]
    return []


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="png")
    return buffer.getvalue()


def _short(value: Any) -> Any:
    """A value as it is shown: of an absolute path its last two parts."""
    if isinstance(value, str) and value.startswith("/") and len(Path(value).parts) > 3:
        return "…/" + "/".join(Path(value).parts[-2:])
    return value


def _embedded(folder: Path, path: str | None) -> str | None:
    return _data_uri((folder / path).read_bytes()) if path and (folder / path).exists() else None


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
