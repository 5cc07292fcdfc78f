"""`--frozen auto`: compiled where what was measured on this machine says that it repays."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.training_fixtures import Flags
from training.loop.compiled import code
from training.storage import compile_cost
from training.storage.compile_cost import PREPARED
from training.storage.events import events_of, read_events
from training.storage.kernels import Kernels
from training.storage.run_directory import read_config
from training.textual_inversion import main

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this machine's figures are kept; what would be compiled runs native."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(code, "compiler_is_missing", lambda: True)
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/g++")
    return tmp_path / "cache" / "xeon-diffusion" / "compiled"


def engine(folder: Path) -> str:
    return read_config(folder)[1].frozen


def test_it_repays_by_the_figures_of_earlier_runs_and_stays_so(
    flags: Flags, kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(compile_cost, "PARAMETERS", 0)
    folder = tmp_path / "run"
    assert main(flags()) == 0
    assert engine(folder) == "native"
    (path,) = kept.glob("*.times")
    measured = json.loads(path.read_text())
    assert measured.keys() == {"native"}

    compile_cost.note(path, native=3.0, compiled=2.0, **{PREPARED: 5.0})
    assert main(flags(overwrite_output_dir=True)) == 0
    assert engine(folder) == "compiled"
    said = capsys.readouterr().err
    assert "compiled: about 5 s to have the code, saves 1 s per step" in said
    assert "pays after 5 of 6 steps" in said
    assert events_of(read_events(folder), "start")[-1]["frozen"] == "native"  # by no compiler
    # A run that is resumed keeps its engine, whatever is known by now.
    compile_cost.note(path, compiled=9.0)
    assert main(flags(max_train_steps=8, resume_from_checkpoint="latest")) == 0
    assert engine(folder) == "compiled"
    assert "a native one" not in capsys.readouterr().err

    compile_cost.note(path, native=3.0, compiled=2.0)
    assert main(flags(max_train_steps=4, overwrite_output_dir=True)) == 0
    assert engine(folder) == "native"
    assert "pays after 5 steps, of which 4 come" in capsys.readouterr().err


def test_small_models_are_native_and_nothing_is_kept_of_them(
    flags: Flags, kept: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert main(flags()) == 0
    assert engine(tmp_path / "run") == "native"
    assert not list(kept.glob("*")) if kept.exists() else True
    assert "compiled" not in capsys.readouterr().err


def test_steps_by_other_kernels_are_counted_apart(
    flags: Flags, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compile_cost, "PARAMETERS", 0)
    for taken in ("torch", "fused", "torch"):
        monkeypatch.setattr(
            "training.run.used_kernels", lambda unet, taken=taken: Kernels(attention=taken)
        )
        assert main(flags(overwrite_output_dir=True)) == 0
    assert len(list(kept.glob("*.times"))) == 2
