"""Which software stack a run computes with."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from training.errors import UserError
from training.machine.stack import resolve_stack

IPEX = "intel_extension_for_pytorch"
CCL = "oneccl_bindings_for_pytorch"


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose modules can be imported for the length of a test."""
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in (IPEX, CCL):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


@pytest.fixture(autouse=True)
def forget_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test imports is not there for the next."""
    for name in (IPEX, CCL):
        monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.delitem(sys.modules, name)


def test_upstream_is_torch_and_gloo(packages: Path) -> None:
    (packages / f"{IPEX}.py").write_text("raise ImportError('not to be imported')")
    stack = resolve_stack("upstream")
    assert (stack.name, stack.backend, stack.optimize) == ("upstream", "gloo", None)
    assert stack.versions == {"torch": torch.__version__}


def test_intel_without_ipex_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"--stack intel: .* is not installed"):
        resolve_stack("intel")
    assert resolve_stack("auto").name == "upstream"


@pytest.mark.parametrize("failure", ["ImportError('undefined symbol')", "OSError('libmkl.so')"])
def test_ipex_that_does_not_import_is_passed_over_or_named(failure: str, packages: Path) -> None:
    (packages / f"{IPEX}.py").write_text(f"raise {failure}")
    assert resolve_stack("auto").name == "upstream"
    with pytest.raises(UserError, match=r"does not import with torch .*(undefined symbol|libmkl)"):
        resolve_stack("intel")


def test_intel_optimizes_with_ipex_and_talks_through_ccl(packages: Path) -> None:
    (packages / f"{IPEX}.py").write_text(
        "__version__ = '2.8.0'\n"
        "def optimize(module, dtype, optimizer=None):\n"
        "    assert module.training == (optimizer is not None)\n"
        "    module = module.to(dtype)\n"
        "    return (module, optimizer) if optimizer else module\n"
    )
    stack = resolve_stack("auto")
    assert (stack.name, stack.backend) == ("intel", "gloo")
    assert stack.versions == {"torch": torch.__version__, IPEX: "2.8.0"}
    assert stack.optimize is not None
    for gradient in (False, True):
        optimized = stack.optimize(torch.nn.Linear(2, 2), torch.bfloat16, gradient)
        assert not optimized.training
        assert all(
            parameter.dtype == torch.bfloat16 and not parameter.requires_grad
            for parameter in optimized.parameters()
        )
    (packages / f"{CCL}.py").write_text("__version__ = '2.8.1'\n")
    stack = resolve_stack("intel")
    assert stack.backend == "ccl"
    assert stack.versions["oneccl_bind_pt"] == "2.8.1"


def test_a_module_that_ipex_cannot_prepare_is_named(packages: Path) -> None:
    (packages / f"{IPEX}.py").write_text(
        "__version__ = '2.8.0'\n"
        "def optimize(module, dtype, optimizer=None):\n"
        "    raise AssertionError('bf16 needs AVX512')\n"
    )
    optimize = resolve_stack("intel").optimize
    assert optimize is not None
    with pytest.raises(UserError, match=r"--frozen ipex: .* prepare Linear in bfloat16 .*AVX512"):
        optimize(torch.nn.Linear(2, 2), torch.bfloat16, False)
