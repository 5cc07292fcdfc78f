"""Quantization-aware training where NNCF is not: in the environment that most of us are in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.quantizing import short_quantize

MISSING = "NNCF is missing here (nncf). Make its environment with `make environment-openvino`"


@pytest.fixture
def flags(captioned: Path, latents: Path, tmp_path: Path) -> list[str]:
    """A command line whose model is not there either: that is not what has to be said."""
    return short_quantize(tmp_path / "no-model", captioned, latents, tmp_path / "run")


def test_the_environment_is_named_before_a_model_is_read(flags: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "training.quantize", *flags]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 2
    (said,) = (line for line in finished.stderr.splitlines() if line.startswith("error: "))
    assert said.startswith(f"error: {MISSING}")
    assert ".venv-openvino/bin/python -m training.quantize ..." in said
    assert "fab bootstrap --with openvino" in said
    assert "Traceback" not in finished.stderr
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]
