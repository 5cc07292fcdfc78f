"""The kernel as a shared library: compiled once on a machine, found again by later processes.

What is in `kernel/` uses neither Python's nor PyTorch's headers, so that a C++ compiler is all it
needs and two seconds are enough.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch

from training import atomic_files
from training.errors import UserError, first_line
from training.machine.cache_folder import cache_folder
from training.machine.cpu import this_cpu

SOURCE = Path(__file__).with_name("kernel") / "kernel.cpp"
FLAGS = ("-std=c++17", "-O3", "-mavx512f", "-fopenmp", "-fPIC", "-shared")
NEEDED = "avx512f"
Pointer, Size = ctypes.c_void_p, ctypes.c_int64
SIGNATURES: dict[str, tuple[object, tuple[object, ...]]] = {
    "attention_forward_scratch": (Size, (Pointer,)),
    "attention_backward_scratch": (Size, (Pointer, ctypes.c_int)),
    "attention_forward": (
        None, (ctypes.c_int, *[Pointer] * 8, ctypes.c_float, ctypes.c_int),
    ),
    "attention_backward": (
        None, (ctypes.c_int, *[Pointer] * 12, ctypes.c_float, ctypes.c_int),
    ),
}  # fmt: skip
"""What the library's functions return and take, as `kernel.cpp` says."""


class CannotBuild(Exception):
    """Why there is no kernel on this machine."""


def folder() -> Path:
    """Where the library is kept."""
    return cache_folder() / "attention"


def kernel() -> ctypes.CDLL:
    """The library that this process has loaded; loaded now, if it has none.

    Raises:
        CannotBuild: as `load` says.
    """
    return _kept[-1] if _kept else load()


_kept: list[ctypes.CDLL] = []


@cache
def _loaded(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    for name, (result, arguments) in SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def load(notify: Callable[[str], None] = lambda text: None) -> ctypes.CDLL:
    """The library, built now if no process of this machine has built it.

    Several may ask at once: one builds, the others wait for it.

    Args:
        notify: told that it is being built.

    Raises:
        CannotBuild: the processor has no AVX-512, there is no compiler, or it fails.
    """
    if NEEDED not in this_cpu().flags:
        raise CannotBuild("this processor has no AVX-512")
    path = folder() / f"{_key()}.so"
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.with_suffix(".lock").open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not path.exists():
                    _build(path, notify)
        _kept[:] = [_loaded(path)]
        return _kept[-1]
    except (OSError, UserError) as error:
        raise CannotBuild(first_line(error)) from error


def _key() -> str:
    """A digest of what the library depends on."""
    sources = [path.read_bytes() for path in sorted(SOURCE.parent.iterdir())]
    parts = (sources, FLAGS, _compiler(), str(torch.__version__), this_cpu().flags)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _compiler() -> str:
    return os.environ.get("CXX", "g++")


def _build(path: Path, notify: Callable[[str], None]) -> None:
    compiler = shutil.which(_compiler())
    if compiler is None:
        raise CannotBuild(f"there is no C++ compiler ({_compiler()}; Debian: apt install g++)")
    notify("compiling the attention kernel, seconds; kept for later")

    def write(temporary: Path) -> None:
        done = subprocess.run(
            [compiler, *FLAGS, str(SOURCE), "-o", str(temporary)], capture_output=True, text=True
        )
        if done.returncode:
            said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            raise CannotBuild(f"{compiler} does not compile it: {said[0][:300]}")

    atomic_files.write_file(path, write)
