"""MKL's vector functions are called once, one element each, before any process computes."""

from __future__ import annotations

import ast
import os
import re
import runpy
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests import training_fixtures
from tests.processes import run_ranks
from tests.training_fixtures import Flags
from training.machine import vector_math

ROOT = Path(__file__).resolve().parents[4]
CALLED, USED_BEFORE = 70, 71
COMPUTE_NOT = {"training.miniature.concept", "training.miniature.style"}
"""They draw without PyTorch; a module that they import computes."""
ENTRIES: dict[str, list[str]] = {
    "benchmarks.attention": [],
    "benchmarks.convolution": [],
    "benchmarks.export_accuracy": [],
    "benchmarks.inference_ladder.__main__": [],
    "benchmarks.inference_ladder.process": ["torch-fp32", "folder", "out.json"],
    "benchmarks.train_step.reference": ["nowhere", "lora", "no", "1", "64"],
    "benchmarks.restarts": [],
    "benchmarks.restarts_process": ["folder", "2"],
    "benchmarks.steps_to_quality": [],
    "benchmarks.scaling_rank": ["folder", "model", "pictures"],
    "benchmarks.train_step.__main__": [],
    "benchmarks.train_step.breakdown": [],
    "training.all_reduce": [],
    "training.export": ["--model=nowhere", "--output_dir=out"],
    "training.generate": ["nowhere", "--prompt=a photo"],
    "training.playground": ["nowhere"],
    "training.lora": [],  # a short run's
    "training.quantize": [],  # a short run's
    "training.miniature.build": [],
    "training.miniature.check": [],
    "training.miniature.judge": [],
    "training.miniature.quantize_demo": [],
    "training.miniature.tiny_vae": [],
    "training.textual_inversion": [],  # a short run's
}
"""Programs that compute, and the arguments with which each begins to."""


def source(module: str) -> str:
    """The text of a module of this repository; nothing of other packages."""
    path = ROOT.joinpath(*module.split("."))
    files = (path.with_suffix(".py"), path / "__init__.py")
    return next((file.read_text() for file in files if file.exists()), "")


def imported(module: str) -> set[str]:
    """What a module imports, wherever in it; names in a module count as modules, too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source(module))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def reaches_torch(module: str) -> bool:
    """Whether a program imports PyTorch, itself or by way of others."""
    seen, ahead = set(), {module}
    while ahead:
        seen |= ahead
        ahead = {name for known in ahead for name in imported(known)} - seen
    return "torch" in {name.split(".")[0] for name in seen}


def programs() -> set[str]:
    """Every module of training and benchmarks that `python -m` runs and that reaches PyTorch."""
    files = [*(ROOT / "training").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]
    modules = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts)
        for file in files
        if '__name__ == "__main__"' in file.read_text()
    }
    return {module for module in modules if reaches_torch(module)}


class FirstCalls(TorchDispatchMode):
    """Ends the process when every function has been called, or one element too many has been."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.missing = {
            (function.__name__, precision)
            for function in vector_math.FUNCTIONS
            for precision in vector_math.PRECISIONS
        }

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        """Let the call through, and look at what came out."""
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            if result.numel() > 1 and result.is_floating_point():
                print(f"before MKL's vector functions: {func}", flush=True)
                os._exit(USED_BEFORE)
            self.missing.discard((func.overloadpacket.__name__, result.dtype))
        if not self.missing:
            os._exit(CALLED)
        return result


def begin(argv: list[str]) -> None:
    """Run a program, its name first, as `python -m` does, and watch what it calls."""
    sys.argv = argv
    with patch("os.fork", lambda: 0), FirstCalls():
        runpy.run_module(argv[0], run_name="__main__", alter_sys=True)


def begin_tests(argv: list[str]) -> None:
    """What a test session does before its first test."""
    with FirstCalls():
        training_fixtures.pytest_sessionstart()


def test_every_function_that_aten_sends_to_mkl_is_called() -> None:
    header = Path(torch.__file__).parent / "include" / "ATen" / "cpu" / "vml.h"
    sent = re.findall(r"^IMPLEMENT_VML_MKL\((\w+),", header.read_text(), re.MULTILINE)
    assert len(sent) > 10
    called = {function.__name__ for function in vector_math.FUNCTIONS}
    assert called == {*sent, "logit"}


def test_every_program_that_reaches_torch_is_known() -> None:
    assert programs() == ENTRIES.keys() | COMPUTE_NOT


@pytest.mark.parametrize("program", ENTRIES)
def test_each_program_that_computes_calls_them_first(
    program: str, flags: Flags, tmp_path: Path
) -> None:
    no_word = {"placeholder_token": None, "initializer_token": None}
    own = {
        "training.textual_inversion": flags(),
        "training.lora": flags(**no_word),
        "training.quantize": flags(**no_word),
    }
    argv = own.get(program, ENTRIES[program])
    (ended,) = run_ranks([program, *argv], tmp_path, main=f"{__name__}:begin")
    assert ended.code == CALLED, ended.output


def test_a_test_session_calls_them_first(tmp_path: Path) -> None:
    (ended,) = run_ranks([], tmp_path, main=f"{__name__}:begin_tests")
    assert ended.code == CALLED, ended.output
