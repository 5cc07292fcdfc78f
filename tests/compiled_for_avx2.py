"""A kernel as a processor with AVX2 and without AVX-512 has it."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from training.machine import kernel_library
from training.machine.cpu import Cpu
from training.machine.kernel_library import AVX2, KernelLibrary


def compiled_for_avx2(
    library: KernelLibrary, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> KernelLibrary:
    """The same kernel, compiled for AVX2 whatever this processor has, into an empty folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setattr(kernel_library, "this_cpu", lambda: Cpu("", AVX2.needed, 1))
    narrow = replace(library, _loaded=[])
    narrow.load()
    (built,) = narrow.folder().glob("*.so")
    code = subprocess.run(
        ["objdump", "-d", str(built)], capture_output=True, text=True, check=True
    ).stdout
    assert "%ymm" in code
    assert "%zmm" not in code
    return narrow
