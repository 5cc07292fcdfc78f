"""A kernel's library is compiled once on a machine, and its absence has a reason."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from training.machine import kernel_library
from training.machine.cpu import REPORTED, Cpu
from training.machine.kernel_library import AVX2, AVX512, CannotBuild, Instructions, KernelLibrary


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KernelLibrary:
    """A kernel for AVX-512, on a processor that has it, with an empty folder for its library."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(kernel_library, "this_cpu", lambda: Cpu("", AVX512.needed, 1))
    sources = tmp_path / "sources"
    sources.mkdir()
    (sources / "kernel.cpp").write_text('extern "C" int twice(int number) { return 2 * number; }')
    signature = (kernel_library.Integer, (kernel_library.Integer,))
    return KernelLibrary("doubling", sources, {"twice": signature}, (AVX512,))


def test_it_is_compiled_once_and_found_again(kernel: KernelLibrary, tmp_path: Path) -> None:
    said: list[str] = []
    assert kernel.load(said.append).twice(21) == 42
    assert kernel().twice(4) == 8
    assert kernel.load(said.append).twice(1) == 2
    assert said == ["compiling the doubling kernel, seconds; kept for later"]
    assert kernel.folder() == tmp_path / "cache" / "xeon-diffusion" / "doubling"


def test_other_sources_are_another_library(kernel: KernelLibrary) -> None:
    kernel.load()
    (kernel.sources / "kernel.cpp").write_text('extern "C" int twice(int number) { return 3; }')
    assert kernel.load().twice(21) == 3


def test_several_that_ask_at_once_compile_once(
    kernel: KernelLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[Path] = []

    def build(of: KernelLibrary, path: Path, *_: object) -> None:
        built.append(path)
        path.write_bytes(b"")

    opened: Callable[..., ctypes.CDLL] = lambda *_: ctypes.CDLL(None)  # noqa: E731
    monkeypatch.setattr(kernel_library, "_build", build)
    monkeypatch.setattr(kernel_library, "_open", opened)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: kernel.load(), range(8)))
    assert len(built) == 1


@pytest.mark.parametrize(
    ("compiler", "why"),
    [
        ("no-such-compiler", r"there is no C\+\+ compiler \(no-such-compiler"),
        ("false", "false does not compile it: exit code 1"),
    ],
)
def test_without_a_compiler_there_is_none(
    compiler: str, why: str, kernel: KernelLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", compiler)
    with pytest.raises(CannotBuild, match=why):
        kernel.load()
    assert {path.suffix for path in kernel.folder().iterdir()} <= {".lock"}


def test_a_library_that_others_may_have_written_is_not_loaded(
    kernel: KernelLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel.folder().mkdir(parents=True)
    kernel.folder().chmod(0o777)
    kernel.load()
    assert kernel.folder().stat().st_mode & 0o777 == 0o700
    owner = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: owner + 1)
    with pytest.raises(CannotBuild, match="can be written by others than this account"):
        kernel.load()


@pytest.mark.parametrize("instructions", [AVX512, AVX2])
def test_what_instructions_need_is_looked_for(instructions: Instructions) -> None:
    assert set(instructions.needed) <= set(REPORTED)


def test_it_is_compiled_for_the_best_instructions_of_the_processor(
    kernel: KernelLibrary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = KernelLibrary("either", kernel.sources, kernel.signatures, (AVX512, AVX2))
    flags: list[str] = []

    def build(of: KernelLibrary, path: Path, chosen: tuple[str, ...], _: object) -> None:
        flags[:] = chosen
        path.write_bytes(b"")

    opened: Callable[..., ctypes.CDLL] = lambda *_: ctypes.CDLL(None)  # noqa: E731
    monkeypatch.setattr(kernel_library, "_build", build)
    monkeypatch.setattr(kernel_library, "_open", opened)
    for has, flag in (((*AVX2.needed, *AVX512.needed), "-mavx512f"), (AVX2.needed, "-mavx2")):
        monkeypatch.setattr(kernel_library, "this_cpu", lambda has=has: Cpu("", has, 1))
        assert both.is_possible()
        both.load()
        assert flag in flags
    monkeypatch.setattr(kernel_library, "this_cpu", lambda: Cpu("", ("neon",), 1))
    assert not both.is_possible()
    with pytest.raises(CannotBuild, match="this processor has no AVX2"):
        both.load()
