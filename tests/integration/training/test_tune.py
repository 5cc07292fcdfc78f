"""`python -m training.tune`: real trainings under a real mpirun, of the tiny model."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from training.tune import trial
from training.tune.search import Measured, Setting
from training.tune.trial import Family, Trials

CHECKOUT = Path(__file__).parents[3]
SETTING = Setting("native", "no", 1, 1)


@pytest.fixture
def words(tiny_model: Path, pictures: Path, tmp_path: Path) -> list[str]:
    """Its command line, for engine, precision and size of a test."""
    return [
        sys.executable, "-m", "training.tune", "--frozen", "native", "--precision", "no",
        f"--pretrained_model_name_or_path={tiny_model}", f"--train_data_dir={pictures}",
        "--resolution=32", "--train_batch_size=1", "--stack=upstream",
        f"--output={tmp_path / 'tuned.json'}",
    ]  # fmt: skip


@pytest.fixture
def variables(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "t").mkdir()
    return {**os.environ, "TMPDIR": str(tmp_path / "t"), "COLUMNS": "200"}


def run(words: list[str], variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words, cwd=CHECKOUT, env=variables, capture_output=True, text=True, check=False
    )


def test_it_tries_shows_and_writes_what_is_fastest(
    words: list[str], variables: dict[str, str], tmp_path: Path
) -> None:
    done = run([*words, "--ranks", "1", "2", "--threads", "1", "--budget", "600"], variables)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "tuned.json").read_text())
    both = {each["ranks"]: each for each in found["tried"]}
    assert both.keys() == {1, 2}
    for each in both.values():
        assert each["images_per_second"] > 0, done.stderr
        assert each["peak"] > 10e6
    fastest = max(both.values(), key=lambda each: each["images_per_second"])
    assert (found["ranks"], found["threads"]) == (fastest["ranks"], 1)
    assert (found["frozen"], found["mixed_precision"]) == ("native", "no")
    assert (found["method"], found["resolution"]) == ("textual_inversion", 32)
    assert f"fastest: native, fp32, {found['ranks']} rank" in done.stdout
    assert f"written: {tmp_path / 'tuned.json'}" in done.stdout
    assert "trial 2: native, fp32, 2 ranks of 1" in done.stderr
    assert list((tmp_path / "t").iterdir()) == []


def test_ctrl_c_leaves_nothing_behind(
    words: list[str], variables: dict[str, str], tmp_path: Path
) -> None:
    process = subprocess.Popen(
        [*words, "--budget", "600"], cwd=CHECKOUT, env=variables, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    while "trial 1: native" not in process.stderr.readline():
        assert process.poll() is None
    started: list[psutil.Process] = []
    while not any("training.textual_inversion" in said(each) for each in started):
        started = psutil.Process(process.pid).children(recursive=True)
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert "interrupted" in process.stderr.read()
    assert process.wait() == 130
    _, alive = psutil.wait_procs(started, timeout=60)
    assert alive == []
    assert not (tmp_path / "tuned.json").exists()
    assert list((tmp_path / "t").iterdir()) == []


def said(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def test_a_budget_that_is_too_small_is_said(
    words: list[str], variables: dict[str, str], tmp_path: Path
) -> None:
    done = run([*words, "--budget", "0.5"], variables)
    assert done.returncode == 2
    assert "not measured within the budget" in done.stderr
    assert "Give a larger --budget" in done.stderr
    assert not (tmp_path / "tuned.json").exists()


def test_bad_flags_are_refused_before_anything_runs(
    words: list[str], variables: dict[str, str]
) -> None:
    done = run([*words, "--resolution=33"], variables)
    assert done.returncode == 2
    assert "resolution" in done.stderr
    assert "trial" not in done.stderr


def measured(tmp_path: Path, program: list[str], **more: Any) -> Measured:
    end = time.monotonic() + 60
    return Trials(program, tmp_path, None, [0], end, lambda text: None, **more)(SETTING)


def test_memory_is_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What would use it up is ended; what would not fit is not begun."""
    sleeper = [sys.executable, "-c", "import time; time.sleep(600)"]
    monkeypatch.setattr(trial, "kept_free", lambda: 2**62)
    assert measured(tmp_path, sleeper).problem == "ended, as it would have used up the memory"
    known = {("native", "no"): 10**9}
    found = measured(tmp_path, sleeper, _peaks=known)
    assert found.problem.startswith("not tried: takes 1.0 GB, 0.0 are free")


def test_what_fails_is_said_in_its_own_words(tmp_path: Path) -> None:
    failing = [sys.executable, "-c", "print('error: no such model'); raise SystemExit(2)"]
    assert measured(tmp_path, failing).problem == "it ended: no such model"


def test_what_was_started_unseen_is_ended_too(tmp_path: Path) -> None:
    """A rank whose parent ended before anybody looked."""
    mark = f"--output_dir={tmp_path / '1'}"
    rank = f"[sys.executable, '-c', 'import time; time.sleep(60)', {mark!r}]"
    program = f"import subprocess, sys; subprocess.Popen({rank}, start_new_session=True)"
    first = psutil.Popen([sys.executable, "-c", program], start_new_session=True)
    first.wait()
    Family(first, mark).end()

    def left() -> list[list[str]]:
        found = []
        for each in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                found.append(each.cmdline())
        return [words for words in found if mark in words]

    assert not left()
