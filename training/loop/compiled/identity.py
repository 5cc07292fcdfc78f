"""A digest of all that decides what tracing a training step finds, so that it need not be traced.

Of the models it takes what can be seen from outside: each module's class and settings, each
weight's shape, the numbers of weights that are so small that inductor writes them into its code.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from training.loop.compiled.constants import LARGEST, PARTS
from training.machine.cpu import this_cpu
from training.method import Values
from training.models.loading import Models

PACKAGES = ("torch", "diffusers", "transformers", "peft")
SOURCES = ("method.py", "methods", "models", "machine", "loop/compiled")
"""What of this package decides the graph, the code, or what is kept of them."""
SMALL = 8
"""Inductor writes the values of constants up to this many elements into the code."""
LEFT_OUT = (
    "_name_or_path", "name_or_path", "base_model_name_or_path", "revision", "_commit_hash",
    "_use_default_values",
)  # fmt: skip
"""Settings that say where a model and its settings come from, not what it computes; the last is in
another order in every process."""
DEPTH = 6
PLAIN = (type(None), bool, int, float, str, bytes, torch.dtype, torch.device)


def identity_of(
    models: Models,
    parameters: Values,
    settings: Sequence[object],
    inputs: Sequence[torch.Tensor],
) -> str:
    """The digest for losses under `models`, of `parameters`, for inputs of these shapes.

    Args:
        settings: what else the losses are computed by.
        inputs: of `training.loop.compiled.graph.inputs_of`.
    """
    return digest([*surroundings(), *_about_models(models, parameters), list(settings),
                   [form(value) for value in inputs]])  # fmt: skip


def digest(parts: Sequence[object]) -> str:
    """32 characters for what `parts` are written as."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def form(value: torch.Tensor) -> tuple[object, ...]:
    """A tensor's dtype, shape and strides."""
    return str(value.dtype), tuple(value.shape), value.stride()


def machine() -> list[object]:
    """What compiled code depends on beside its graph: versions, processor, threads."""
    cpu = this_cpu()
    return [
        str(torch.__version__), torch.__config__.show(), cpu.model, cpu.flags,
        torch.get_num_threads(),
    ]  # fmt: skip


def surroundings() -> list[object]:
    """What decides a trace beside the models: sources, versions, PyTorch's switches."""
    return [
        *machine(), sys.version, _sources(), [_version(name) for name in PACKAGES],
        str(torch.get_default_dtype()), torch.get_float32_matmul_precision(),
        torch.are_deterministic_algorithms_enabled(), torch.backends.mkldnn.enabled,
        torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.math_sdp_enabled(),
    ]  # fmt: skip


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _sources() -> str:
    root, found = Path(__file__).parents[2], hashlib.sha256()
    for name in SOURCES:
        place = root / name
        files = [place] if place.is_file() else sorted(place.rglob("*"))
        for path in files:
            if path.suffix in (".py", ".cpp", ".h"):
                found.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return found.hexdigest()


def _about_models(models: Models, parameters: Values) -> list[object]:
    trained = {id(value): name for name, value in parameters.items()}
    scheduler = models.noise_scheduler
    about: list[object] = [
        list(parameters), _settings(dict(scheduler.config)), scheduler.alphas_cumprod.tolist(),
        models.vae.config.scaling_factor,
    ]  # fmt: skip
    for part in PARTS:
        module: nn.Module = getattr(models, part)
        for path, each in module.named_modules():
            about.append((part, path, _about_module(each)))
        for path, value in [*module.named_parameters(), *module.named_buffers()]:
            name = trained.get(id(value))
            small = name is None and value.numel() <= SMALL and not value.is_meta
            about.append((part, path, name, form(value), value.tolist() if small else ()))
    return about


def _about_module(module: nn.Module) -> object:
    """Its class, and what it holds beside weights and modules."""
    hooks = len(module._forward_hooks) + len(module._forward_pre_hooks)
    own = {key: value for key, value in vars(module).items() if key not in _EVERY_MODULE}
    return _name(type(module)), module.training, hooks, _settings(own)


_EVERY_MODULE = frozenset(vars(nn.Module()))


def _settings(value: Any, depth: int = DEPTH) -> object:
    """Something that is written alike in every process, for alike settings."""
    if isinstance(value, PLAIN):
        return repr(value)
    if isinstance(value, torch.Tensor):  # neither weight nor buffer: its values may be kept
        kept = value.numel() <= LARGEST and not value.is_meta
        return form(value), value.tolist() if kept else ()
    if isinstance(value, nn.Module):  # has a path of its own
        return _name(type(value))
    if isinstance(value, type) or (callable(value) and hasattr(value, "__qualname__")):
        return _name(value)
    if depth == 0:
        return _name(type(value))
    if isinstance(value, Mapping):
        return [
            (repr(key), _settings(each, depth - 1))
            for key, each in value.items()
            if key not in LEFT_OUT
        ]
    if isinstance(value, list | tuple):
        return [_settings(each, depth - 1) for each in value]
    if isinstance(value, set | frozenset):
        return sorted(repr(_settings(each, depth - 1)) for each in value)
    return _name(type(value)), _settings(getattr(value, "__dict__", {}), depth - 1)


def _name(kind: type | Callable[..., object]) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
