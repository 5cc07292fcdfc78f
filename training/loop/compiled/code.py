"""Code that inductor wrote, loaded, and whether it can be compiled here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import CodeType, ModuleType
from typing import Any

import torch
from torch._inductor.exc import InductorError, InvalidCxxCompiler

from training.errors import first_line
from training.loop.compiled import store

Code = Callable[[list[torch.Tensor]], Any]
"""Takes a graph's inputs, in a list that it empties; returns its outputs."""


def compiler_is_missing() -> bool:
    """Whether there is no C++ compiler that inductor can use."""
    from torch._inductor import cpp_builder

    try:
        cpp_builder.get_cpp_compiler()
    except (InvalidCxxCompiler, InductorError):
        return True
    return False


def load(source: str, constants: Mapping[str, torch.Tensor], notify: Callable[[str], None]) -> Code:
    """The function that inductor wrote, over `constants`.

    Compiled kernels that are missing or damaged are compiled again.

    Raises:
        CannotUse: it cannot be loaded.
    """
    module, text = ModuleType("training_step"), _compiled(source)
    dropped: set[str | None] = set()
    while True:
        try:
            exec(text, vars(module))
            break
        except ImportError as error:
            if error.path in dropped or not store.drop_kernel(error.path):
                raise store.CannotUse(_not_loaded(error)) from error
            dropped.add(error.path)
            notify(f"--frozen compiled: {error.path} is damaged: compiled again")
        except (OSError, AttributeError, NameError, TypeError) as error:
            raise store.CannotUse(_not_loaded(error)) from error
    vars(module).update(constants)
    code: Code = module.call
    return code


def _compiled(source: str) -> CodeType:
    try:
        return compile(source, "<training step>", "exec")
    except SyntaxError as error:
        raise store.CannotUse(_not_loaded(error)) from error


def _not_loaded(error: Exception) -> str:
    return f"what is kept cannot be loaded ({first_line(error)})"
