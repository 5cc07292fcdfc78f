"""Stand-ins for Intel's packages, as far as ranks need them to meet.

oneCCL's bindings are on no index at hand: these register a backend of the same name, over gloo's.
"""

from __future__ import annotations

from pathlib import Path

WHOLE = """
import torch.distributed as dist
__version__ = "2.8.0"
def make(store, rank, size, timeout):
    return dist.ProcessGroupGloo(store, rank, size, timeout=timeout)
dist.Backend.register_backend("ccl", make, devices=["cpu"])
"""
BROKEN = "import ctypes; ctypes.CDLL('libccl.so.1.0')\n"
"""As they are where their library is not found."""


def put_intel_packages(folder: Path, bindings: str | None) -> Path:
    """Put both into a folder that Python looks in; returns it.

    Args:
        bindings: `WHOLE`, `BROKEN`, or None: there are none.
    """
    folder.mkdir(exist_ok=True)
    (folder / "intel_extension_for_pytorch.py").write_text("__version__ = '2.8.0'\n")
    if bindings is not None:
        (folder / "oneccl_bindings_for_pytorch.py").write_text(bindings)
    return folder
