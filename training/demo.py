"""The main job on this machine: a few pictures in, a learned word or style and pictures of it out.

Two ranks, started as on a cluster, train on the bundled miniature Stable Diffusion: a new word from
five pictures, or, with --method lora, a style from eight pictures with captions.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

MINIATURE = Path(__file__).parent / "miniature"
RESUME = "--resume_from_checkpoint"


@dataclass(frozen=True)
class Demo:
    """What a method is shown with.

    Attributes:
        teaches: what is learned from which pictures, in words.
        pictures: their folder in the miniature's.
        config: the training's keys, a file there.
        learned: the file that holds what was learned, and what it is called.
        folder: of the run, unless another is given.
        command: of make.
    """

    teaches: str
    pictures: str
    config: str
    learned: tuple[str, str]
    folder: Path
    command: str


DEMOS = {
    "textual_inversion": Demo(
        "a new word from five pictures",
        "concept",
        "demo.toml",
        ("The word it learned:", "learned_embeds.safetensors"),
        Path("runs/demo"),
        "make demo",
    ),
    "lora": Demo(
        "a style from eight pictures with captions",
        "style",
        "demo_lora.toml",
        ("The style it learned:", "pytorch_lora_weights.safetensors"),
        Path("runs/demo-lora"),
        "make demo-lora",
    ),
}


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
        epilog="Further flags go to training.<method>, for example --max_train_steps=300.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--method", choices=tuple(DEMOS), default="textual_inversion")
    parser.add_argument("--output_dir", type=Path, help="[runs/demo, or runs/demo-lora]")
    parser.add_argument("--ranks", type=int, default=2)
    words = list(sys.argv[1:] if argv is None else argv)
    options, more = parser.parse_known_args(words)
    demo, module = DEMOS[options.method], f"training.{options.method}"
    folder: Path = options.output_dir or demo.folder

    programs = Path(sys.executable).parent
    start = launcher(options.ranks, programs)
    how = "mpirun" if "mpirun" in start[0] else "torchrun, as Intel MPI is not here"
    many = f"{options.ranks} ranks" if options.ranks != 1 else "1 rank"
    print(
        f"Teaching a miniature Stable Diffusion {demo.teaches}, into {folder}/\n"
        f"({many} of {module}, started with {how})",
        flush=True,
    )
    code = _run([*start, module, *_flags(demo, folder), *more], programs)
    if code in (128 + signal.SIGINT, 128 + signal.SIGTERM):
        print(f"Resume with:  {way_on(words, demo.command)}", flush=True)
    if code:
        return code

    samples = folder / "samples"
    print(
        f"\n{demo.learned[0]:<23} {folder / demo.learned[1]}\n"
        f"Before and after:       {samples / 'comparison.png'}\n"
        f"All samples:            {samples}/\n"
        f"Curve (is it learning): {folder / 'loss.png'}\n"
        f"Report (everything):    {folder / 'report.html'}"
    )
    return 0


def way_on(words: Sequence[str], command: str = "make demo") -> str:
    """The command that goes on with a demo that was stopped, as it can be pasted into a shell.

    Args:
        words: the arguments of the one that was stopped.
        command: of make.
    """
    resuming = any(word.partition("=")[0] == RESUME for word in words)
    words = [word for word in words if not word.startswith("--method=")]  # which make says
    again = [*words] if resuming else [*words, f"{RESUME}=latest"]
    for_make = shlex.join(again).replace("$", "$$")
    return f"{command} ARGS={shlex.quote(for_make)}"


def _flags(demo: Demo, folder: Path) -> list[str]:
    return [
        f"--config={MINIATURE / demo.config}",
        f"--pretrained_model_name_or_path={MINIATURE / 'model'}",
        f"--train_data_dir={MINIATURE / demo.pictures}",
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
