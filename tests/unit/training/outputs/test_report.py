"""report.html stands alone and shows a column per step and a row per seed."""

from __future__ import annotations

import base64
import io
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from training.config.textual_inversion import TextualInversionConfig
from training.outputs.report import (
    SHOWN_SOURCES,
    SOURCE_SIDE,
    _short,
    draw_curves,
    sample_tables,
    write_report,
)
from training.storage.events import EventLog, read_events
from training.storage.run_directory import COMPARISON_FILE, RunRecord, write_config

RECORD = RunRecord(
    seed=7, global_batch=2, learning_rate=1e-3, dtype="float32", frozen="native", model="m",
    pictures="p", rows="r",
)  # fmt: skip
STEPS, SEEDS, PROMPT = (0, 2, 4), (7, 8), "a <new> & <b>'s"


class Page(HTMLParser):
    """Tags with their attributes, and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.texts += [data.strip()] if data.strip() else []


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    values: dict[str, Any] = {
        "pretrained_model_name_or_path": "someone/model",
        "train_data_dir": "pictures",
        "placeholder_token": "<new>",
        "initializer_token": "toy",
        "validation_prompt": [PROMPT],
    }
    write_config(tmp_path, TextualInversionConfig.model_validate(values), RECORD)
    log = EventLog(tmp_path)
    log.write("start", step=0, ranks=2, backend="gloo", versions={"torch": "2"}, cpu="A CPU",
              threads=4, stack="upstream")  # fmt: skip
    log.write("notice", text="a <notice>")
    log.write("restart", step=0, text="restarted without worker-1")
    for step in range(5):
        if step:
            log.write("step", step=step, loss=1 / step, lr=1e-3, images_per_second=2.0)
        if step in STEPS:
            log.write("evaluation", step=step, loss=0.5 - step / 100, moved=step / 10)
            for seed in SEEDS:
                name = f"samples/step-{step}-{seed}.png"
                (tmp_path / "samples").mkdir(exist_ok=True)
                Image.new("RGB", (8, 8), (step, seed, 0)).save(tmp_path / name)
                log.write("sample", step=step, prompt=PROMPT, seed=seed, path=name)
    (tmp_path / "learned_embeds-steps-2.safetensors").write_bytes(b"")
    return tmp_path


def page(folder: Path) -> Page:
    return Page(write_report(folder).read_text(encoding="utf-8"))


def test_it_needs_nothing_but_itself(run_folder: Path) -> None:
    text = write_report(run_folder).read_text(encoding="utf-8")
    assert "http:" not in text
    assert "https:" not in text
    assert not re.search(r"url\(|@import|<script|<link|<iframe", text)
    sources = [a["src"] for _, a in Page(text).tags if "src" in a]
    assert sources
    assert all(str(source).startswith("data:image/png;base64,") for source in sources)


def test_samples_have_a_column_per_step_and_a_row_per_seed(run_folder: Path) -> None:
    text = write_report(run_folder).read_text(encoding="utf-8")
    table = text[text.index('<div class="samples">') :].split("</table>")[0]
    assert re.findall(r"<th>([^<]*)</th>", table) == [
        "seed", "0 (start)", "2 ●", "4", "7", "8",
    ]  # fmt: skip
    assert len(re.findall("<img", table)) == len(STEPS) * len(SEEDS)
    assert len(set(re.findall(r'src="([^"]*)"', table))) == len(STEPS) * len(SEEDS)


def test_evaluations_name_the_rows_on_disk(run_folder: Path) -> None:
    texts = page(run_folder).texts
    assert "learned_embeds-steps-2.safetensors" in texts
    assert [texts[texts.index(loss) - 1] for loss in ("0.50000", "0.48000", "0.46000")] == [
        "0", "2", "4",
    ]  # fmt: skip


def test_what_people_wrote_is_shown_as_text(run_folder: Path) -> None:
    found = page(run_folder)
    assert "a <notice>" in " ".join(found.texts)
    assert "restarted without worker-1" in found.texts
    assert not any(tag in ("new", "b'", "notice") for tag, _ in found.tags)
    assert PROMPT in found.texts


def test_a_picture_that_is_gone_leaves_an_empty_cell(run_folder: Path) -> None:
    (run_folder / "samples" / "step-2-8.png").unlink()
    text = write_report(run_folder).read_text(encoding="utf-8")
    table = text[text.index('<div class="samples">') :].split("</table>")[0]
    assert len(re.findall("<img", table)) == len(STEPS) * len(SEEDS) - 1
    assert len(re.findall("<td>", table)) == len(STEPS) * len(SEEDS)


def test_a_seed_without_a_step_is_none_in_the_table(run_folder: Path) -> None:
    events = [
        e for e in read_events(run_folder)
        if not (e["event"] == "sample" and e["seed"] == 8 and e["step"] == 2)
    ]  # fmt: skip
    (table,) = sample_tables(events)
    assert table.steps == [0, 2, 4]
    assert table.rows[1] == (8, ["samples/step-0-8.png", None, "samples/step-4-8.png"])


def write_pictures(folder: Path, count: int) -> None:
    folder.mkdir()
    for number in range(count):
        Image.new("RGB", (300, 100 + number), "orange").save(folder / f"{number}.png")


def test_a_run_without_validation_prompts_shows_what_it_learned_from(tmp_path: Path) -> None:
    write_pictures(tmp_path / "pictures", 10)
    (tmp_path / "pictures" / "0.png").write_bytes(b"no picture")
    values: dict[str, Any] = {
        "pretrained_model_name_or_path": "someone/model",
        "train_data_dir": tmp_path / "pictures",
        "placeholder_token": "<new>",
        "initializer_token": "toy",
    }
    write_config(tmp_path, TextualInversionConfig.model_validate(values), RECORD)
    page = Page(write_report(tmp_path).read_text())
    shown = [
        kept["src"] or "" for tag, kept in page.tags if kept.get("alt") == "A training picture"
    ]
    assert len(shown) == SHOWN_SOURCES
    with Image.open(io.BytesIO(base64.b64decode(shown[0].partition(",")[2]))) as first:
        assert first.size == (SOURCE_SIDE, SOURCE_SIDE)
        assert first.getpixel((9, 9)) == (255, 165, 0)
    assert "--validation_prompt" in page.texts
    # A comparison shows them; and pictures that are gone are no reason to fail.
    (tmp_path / "samples").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / COMPARISON_FILE)
    assert "A training picture" not in write_report(tmp_path).read_text()
    (tmp_path / COMPARISON_FILE).unlink()
    shutil.rmtree(tmp_path / "pictures")
    assert "A training picture" not in write_report(tmp_path).read_text()


def test_a_run_without_samples_has_a_curve_alone(tmp_path: Path) -> None:
    assert draw_curves([]).startswith(b"\x89PNG")


def test_the_curve_is_on_disk_too(run_folder: Path) -> None:
    write_report(run_folder)
    with Image.open(run_folder / "loss.png") as curve:
        assert curve.width > 600


def test_lines_that_lack_something_are_left_out(run_folder: Path) -> None:
    whole = write_report(run_folder).read_text()
    with (run_folder / "events.jsonl").open("a") as file:
        for kind in ("step", "evaluation", "sample"):
            file.write(f'{{"event": "{kind}", "time": 1.0, "step": 9}}\n')
            file.write(f'{{"event": "{kind}", "time": 1.0, "loss": 1.0}}\n')
    assert write_report(run_folder).read_text() == whole


def test_it_says_when_to_stop_and_fits_a_phone(run_folder: Path) -> None:
    text = write_report(run_folder).read_text(encoding="utf-8")
    assert "When to stop:" in text
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in text
    assert "img.wide { max-width: 100%; height: auto }" in text


def test_long_paths_are_short_in_it() -> None:
    assert _short("/home/someone/work/runs/pictures") == "…/runs/pictures"
    assert _short("/runs/pictures") == "/runs/pictures"
    assert _short("someone/model") == "someone/model"
