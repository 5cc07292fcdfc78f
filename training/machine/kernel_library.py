"""C++ kernels as shared libraries: compiled once on a machine, found again by later processes.

Their sources use neither Python's nor PyTorch's headers, so that a C++ compiler is all they need
and seconds are enough.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from training import atomic_files
from training.errors import UserError, first_line
from training.machine.cache_folder import cache_folder, is_foreign
from training.machine.cpu import this_cpu

FLAGS = ("-std=c++17", "-O3", "-fopenmp", "-fPIC", "-shared")
Pointer, Size = ctypes.c_void_p, ctypes.c_int64
Integer, Float = ctypes.c_int, ctypes.c_float
Signature = tuple[object, tuple[object, ...]]
"""What a function returns (None: nothing) and takes."""


class CannotBuild(Exception):
    """Why a kernel is not to be had on this machine."""


@dataclass(frozen=True)
class Instructions:
    """A set of vector instructions that a kernel can be compiled for.

    Attributes:
        name: as a person calls it.
        needed: the processor's flags, as Linux spells them.
        flags: the compiler's.
    """

    name: str
    needed: tuple[str, ...]
    flags: tuple[str, ...]


AVX512 = Instructions("AVX-512", ("avx512f",), ("-mavx512f",))
AVX2 = Instructions("AVX2", ("avx2", "fma"), ("-mavx2", "-mfma", "-Wno-psabi"))


@dataclass(frozen=True)
class KernelLibrary:
    """One kernel: a folder of sources, and the functions of the library made of them.

    Attributes:
        name: what the kernel computes; its folder in the cache has this name.
        sources: a folder whose `kernel.cpp` is compiled, and includes the others.
        signatures: of the library's functions, as `kernel.cpp` says.
        instructions: what it can be compiled for; the first that the processor has is taken.
    """

    name: str
    sources: Path
    signatures: Mapping[str, Signature]
    instructions: tuple[Instructions, ...]
    _loaded: list[ctypes.CDLL] = field(default_factory=list, compare=False, repr=False)

    def folder(self) -> Path:
        """Where the library is kept."""
        return cache_folder() / self.name

    def __call__(self) -> ctypes.CDLL:
        """The library that this process has loaded; loaded now, if it has none.

        Raises:
            CannotBuild: as `load` says.
        """
        return self._loaded[-1] if self._loaded else self.load()

    def load(self, notify: Callable[[str], None] = lambda text: None) -> ctypes.CDLL:
        """The library, built now if no process of this machine has built it.

        Several may ask at once: one builds, the others wait for it.

        Args:
            notify: told that it is being built.

        Raises:
            CannotBuild: the processor lacks the instructions, there is no compiler, it fails, or
                others can write where the library is kept.
        """
        flags = (*FLAGS, *self._suitable().flags)
        path = self.folder() / f"{_key(self.sources, flags)}.so"
        try:
            _keep_private(path.parent)
            if not path.exists():
                with path.with_suffix(".lock").open("a") as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX)
                    if not path.exists():
                        _build(self, path, flags, notify)
            if path.stat().st_uid != os.getuid():
                raise CannotBuild(f"{path} is another account's")
            self._loaded[:] = [_open(path, self)]
            return self._loaded[-1]
        except (OSError, UserError) as error:
            raise CannotBuild(first_line(error)) from error

    def why_not(self, notify: Callable[[str], None]) -> str:
        """Why this machine has no kernel; "": it has one, and it is loaded."""
        try:
            self.load(notify)
        except CannotBuild as error:
            return str(error)
        return ""

    def is_possible(self) -> bool:
        """Whether this processor has the instructions."""
        return any(set(each.needed) <= set(this_cpu().flags) for each in self.instructions)

    def _suitable(self) -> Instructions:
        for each in self.instructions:
            if set(each.needed) <= set(this_cpu().flags):
                return each
        raise CannotBuild(f"this processor has no {self.instructions[-1].name}")


def _keep_private(folder: Path) -> None:
    """Make a folder that this account alone can write: what lies there is executed."""
    folder.mkdir(parents=True, exist_ok=True)
    if folder.stat().st_uid == os.getuid():
        folder.chmod(0o700)
    if is_foreign(folder):
        raise CannotBuild(f"{folder} can be written by others than this account")


_opened: dict[Path, ctypes.CDLL] = {}


def _open(path: Path, library: KernelLibrary) -> ctypes.CDLL:
    if path not in _opened:
        opened = ctypes.CDLL(str(path))
        for name, (result, arguments) in library.signatures.items():
            function = getattr(opened, name)
            function.restype, function.argtypes = result, arguments
        _opened[path] = opened
    return _opened[path]


def _key(sources: Path, flags: Sequence[str]) -> str:
    """A digest of what a library depends on."""
    texts = [path.read_bytes() for path in sorted(sources.iterdir()) if path.is_file()]
    parts = (texts, flags, _compiler(), str(torch.__version__), this_cpu().flags)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _compiler() -> str:
    return os.environ.get("CXX", "g++")


def _build(
    library: KernelLibrary, path: Path, flags: Sequence[str], notify: Callable[[str], None]
) -> None:
    compiler = shutil.which(_compiler())
    if compiler is None:
        raise CannotBuild(f"there is no C++ compiler ({_compiler()}; Debian: apt install g++)")
    notify(f"compiling the {library.name} kernel, seconds; kept for later")
    source = str(library.sources / "kernel.cpp")

    def write(temporary: Path) -> None:
        done = subprocess.run(
            [compiler, *flags, source, "-o", str(temporary)], capture_output=True, text=True
        )
        if done.returncode:
            said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            raise CannotBuild(f"{compiler} does not compile it: {said[0][:300]}")

    atomic_files.write_file(path, write)
