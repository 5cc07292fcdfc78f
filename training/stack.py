"""Which software stack this run computes with: resolved here once, handed to who needs it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from training.cpu import Cpu
from training.errors import UserError

Optimize = Callable[[torch.nn.Module, torch.dtype], torch.nn.Module]


@dataclass(frozen=True)
class Stack:
    """What the rest of the program may ask of the stack.

    Attributes:
        name: "intel" or "upstream".
        backend: torch.distributed's backend, "ccl" or "gloo".
        optimize: `ipex.optimize` for a frozen module and a dtype, or None.
        versions: packages and their versions, for the log.
    """

    name: str
    backend: str
    optimize: Optimize | None
    versions: dict[str, str]


def resolve_stack(requested: str) -> Stack:
    """The stack for `requested` ("auto", "intel", "upstream").

    Raises:
        UserError: "intel" is asked for and IPEX cannot be imported.
    """
    versions = {"torch": str(torch.__version__)}
    ipex = None if requested == "upstream" else _import_ipex(required=requested == "intel")
    if ipex is None:
        return Stack("upstream", "gloo", None, versions)
    versions["intel_extension_for_pytorch"] = ipex.__version__
    backend = "gloo"
    if importlib.util.find_spec("oneccl_bindings_for_pytorch"):
        import oneccl_bindings_for_pytorch  # importing it registers the ccl backend

        versions["oneccl_bind_pt"] = oneccl_bindings_for_pytorch.__version__
        backend = "ccl"

    def optimize(module: torch.nn.Module, dtype: torch.dtype) -> torch.nn.Module:
        optimized: torch.nn.Module = ipex.optimize(module.eval(), dtype=dtype)
        return optimized

    return Stack("intel", backend, optimize, versions)


def _import_ipex(required: bool) -> Any:
    if importlib.util.find_spec("intel_extension_for_pytorch") is None:
        if required:
            raise UserError(
                "--stack intel: intel_extension_for_pytorch is not installed in this environment. "
                "Install requirements/intel.txt, or use --stack upstream."
            )
        return None
    try:
        import intel_extension_for_pytorch as ipex
    except (ImportError, OSError) as error:
        if required:
            raise UserError(
                f"--stack intel: intel_extension_for_pytorch does not import with torch "
                f"{torch.__version__} ({error}). It needs torch 2.8; or use --stack upstream."
            ) from error
        return None
    return ipex


def resolve_dtype(mixed_precision: str, cpu: Cpu) -> torch.dtype:
    """The dtype of the frozen weights: bf16 if asked for, or if "auto" and the CPU computes it."""
    if mixed_precision == "auto":
        return torch.bfloat16 if cpu.computes_bf16 else torch.float32
    return torch.bfloat16 if mixed_precision == "bf16" else torch.float32
