"""MKL's vector functions, called once on one thread before two threads can call them first.

oneMKL 2024.2, which PyTorch's wheels hold, chooses the kernel of a vector function (exp, log, sqrt
...) at the function's first call in a process. Where two threads make that call at once, one of
them can run a kernel of low accuracy over its part of the tensor, in this one call: half of a
4,096-element exp with relative errors up to 1.5e-4. Then a resumed run goes another way than one
that was never interrupted.

Source: PyTorch issue 188792 (oneMKL 2024.2.0 to 2024.2.2; not seen since 2025.0). Pull request
188791 does in ATen what is done here: one call of one element, in each precision, before any other.
"""

from __future__ import annotations

import torch

FUNCTIONS = (
    torch.acos,
    torch.asin,
    torch.atan,
    torch.cos,
    torch.erf,
    torch.erfc,
    torch.erfinv,
    torch.exp,
    torch.log,
    torch.log10,
    torch.log2,
    torch.logit,
    torch.sin,
    torch.sqrt,
    torch.tan,
    torch.tanh,
    torch.trunc,
)
"""What ATen sends to MKL: each `IMPLEMENT_VML_MKL` of aten/src/ATen/cpu/vml.h, and logit, which
calls MKL's logarithm by another of its names (aten/src/ATen/native/cpu/UnaryOpsKernel.cpp)."""
PRECISIONS = (torch.float32, torch.float64)
"""Other types do not reach MKL's vector functions."""


def resolve_kernels() -> None:
    """Have MKL choose the kernel of every function of `FUNCTIONS`, in both precisions.

    Every process that computes calls this before anything else. One element is never shared among
    threads. Takes about a millisecond; a second call changes nothing.
    """
    for precision in PRECISIONS:
        one = torch.full((1,), 0.5, dtype=precision)
        for function in FUNCTIONS:
            function(one)
