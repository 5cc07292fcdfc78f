"""Find out how this machine trains fastest: `python -m training.tune --help`."""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import tomli_w
from rich.console import Console
from rich.table import Table

from training import atomic_files
from training.config.command_line import parse
from training.config.run import RunConfig, config_of
from training.errors import UserError
from training.machine.cpu import physical_cores, this_cpu
from training.storage.run_directory import values_of
from training.tune.search import Measured, Space, best, search
from training.tune.trial import Trials, training_program

PROGRAM = "python -m training.tune"
DESCRIPTION = """\
Find out how this machine trains fastest, in a minute or two of short real trainings.

  python -m training.tune --budget 300 --output tuned.json \\
      --pretrained_model_name_or_path stable-diffusion-v1-5/stable-diffusion-v1-5 \\
      --train_data_dir pictures/ --resolution 512 --train_batch_size 1

Takes the flags of the training that is to follow (those of --method), of which model, resolution
and batch decide. Each trial runs some steps of it under mpirun, in a temporary folder. Engines and
precisions come first; with the best of these, more ranks as long as that gains; then fewer threads
per rank; at the end the compiled engine, whose first trial compiles for minutes: give it a --budget
of ten minutes or more. A trial that would use up the memory is ended, or not begun.

Shows a table: images per second of the whole machine, seconds per image, and the memory of the
largest rank. The fastest is written to --output; fab tune leaves it where fab train finds it.
More ranks make the global batch larger, as they do in training."""
UNENDING = {
    "max_train_steps": 1_000_000, "save_steps": 1_000_000, "checkpointing_steps": 1_000_000,
    "validation_steps": 1_000_000, "evaluation_steps": 1_000_000, "num_evaluation_samples": 1,
    "report_to": "none", "push_to_hub": False, "save_as_full_pipeline": False,
    "resume_from_checkpoint": None, "overwrite_output_dir": False, "validation_prompt": None,
}  # fmt: skip
"""A trial is ended once it has told its speed, and leaves nothing."""
ASSUMED = {
    "placeholder_token": "--placeholder_token=<tune>",
    "initializer_token": "--initializer_token=a",
}
"""What decides nothing about speed, and need not be given."""
ENGINES = ("native", "ipex", "compiled")
PRECISIONS = ("bf16", "no")


def main(argv: Sequence[str] | None = None) -> int:
    """Tune, print the table and the winner; returns the exit code."""
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGHUP, _end)
    try:
        chosen, words = _parser().parse_known_args(argv)
        return _tune(chosen, _config(chosen.method, words))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2
    except KeyboardInterrupt:
        print("interrupted: the trial has been ended, nothing was written", file=sys.stderr)
        return 130


def _end(number: int, frame: FrameType | None) -> None:
    """As at Ctrl-C."""
    del number, frame
    raise KeyboardInterrupt


def _config(method: str, words: list[str]) -> RunConfig:
    """The training's configuration, checked before anything runs.

    Raises:
        UserError: names all that is wrong with it.
    """
    try:
        kind = config_of(method)
    except ValueError as error:
        raise UserError(f"--method {method}: {error}.") from error
    if method == "textual_inversion":
        given = {word.lstrip("-").partition("=")[0] for word in words if word.startswith("--")}
        words = [*words, *(flag for key, flag in ASSUMED.items() if key not in given)]
    config, _ = parse(kind, words, PROGRAM, DESCRIPTION)
    return config


def _tune(chosen: argparse.Namespace, config: RunConfig) -> int:
    cpu, cores = this_cpu(), physical_cores()
    mpirun = _mpirun(chosen.mpirun)
    space = Space(
        len(cores),
        chosen.frozen or _engines(),
        chosen.precision or [name for name in PRECISIONS if name == "no" or cpu.computes_bf16],
        [1] if mpirun is None else tuple(chosen.ranks or ()),
        tuple(chosen.threads or ()),
    )
    if mpirun is None:
        _say("no mpirun here: one rank alone is tried")
    _say(f"{cpu.model}, {len(cores)} cores; {chosen.budget:g} s at most")
    with tempfile.TemporaryDirectory(prefix="tune-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / "trial.toml").write_text(tomli_w.dumps(_values(config, folder)))
        program = [*training_program(config.method), "--config", str(folder / "trial.toml")]
        end = time.monotonic() + chosen.budget
        trials = Trials(program, folder, mpirun, cores, end, _say, _placement(chosen.placement))
        tried = search(space, trials)
    winner = best(tried)
    Console().print(_table(tried, winner))
    if winner is None:
        problems = dict.fromkeys(each.problem for each in tried)
        more = ". Give a larger --budget." if any("budget" in each for each in problems) else ""
        raise UserError(f"nothing could be measured: {'; '.join(problems)}{more}")
    setting = winner.setting
    print(f"fastest: {setting}: --frozen {setting.frozen} --mixed_precision "
          f"{setting.mixed_precision}, mpirun -n {setting.ranks}, OMP_NUM_THREADS="
          f"{setting.threads}")  # fmt: skip
    atomic_files.write_text(chosen.output, json.dumps(_found(config, tried, winner)) + "\n")
    print(f"written: {chosen.output}")
    return 0


def _values(config: RunConfig, folder: Path) -> dict[str, Any]:
    """The keys of every trial: those of the training, which does not end by itself."""
    latents = config.latents_cache_dir or folder / "latents"
    changed = config.model_copy(update={**UNENDING, "latents_cache_dir": latents})
    return {**values_of(changed), "train_data_dir": str(config.train_data_dir.absolute())}


def _found(config: RunConfig, tried: Sequence[Measured], winner: Measured) -> dict[str, Any]:
    """What is written: for what it holds, the winner, and all that was tried."""
    cpu = this_cpu()
    return {
        "method": config.method,
        "pretrained_model_name_or_path": config.pretrained_model_name_or_path,
        "resolution": config.resolution,
        "train_batch_size": config.train_batch_size,
        "cpu": cpu.model,
        "cores": cpu.cores,
        "time": round(time.time()),
        **vars(winner.setting),
        "images_per_second": winner.images_per_second,
        "tried": [
            {**vars(each.setting), "images_per_second": each.images_per_second, "peak": each.peak,
             "problem": each.problem}
            for each in tried
        ],
    }  # fmt: skip


def _table(tried: Sequence[Measured], winner: Measured | None) -> Table:
    table = Table("engine", "precision", "ranks", "threads", "images/s", "s per image", "GB a rank")
    for each in sorted(tried, key=lambda each: -each.images_per_second):
        setting, speed = each.setting, each.images_per_second
        row = [setting.frozen, {"no": "fp32"}.get(setting.mixed_precision, setting.mixed_precision),
               str(setting.ranks), str(setting.threads)]  # fmt: skip
        told = [f"{speed:.3g}", f"{1 / speed:.3g}", f"{each.peak / 1e9:.1f}"] if speed else [
            each.problem, "", ""]  # fmt: skip
        table.add_row(*row, *told, style="bold" if each is winner else None)
    return table


def _engines() -> list[str]:
    """Those that this machine has."""
    ipex = importlib.util.find_spec("intel_extension_for_pytorch") is not None
    compiler = shutil.which(os.environ.get("CXX") or "g++") is not None
    there = {"native": True, "ipex": ipex, "compiled": compiler}
    return [name for name in ENGINES if there[name]]


def _placement(path: Path | None) -> dict[str, dict[str, str]]:
    """What `fab tune` says of the ranks' environment.

    Raises:
        UserError: the file cannot be read.
    """
    if path is None:
        return {}
    try:
        found: dict[str, dict[str, str]] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"--placement {path}: cannot be read ({error}).") from error
    return found


def _mpirun(given: str | None) -> str | None:
    """The one that is asked for, this environment's, or the one on the path."""
    own = Path(sys.executable).with_name("mpirun")
    return given or (str(own) if own.exists() else shutil.which("mpirun"))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        usage="%(prog)s [--budget SECONDS] [--output FILE] [THE TRAINING'S FLAGS]",
        description=DESCRIPTION,
        epilog="All other flags are the training's: python -m training.textual_inversion --help.",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--method", default="textual_inversion", help="what is trained [textual_inversion]")
    add("--budget", type=_seconds, default=120.0, metavar="SECONDS",
        help="for all trials together; the one that runs then is ended [120]")  # fmt: skip
    add("--output", type=Path, default=Path("tuned.json"), help="[tuned.json]")
    add("--frozen", choices=ENGINES, nargs="+", help="try these engines [all that are here]")
    add("--precision", choices=PRECISIONS, nargs="+",
        help="try these precisions; no is fp32 [those that the CPU computes in]")  # fmt: skip
    add("--ranks", type=_count, nargs="+", metavar="N",
        help="try these numbers of ranks [one per 32 cores, then more while it gains]")  # fmt: skip
    add("--threads", type=_count, nargs="+", metavar="N",
        help="try these threads per rank [a rank's share of the cores, then fewer]")  # fmt: skip
    add("--placement", type=Path, metavar="FILE",
        help="JSON: variables of the ranks, by their number, as fab tune gives them")  # fmt: skip
    add("--mpirun", help="[that of this environment, or on the PATH]")
    return parser


def _count(text: str) -> int:
    """A whole number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no whole number from 1 on")
    return int(text)


def _seconds(text: str) -> float:
    """More than none, and not forever."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no number of seconds")
    return seconds


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
