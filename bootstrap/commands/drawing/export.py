"""`fab export`: a run's result as OpenVINO files, made on the head and brought home.

They go to runs/NAME/openvino there and here. `fab generate --engine openvino` draws with them on
the head; here `python -m training.generate runs/NAME --engine openvino` does, or a program of your
own without PyTorch (docs/openvino.md). The run must have finished. What is there already is made
anew, and what differs comes home. The nodes need `fab bootstrap --with openvino`.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import DownloadColumn, Progress, TimeElapsedColumn

from bootstrap import answers
from bootstrap.commands import command_line
from bootstrap.inventory.inventory import Inventory
from bootstrap.runs import results_owner, runs_on_head
from bootstrap.runs.drawing import files, head_program
from bootstrap.runs.results import disk_errors_named
from bootstrap.ssh.host import Host
from bootstrap.terminal import cell, column, exit_status, say

MODULE = "training.export"
FOLDER = "openvino"
"""In a run's folder: where training.generate looks for an export."""
PASSED_ON = ("batch_size", "height", "width", "weights", "calibration_steps", "merge_tokens")


def words(head: Host, name: str, chosen: argparse.Namespace) -> list[str]:
    """The program's flags; its files are on the head after this."""
    run = head.layout.run(name)
    flags = [run, f"--output_dir={run}/{FOLDER}"]
    flags += [f"--{key}" for key in ("dynamic", "no_guidance") if getattr(chosen, key)]
    if chosen.calibration_prompts is not None:
        flags.append(f"--calibration_prompts={head_program.send(head, chosen.calibration_prompts)}")
    return flags + files.words(head, chosen, PASSED_ON)


@exit_status()
def refuse_here(chosen: argparse.Namespace) -> int:
    """Check, without a connection, that the files that are to be sent are here; not 0: refused."""
    if chosen.calibration_prompts is not None:
        files.prompts_in(chosen.calibration_prompts, "--calibration-prompts")
    files.refuse_missing(chosen)
    return 0


def act(chosen: argparse.Namespace, inventory: Inventory, hosts: list[Host]) -> int:
    """Export, and bring the folder."""
    head = hosts[0]
    run = runs_on_head.the_run(head, chosen.run)
    name = run["name"]
    with disk_errors_named(name):
        here = results_owner.folder_of(inventory.name, run) / FOLDER
    console = Console(stderr=True)
    with console.status(cell(f"{head.name}: exporting {name} (minutes for Stable Diffusion 1.5)")):
        finished = head_program.run(head, MODULE, words(head, name, chosen), lambda line: None)
        made = f"{head.name}: what it exported"
        answers.read_last_line(dict[str, Any], finished.stdout, made)
    columns = (column("fetching {task.description}"), DownloadColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress, disk_errors_named(name):
        task = progress.add_task(f"{name}/{FOLDER}", total=None)
        there = f"{head.layout.run(name)}/{FOLDER}"
        arriving = here.with_name(f"{FOLDER}.fetching")
        head.fetch(there, arriving, lambda count: progress.advance(task, count))
        _put_in_place(arriving, here)
    say(str(here))
    return 0


def _put_in_place(arrived: Path, here: Path) -> None:
    """A whole export takes the place of an older one: files of two never lie together."""
    old = here.with_name(f"{here.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if here.exists():
        here.rename(old)
    arrived.rename(here)
    shutil.rmtree(old, ignore_errors=True)


def parser() -> argparse.ArgumentParser:
    """The command line: flags of training.export."""
    made = command_line.parser("export", __doc__)
    add = made.add_argument
    add("--batch-size", type=int, help="pictures at a time [1]")
    add("--height", type=int, help="in pixels, a multiple of 8 [what the model draws]")
    add("--width", type=int, help="in pixels, a multiple of 8 [what the model draws]")
    add("--dynamic", action="store_true", help="any batch and size: slower than a fixed shape")
    add("--no-guidance", action="store_true", help="a fixed shape for --guidance-scale 1 (LCM)")
    add("--weights", choices=("fp32", "bf16", "int8", "hybrid"), help="[fp32]")
    add("--calibration-prompts", type=Path, metavar="FILE",
        help="for hybrid: a file here, one prompt a line [training's sentences]")  # fmt: skip
    add("--calibration-steps", type=int, metavar="N", help="for hybrid: denoising steps in all")
    add("--merge-tokens", type=float, metavar="RATIO", help="Token Merging, up to 0.75 [0]")
    files.add_flags(made)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """`fab export`."""
    chosen = parser().parse_args(argv)
    return refuse_here(chosen) or command_line.run_command(chosen, act)


if __name__ == "__main__":
    sys.exit(main())
