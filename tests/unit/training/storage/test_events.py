"""events.jsonl: torn lines are left out, and a resumed run's later record wins."""

from __future__ import annotations

import errno
import io
import json
import math
import time
from pathlib import Path

import pytest

from training.errors import UserError
from training.storage.events import FILE_NAME, EventLog, read_events


def steps(folder: Path, kind: str = "step") -> list[int]:
    return [event["step"] for event in read_events(folder) if event["event"] == kind]


def test_events_are_read_as_they_were_written(tmp_path: Path) -> None:
    before = time.time() - 1
    log = EventLog(tmp_path)
    log.write("start", step=0, versions={"torch": "2"})
    log.write("notice", text="größer\nund \u2028 weiter")
    first, second = read_events(tmp_path)
    assert (first["event"], first["versions"]) == ("start", {"torch": "2"})
    assert second["text"] == "größer\nund \u2028 weiter"
    assert before < first["time"] <= second["time"]


def test_an_event_is_on_disk_when_write_returns(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    for step in range(3):
        log.write("step", step=step)
        assert len((tmp_path / FILE_NAME).read_bytes().splitlines()) == step + 1


def test_no_file_is_no_events(tmp_path: Path) -> None:
    assert read_events(tmp_path) == []


def test_a_torn_last_line_is_left_out_at_any_length(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    log.write("start", step=0)
    log.write("step", step=1, loss=0.5)
    log.write("notice", text="ü" * 10)
    whole = (tmp_path / FILE_NAME).read_bytes()
    kept = len(b"".join(whole.splitlines(keepends=True)[:2]))
    for length in range(kept, len(whole) - 2):
        (tmp_path / FILE_NAME).write_bytes(whole[:length])
        assert [event["event"] for event in read_events(tmp_path)] == ["start", "step"]


def test_the_line_after_a_torn_one_is_whole(tmp_path: Path) -> None:
    EventLog(tmp_path).write("start", step=0)
    path = tmp_path / FILE_NAME
    path.write_bytes(path.read_bytes() + b'{"event": "st\xff')
    EventLog(tmp_path).write("step", step=1)
    assert [event["event"] for event in read_events(tmp_path)] == ["start", "step"]
    assert path.read_bytes().endswith(b"\n")


@pytest.mark.parametrize(
    "line",
    [
        *("4", "[]", "null", '{"step": 3}', "\x00\x00"),
        *('{"event": "step"}', '{"event": "done", "step": null}', '{"event": "start"}'),
        '{"event": "checkpoint", "step": "3"}',
    ],
)
def test_lines_of_something_else_are_left_out(line: str, tmp_path: Path) -> None:
    EventLog(tmp_path).write("start", step=0)
    with (tmp_path / FILE_NAME).open("a") as file:
        file.write(line + "\n")
    assert len(read_events(tmp_path)) == 1


def test_a_resumed_run_keeps_the_later_record_of_repeated_steps(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    log.write("start", step=0)
    log.write("evaluation", step=0)
    for step in range(1, 6):
        log.write("step", step=step, loss=1.0)
        if step == 2:
            log.write("checkpoint", step=2)
    log.write("evaluation", step=5)
    log.write("notice", text="kept")
    log = EventLog(tmp_path)
    log.write("start", step=2)
    for step in range(3, 5):
        log.write("step", step=step, loss=2.0)
    assert steps(tmp_path) == [1, 2, 3, 4]
    losses = [event["loss"] for event in read_events(tmp_path) if event["event"] == "step"]
    assert losses == [1.0, 1.0, 2.0, 2.0]
    assert steps(tmp_path, "evaluation") == [0]
    assert steps(tmp_path, "checkpoint") == [2]
    assert steps(tmp_path, "start") == [0, 2]
    assert [event for event in read_events(tmp_path) if event["event"] == "notice"]


def test_a_run_started_again_from_nothing_has_one_record_of_its_start(tmp_path: Path) -> None:
    for _ in range(2):
        log = EventLog(tmp_path)
        log.write("start", step=0)
        log.write("evaluation", step=0)
        log.write("sample", step=0)
        log.write("step", step=1)
    assert steps(tmp_path, "evaluation") == [0]
    assert steps(tmp_path, "sample") == [0]
    assert steps(tmp_path) == [1]


def test_a_loss_that_is_not_a_number_is_read_back(tmp_path: Path) -> None:
    EventLog(tmp_path).write("evaluation", step=1, loss=math.nan)
    assert math.isnan(read_events(tmp_path)[0]["loss"])


def test_every_line_is_json(tmp_path: Path) -> None:
    EventLog(tmp_path).write("step", step=1, loss=0.25)
    assert json.loads((tmp_path / FILE_NAME).read_text())["loss"] == 0.25


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    class Full(io.BytesIO):
        def flush(self) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    log = EventLog(tmp_path)
    log._file = Full()  # type: ignore[assignment]
    with pytest.raises(UserError, match=f"{FILE_NAME}: the disk is full"):
        log.write("step", step=1)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        EventLog(tmp_path / "file")
