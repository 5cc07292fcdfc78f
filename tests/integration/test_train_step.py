"""`benchmarks.train_step`, on a tiny model, with a stand-in for diffusers' script."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from benchmarks.train_step import __main__ as train_step
from benchmarks.train_step.peer import (
    StepsBar,
    check_peer,
    measure_peer,
    named_flags,
    peer_flags,
)
from tests.tiny_model import make_pictures, make_tiny_model
from training.errors import UserError

STAND_IN = Path(__file__).resolve().parents[1] / "peer_script.py"
METHODS = ("textual_inversion", "lora")


def tiny_inputs(folder: Path, method: str) -> None:
    """`make_inputs` in a second."""
    make_tiny_model(folder / "model")
    make_pictures(folder / "pictures")


def changed(tmp_path: Path, old: str, new: str) -> Path:
    """A stand-in in which a text is replaced."""
    text = STAND_IN.read_text()
    assert text.count(old) == 1
    path = tmp_path / "changed.py"
    path.write_text(text.replace(old, new))
    return path


def run(script: Path, tmp_path: Path, method: str = "textual_inversion") -> dict[str, float]:
    """Five steps of a script on the tiny model."""
    tiny_inputs(tmp_path, method)
    return measure_peer(script, peer_flags(method, tmp_path, tmp_path / "run", "no", 5, 64), 5)


def test_the_last_line_has_the_ratio_to_the_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(train_step, "make_inputs", tiny_inputs)
    monkeypatch.setattr(train_step, "measure_peaks", lambda precisions: {"no": 0.5})
    flags = ["--precision", "no", "--turns", "1", "--steps", "3", "--resolution", "64"]
    flags += ["--folder", str(tmp_path), "--peer", str(STAND_IN)]
    assert train_step.main(flags) == 0
    found = json.loads(capfd.readouterr().out.splitlines()[-1])
    (turn,) = found["turns"]["no"]["peer"]
    (ours,) = found["turns"]["no"]["native"]
    assert list(found["turns"]["no"]) == ["reference", "peer", "native"]
    assert found["ratio_vs_peer"] == {"no": {"native": turn["seconds"] / ours["seconds"]}}
    # bf16 alone has a step with IPEX.
    assert found["ratio_vs_ipex"] is None
    assert found["seconds_to_first_step"]["no"] == {
        "peer": turn["first_seconds"],
        "native": ours["first_seconds"],
    }
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("method", METHODS)
def test_a_script_is_timed_by_its_bar(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TQDM_DISABLE", "1")
    check_peer(STAND_IN, method)
    found = run(STAND_IN, tmp_path, method)
    assert found["seconds"] >= 0
    assert found["first_seconds"] > 0
    assert found["peak_gb"] > 0.1
    assert (tmp_path / "run" / "learned.bin").exists()


def test_a_bar_is_read_wherever_it_is_cut() -> None:
    drawn = (
        "Loading pipeline components: 100%|██████████| 4/4 [00:00<00:00]\n"
        "\rSteps:   0%|          | 0/4 [00:00<?, ?it/s]"
        "\rSteps:  25%|██▌       | 1/4 [00:01<00:03, 1.0s/it, loss=0.1, lr=0.0001]"
        "\rSteps:  50%|█████     | 2/4 [00:02<00:02, 1.0s/it, loss=0.1, lr=0.0001]\n"
        "11/27/2026 - INFO - Saved state\n"
        "\rSteps:  50%|█████     | 2/4 [00:02<00:02, 1.0s/it, loss=0.2, lr=0.0001]"
        "\rSteps: 100%|██████████| 4/4 [00:04<00:00, 1.0s/it, loss=0.1, lr=0.0001]\n"
    ).encode()
    for size in (1, 7, 100, len(drawn)):
        bar = StepsBar(4)
        for start in range(0, len(drawn), size):
            bar.read(drawn[start : start + size], float(start))
        assert sorted(bar.ended) == [1, 2, 4]
        assert bar.ended[1] <= bar.ended[2] <= bar.ended[4]
        assert len(bar.seconds()) == 3
    bar.ended = {1: 10.0, 2: 11.0, 4: 15.0}
    assert bar.seconds() == [1.0, 2.0, 2.0]


def test_a_script_that_is_not_there_is_told_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        train_step.main(["--peer", str(tmp_path / "nowhere.py"), "--folder", str(tmp_path)])
    error = capsys.readouterr().err
    assert "nowhere.py: there is no such file" in error
    assert "textual_inversion.py" in error
    assert list(tmp_path.iterdir()) == []


def test_a_script_that_does_not_start_shows_its_last_lines(tmp_path: Path) -> None:
    script = changed(tmp_path, "import torch\n", "import no_such_package\n")
    with pytest.raises(UserError, match="No module named 'no_such_package'"):
        check_peer(script, "textual_inversion")


def test_a_script_of_the_other_method_is_told_by_its_flags(tmp_path: Path) -> None:
    script = changed(tmp_path, 'parser.add_argument("--cache_dir")\n', "")
    check_peer(script, "textual_inversion")
    with pytest.raises(UserError, match=r"--cache_dir\. .*train_text_to_image_lora\.py"):
        check_peer(script, "lora")


def test_a_script_that_fails_shows_its_last_lines_and_its_flags(tmp_path: Path) -> None:
    script = changed(
        tmp_path, "    bar.update(1)\n", "    bar.update(1)\n    assert step < 2, 'out of memory'\n"
    )
    with pytest.raises(UserError) as caught:
        run(script, tmp_path)
    said = str(caught.value)
    assert "it ended with 1" in said
    assert "AssertionError: out of memory" in said
    assert "--max_train_steps 5" in said
    assert "\r" not in said
    assert not said.count("0/5")


def test_a_script_without_a_bar_of_steps_is_told(tmp_path: Path) -> None:
    script = changed(tmp_path, "disable=False", "disable=True")
    with pytest.raises(UserError, match=r"of 5 steps its bar showed \[\]"):
        run(script, tmp_path)


@pytest.mark.parametrize("method", METHODS)
def test_the_help_says_every_flag_that_the_script_is_started_with(
    method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="0"):
        train_step.main(["--help"])
    shown = set(re.findall(r"--\w+", capsys.readouterr().out))
    assert set(named_flags(method)) <= shown
