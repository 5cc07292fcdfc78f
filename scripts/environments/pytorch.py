"""PyTorch and the oneCCL bindings, whose builds lie on indexes of their own."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from scripts.environments.indexes import (
    ONECCL_INDEX,
    ONECCL_INDEX_VARIABLE,
    TORCH_INDEX,
    TORCH_INDEX_VARIABLE,
    chosen_index,
    without_user,
)
from scripts.environments.steps import Steps, pip, python, say

# A CUDA build of torch refuses to be imported without its CUDA libraries. It loads these only once
# it meets a GPU, so they are left out: half a gigabyte that nothing here would ever open.
NEVER_LOADED_ON_CPU = ("nvidia-cuda-nvrtc", "nvidia-cusolver", "nvidia-nvtx", "triton")
CUDA_PACKAGES = ("cuda-", "nvidia-", "triton")


def cuda_requirements(home: Path) -> list[str]:
    """The CUDA packages that the installed torch asks for and loads on import; none for CPU builds.

    They are read from torch's own metadata, which pins them, and so need no lock file of their own.
    """
    from email.parser import HeaderParser

    found = sorted(home.glob("lib/python*/site-packages/torch-*.dist-info/METADATA"))
    if not found:
        return []
    metadata = HeaderParser().parsestr(found[-1].read_text())
    wanted = [
        text
        for text in metadata.get_all("Requires-Dist", [])
        if text.startswith(CUDA_PACKAGES) and "extra ==" not in text
    ]
    return [text for text in wanted if not text.startswith(NEVER_LOADED_ON_CPU)]


def install_torch(steps: Steps, home: Path, version: str) -> None:
    """Install torch: a CPU build where there is one, else what the configured index offers."""
    source = "from the configured index"
    index = None
    # Only on Linux are the index's ordinary builds made for CUDA.
    if sys.platform == "linux" or TORCH_INDEX_VARIABLE in os.environ:
        index = chosen_index(TORCH_INDEX_VARIABLE, TORCH_INDEX)
        if index is not None:
            source = f"from {without_user(index)}"
    steps.run(
        f"PyTorch {version}, {source}",
        [*pip(home), "install", "--no-deps", f"torch=={version}"],
        "Check the network, then run this again. "
        + (
            f"{TORCH_INDEX_VARIABLE}=none takes torch from the configured index instead."
            if index is not None
            else f"{TORCH_INDEX_VARIABLE} can name an index that has this release."
        ),
        index,
    )
    wanted = cuda_requirements(home)
    if wanted:
        steps.run(
            "CUDA libraries, which this build of PyTorch needs to be imported at all",
            [*pip(home), "install", *wanted],
            f"Check the network, or name an index with CPU builds in {TORCH_INDEX_VARIABLE}.",
        )


def install_oneccl(steps: Steps, home: Path, version: str) -> None:
    """Install the oneCCL bindings where Intel's index answers; training falls back to gloo."""
    without = "training on several machines uses gloo"
    index = chosen_index(ONECCL_INDEX_VARIABLE, ONECCL_INDEX)
    if index is None:
        reason = (
            f"{ONECCL_INDEX_VARIABLE} says so"
            if ONECCL_INDEX_VARIABLE in os.environ
            else "Intel's index does not answer"
        )
        say(f"  oneCCL bindings: left out, {reason}; {without}")
        return
    package = "oneccl_bind_pt"
    imports = "import torch, oneccl_bindings_for_pytorch"
    install = [*pip(home), "install", "--no-deps", f"{package}=={version}"]
    source = without_user(index)
    if not steps.attempt(f"oneCCL bindings {version}, from {source}", install, index):
        say(f"  oneCCL bindings: left out, {source} has no {version} for this Python; {without}")
    elif not steps.attempt("oneCCL bindings, first import", [python(home), "-I", "-c", imports]):
        steps.attempt("oneCCL bindings, taken out", [*pip(home), "uninstall", "--yes", package])
        say(f"  oneCCL bindings: left out, they do not import here; {without}")
