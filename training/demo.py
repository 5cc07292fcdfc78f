"""The main job on this machine: five pictures in, a learned word and pictures of it out.

Two ranks, started as on a cluster, train a new word on the bundled miniature Stable Diffusion.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

MINIATURE = Path(__file__).parent / "miniature"
CONFIG = MINIATURE / "demo.toml"
MODULE = "training.textual_inversion"
RESUME = "--resume_from_checkpoint"


def launcher(ranks: int, environment: Path) -> list[str]:
    """The command that starts `ranks` ranks of what follows it: mpirun's, else torchrun's.

    Args:
        environment: the folder of this environment's programs.
    """
    mpirun = environment / "mpirun"
    if mpirun.exists():
        return [str(mpirun), "-n", str(ranks), sys.executable, "-m"]
    return [
        sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={ranks}", "-m",
    ]  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Train, draw, and say where the result is; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m training.demo",
        description=__doc__,
        epilog=f"Further flags go to {MODULE}, for example --max_train_steps=300.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output_dir", type=Path, default=Path("runs/demo"))
    parser.add_argument("--ranks", type=int, default=2)
    words = list(sys.argv[1:] if argv is None else argv)
    options, more = parser.parse_known_args(words)
    folder: Path = options.output_dir

    programs = Path(sys.executable).parent
    start = launcher(options.ranks, programs)
    how = "mpirun" if "mpirun" in start[0] else "torchrun, as Intel MPI is not here"
    many = f"{options.ranks} ranks" if options.ranks != 1 else "1 rank"
    print(
        f"Teaching a miniature Stable Diffusion a new word from five pictures, into {folder}/\n"
        f"({many} of {MODULE}, started with {how})",
        flush=True,
    )
    code = _run([*start, MODULE, *_flags(folder), *more], programs)
    if code in (128 + signal.SIGINT, 128 + signal.SIGTERM):
        print(f"Resume with:  {way_on(words)}", flush=True)
    if code:
        return code

    samples = folder / "samples"
    print(
        f"\nThe word it learned:    {folder / 'learned_embeds.safetensors'}\n"
        f"Before and after:       {samples / 'comparison.png'}\n"
        f"All samples:            {samples}/\n"
        f"Curve (is it learning): {folder / 'loss.png'}\n"
        f"Report (everything):    {folder / 'report.html'}"
    )
    return 0


def way_on(words: Sequence[str]) -> str:
    """The command that goes on with a demo that was stopped, as it can be pasted into a shell.

    Args:
        words: the arguments of the one that was stopped.
    """
    resuming = any(word.partition("=")[0] == RESUME for word in words)
    again = [*words] if resuming else [*words, f"{RESUME}=latest"]
    for_make = shlex.join(again).replace("$", "$$")
    return f"make demo ARGS={shlex.quote(for_make)}"


def _flags(folder: Path) -> list[str]:
    return [
        f"--config={CONFIG}",
        f"--pretrained_model_name_or_path={MINIATURE / 'model'}",
        f"--train_data_dir={MINIATURE / 'concept'}",
        f"--output_dir={folder}",
        "--overwrite_output_dir",
    ]


def _run(command: list[str], programs: Path) -> int:
    """Run the ranks to their end; Ctrl-C reaches them, and is waited for.

    Returns:
        Their exit code; 128 + SIGINT where they ended by Ctrl-C, whatever the launcher makes of it.
    """
    environment = dict(os.environ)
    # Intel MPI's mpirun finds its own programs by PATH; its ranks pass on a terminal's bar.
    environment["PATH"] = f"{programs}{os.pathsep}{environment.get('PATH', '')}"
    if sys.stderr.isatty():
        environment.setdefault("TTY_COMPATIBLE", "1")
    process = subprocess.Popen(command, env=environment)
    interrupted = False
    while True:
        try:
            code = process.wait()
            if interrupted and code:
                return 128 + signal.SIGINT
            return code if code >= 0 else 128 - code
        except KeyboardInterrupt:
            interrupted = True
            process.send_signal(signal.SIGINT)


if __name__ == "__main__":
    sys.exit(main())
