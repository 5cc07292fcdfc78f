"""Compiled code kept on disk, found again by later runs and by the other ranks of a machine.

Inductor's own cache leaves out graphs that hold packed weights. Packing takes seconds; writing and
compiling code takes minutes, and the code holds no weights: it names them. So the code alone is
kept, and a run that finds it gives it the weights of its own graph, packed anew. Inductor keeps the
compiled kernels, which the code names by their source, in the same folder.

The key is a digest of the graph itself, so whatever changes what is computed changes the key.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import fx
from torch._inductor.codecache import PyCodeCache
from torch._inductor.runtime.cache_dir_utils import default_cache_dir

from training import atomic_files
from training.errors import UserError
from training.machine.cache_folder import cache_folder
from training.machine.cpu import this_cpu

KERNELS = "TORCHINDUCTOR_CACHE_DIR"
SMALL = 8
"""Inductor writes the values of constants up to this many elements into the code."""


def folder() -> Path:
    """Where code is kept."""
    return cache_folder() / "compiled"


def keep_kernels() -> None:
    """Have inductor keep compiled kernels beside the code: its own place is emptied at a reboot."""
    if os.environ.get(KERNELS) in (None, default_cache_dir()):
        os.environ[KERNELS] = str(folder() / "inductor")


def key_of(graph: fx.GraphModule, inputs: list[torch.Tensor]) -> str:
    """A digest of what code for `graph` depends on: operations, shapes, versions, CPU, threads."""
    cpu = this_cpu()
    parts: list[Any] = [
        str(torch.__version__), torch.__config__.show(), cpu.model, cpu.flags,
        torch.get_num_threads(), graph.code, [_form(value) for value in inputs],
    ]  # fmt: skip
    for node in graph.graph.nodes:
        if node.op == "get_attr":
            value = getattr(graph, node.target).detach()
            numbers = value.tolist() if value.numel() <= SMALL else ()
            parts.append((node.target, _form(value), numbers))
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _form(value: torch.Tensor) -> tuple[object, ...]:
    return str(value.dtype), tuple(value.shape), value.stride()


@dataclass(frozen=True)
class Entry:
    """One graph's place in the store."""

    path: Path

    def load(self, graph: fx.GraphModule) -> Any:
        """The code's function over the weights of `graph`; None: none is kept.

        Args:
            graph: its convolutions packed, as when the code was made.
        """
        try:
            kept = json.loads(self.path.read_text(encoding="utf-8"))
            constants = {name: getattr(graph, own) for name, own in kept["constants"].items()}
            source = kept["source"]
        except (OSError, ValueError, KeyError, AttributeError):
            return None
        key, path = PyCodeCache.write(source)
        return PyCodeCache.load_by_key_path(key, path, attrs=constants).call

    def keep(self, code: Any, graph: fx.GraphModule) -> None:
        """Write what `torch._inductor.compile_fx.compile_fx_inner` made of `graph`.

        Where a constant is not one of the graph's, nothing is written: the next run compiles again.
        """
        own = {id(value): name for name, value in graph.named_buffers()}
        own |= {id(value): name for name, value in graph.named_parameters()}
        constants = {name: own.get(id(value)) for name, value in code.constants.items()}
        if None not in constants.values():
            text = json.dumps({"source": code.source_code, "constants": constants})
            atomic_files.write_text(self.path, text)


@contextmanager
def entry(key: str, notify: Callable[[str], None]) -> Iterator[Entry]:
    """The place of `key`, held so that of several ranks one compiles and the others wait for it.

    Args:
        notify: told if another process holds it.

    Raises:
        UserError: the store cannot be written.
    """
    place = folder()
    try:
        place.mkdir(parents=True, exist_ok=True)
        lock = (place / f"{key}.lock").open("a")
    except OSError as error:
        raise UserError(
            f"--frozen compiled: {place} cannot be written ({error.strerror}): set XDG_CACHE_HOME "
            "to a folder that can be, or use --frozen native."
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            notify("waiting for another process of this machine, which compiles the same step")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield Entry(place / f"{key}.json")
