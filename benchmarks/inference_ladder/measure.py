"""One rung measured: its process, and what that process is started with."""

from __future__ import annotations

import argparse
import ctypes.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.inference_ladder.rungs import BASE, DPM, Rung
from benchmarks.train_step.model import ROOT

LIBRARIES = {"tcmalloc": ("tcmalloc", "tcmalloc_minimal"), "jemalloc": ("jemalloc",)}
AFFINITY = {
    "KMP_AFFINITY": "granularity=fine,compact,1,0",
    "KMP_BLOCKTIME": "1",
}
"""Of libiomp5: a thread stays on its core, and sleeps soon after its work."""
PICTURES = "pictures"


def measure(rung: Rung, folder: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    """What `benchmarks.inference_ladder.process` found, or {"reason": why it was not run}."""
    reason = why_not(rung, chosen.mini, chosen.ipex_python)
    if reason:
        return {"reason": reason}
    output = folder / PICTURES / f"{rung.key}.json"
    output.parent.mkdir(exist_ok=True)
    python = chosen.ipex_python if rung.engine == "ipex" else sys.executable
    words = [str(python), "-m", "benchmarks.inference_ladder.process", rung.key, str(folder),
             str(output), "--steps", str(chosen.steps), "--pictures", str(chosen.pictures),
             "--started", str(time.time())]  # fmt: skip
    if chosen.mini:
        words.append("--mini")
    elif rung == BASE and not (output.parent / f"{DPM.scheduler}.png").exists():
        words += ["--reference", DPM.scheduler]
    ended = subprocess.run(
        words, cwd=ROOT, env=os.environ | system(rung), capture_output=True, text=True, check=False
    )
    if ended.returncode:
        said = ended.stderr.strip().splitlines() or [f"it ended with {ended.returncode}"]
        return {"reason": said[-1][:300]}
    found: dict[str, Any] = json.loads(output.read_text())
    return found


def why_not(rung: Rung, mini: bool, ipex_python: Path) -> str:
    """Why a rung cannot be measured here; "" if it can."""
    if rung.engine == "ipex" and not ipex_python.exists():
        return f"{ipex_python} is not there (make environment-intel, or --ipex_python)"
    if rung.allocator and not _allocator(rung):
        return f"{rung.allocator} is not installed"
    if mini and rung == DPM:
        return "the bundled model's schedule ends at zero signal, where DPM++ cannot begin"
    return ""


def system(rung: Rung) -> dict[str, str]:
    """The environment variables of a rung's process: libraries to preload, and pinning."""
    if not rung.allocator:
        return {}
    allocator = _allocator(rung)
    openmp = Path(sys.prefix) / "lib" / "libiomp5.so"
    preload = [allocator] if allocator else []
    pinning: dict[str, str] = {}
    if rung.engine != "ipex" and openmp.exists():  # IPEX is linked against GNU's
        preload.append(str(openmp))
        pinning = AFFINITY
    return {"LD_PRELOAD": ":".join(preload), **pinning} if preload else {}


def _allocator(rung: Rung) -> str | None:
    """The file name of its library, where the system has it."""
    return next(filter(None, map(ctypes.util.find_library, LIBRARIES[rung.allocator])), None)
