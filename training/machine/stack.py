"""Which software stack this run computes with: resolved here once, handed to who needs it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from training.errors import UserError
from training.machine.ipex import import_ipex

Optimize = Callable[[torch.nn.Module, torch.dtype, bool], torch.nn.Module]


@dataclass(frozen=True)
class Stack:
    """What the rest of the program may ask of the stack.

    Attributes:
        name: "intel" or "upstream".
        backend: torch.distributed's backend, "ccl" or "gloo".
        problem: why it is "gloo" although oneCCL's bindings are installed; else "".
        optimize: `ipex.optimize`, or None. Takes a module, a dtype, and whether a gradient
            must pass through; returns the module frozen, or raises `UserError` where this
            CPU cannot compute it so.
        versions: packages and their versions, for the log.
    """

    name: str
    backend: str
    optimize: Optimize | None
    versions: dict[str, str]
    problem: str = ""


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
    backend, problem = _import_oneccl(versions)

    def optimize(module: torch.nn.Module, dtype: torch.dtype, gradient: bool) -> torch.nn.Module:
        return _ipex_optimize(ipex, module, dtype, gradient)

    return Stack("intel", backend, optimize, versions, problem)


def _import_oneccl(versions: dict[str, str]) -> tuple[str, str]:
    """The backend, and what is wrong with the bindings where they are there and do not import."""
    if importlib.util.find_spec("oneccl_bindings_for_pytorch") is None:
        return "gloo", ""
    try:
        import oneccl_bindings_for_pytorch  # importing it registers the ccl backend
    except Exception as error:  # Whatever it is: the ranks can do without.
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        return "gloo", f"its bindings do not import ({reason})"
    versions["oneccl_bind_pt"] = oneccl_bindings_for_pytorch.__version__
    return "ccl", ""


def _ipex_optimize(
    ipex: Any, module: torch.nn.Module, dtype: torch.dtype, gradient: bool
) -> torch.nn.Module:
    """Freeze `module` and let IPEX repack its weights.

    IPEX 2.8's form for inference drops the gradient that should pass through the module: in
    float32 none arrives at its input, and no error says so. Its form for training, asked for
    by way of an optimizer that is never used, keeps it.
    """
    try:
        if not gradient:
            return _frozen(ipex.optimize(module.eval(), dtype=dtype))
        module.requires_grad_(True).train()
        unused = torch.optim.SGD(module.parameters(), lr=1.0)
        optimized, _ = ipex.optimize(module, dtype=dtype, optimizer=unused)
        return _frozen(optimized)
    except (AssertionError, AttributeError, NotImplementedError) as error:
        # AttributeError: it stumbles over modules that hold None, as a VAE without attention does.
        raise UserError(
            f"--frozen ipex: ipex.optimize cannot prepare {type(module).__name__} in "
            f"{str(dtype).removeprefix('torch.')} on this CPU ({error}). "
            "Use --frozen native, or --mixed_precision no."
        ) from error


def _frozen(module: torch.nn.Module) -> torch.nn.Module:
    return module.eval().requires_grad_(False)


def _import_ipex(required: bool) -> Any:
    if importlib.util.find_spec("intel_extension_for_pytorch") is None:
        if required:
            raise UserError(
                "--stack intel: intel_extension_for_pytorch is not installed in this environment. "
                "Install requirements/intel.txt, or use --stack upstream."
            )
        return None
    try:
        return import_ipex()
    except (ImportError, OSError) as error:
        if required:
            raise UserError(
                f"--stack intel: intel_extension_for_pytorch does not import with torch "
                f"{torch.__version__} ({error}). It needs torch 2.8; or use --stack upstream."
            ) from error
        return None
