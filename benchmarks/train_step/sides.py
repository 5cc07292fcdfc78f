"""The processes that are compared: ours, and one that does the step of diffusers' script."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.results import middle
from benchmarks.train_step.flags import training_flags
from benchmarks.train_step.model import ROOT
from training.machine.cpu import this_cpu
from training.machine.ipex import NAME as IPEX
from training.storage.events import events_of, read_events

Measured = dict[str, float]


def measure(
    folder: Path, precision: str, engine: str, chosen: argparse.Namespace, run: Path
) -> Measured:
    """Train `chosen.steps` steps in a process of its own.

    Args:
        engine: the value of `--frozen`.

    Returns:
        seconds: the median per step; first_seconds: from the process's start to the end of
        its first step; peak_gb: the most memory that it had at once, in 10^9 bytes.

    Raises:
        RuntimeError: the process failed.
    """
    log = run.with_suffix(".log")
    started = time.time()
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", f"training.{chosen.method}",
             *training_flags(folder, run, engine, precision, chosen.steps, chosen)],
            cwd=ROOT, stdout=stream, stderr=subprocess.STDOUT,
        )  # fmt: skip
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"training ended with {process.returncode}:\n{log.read_text()[-2000:]}")
    first, *steps = events_of(read_events(run), "step", "images_per_second")
    return {
        "seconds": middle([1 / step["images_per_second"] for step in steps]),
        "first_seconds": first["time"] - started,
        "peak_gb": usage.ru_maxrss * 1024 / 1e9,
    }


def measure_reference(
    folder: Path, precision: str, chosen: argparse.Namespace, ipex: bool = False
) -> Measured:
    """Do the same number of steps as diffusers' script does them; returns as `measure`.

    Args:
        ipex: with the two lines that put IPEX into the script.

    Raises:
        RuntimeError: the process failed.
    """
    words = (folder / "model", chosen.method, precision, chosen.steps, chosen.resolution)
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.train_step.reference", *map(str, words),
         *(["--ipex"] if ipex else [])],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"the reference ended with {done.returncode}:\n{done.stderr[-2000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    return {"seconds": middle(found["seconds"][1:]), "peak_gb": found["peak_gb"]}


def ipex_trains(method: str, precision: str) -> bool:
    """Whether the reference can be measured with the two lines that put IPEX into the script.

    They are known for `textual_inversion.py`. In fp32 `ipex.optimize` without an optimizer drops
    the gradient on its way through the UNet (`training.machine.stack`): there is no step to time.
    """
    if method != "textual_inversion" or precision != "bf16" or not this_cpu().computes_bf16:
        return False
    if importlib.util.find_spec(IPEX) is None:
        return False
    # Elsewhere than here, since importing it changes what PyTorch does.
    importing = [sys.executable, "-c", f"import {IPEX}"]
    return subprocess.run(importing, capture_output=True, check=False).returncode == 0
