"""Make the virtual environments that the Makefile's targets run in.

    python -m scripts.environment upstream        make .venv (PyTorch, diffusers, the tools)
    python -m scripts.environment intel           make .venv-intel (the same with IPEX)
    python -m scripts.environment openvino        make .venv-openvino (the same with OpenVINO)
    python -m scripts.environment cluster         make .venv-cluster (pulumi, fabric; no PyTorch)
    python -m scripts.environment clean           remove the environments

An environment is built in .venvs/<profile>-<key>/ and .venv (or another) becomes a link to it
only once it works, so whoever finds the link finds a whole environment. The key stands for the
lock file, the interpreter and the place of the checkout: while none of them changes, a second run
has nothing to do. scripts/lock.py writes the lock files; docs/development.md tells the rest.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from scripts.environments.machine import check_python
from scripts.environments.place import clean, set_up
from scripts.environments.profiles import PROFILES, SetupError


def stop(number: int, frame: FrameType | None) -> None:
    """Let a terminated set-up clean up as one does that is interrupted."""
    raise KeyboardInterrupt


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Make the virtual environments that the Makefile's targets run in."
    )
    parser.add_argument(
        "--root",
        type=Path,
        default=Path(__file__).resolve().parent.parent,
        help="the checkout to work in (default: the one this script lies in)",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for profile in PROFILES.values():
        actions.add_parser(profile.name, help=f"make {profile.link}, unless it is there")
    actions.add_parser("clean", help="remove the environments")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks for; returns the exit status."""
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGHUP, stop)
    try:
        check_python()
        chosen = parse(arguments)
        root = chosen.root.resolve()
        if chosen.action == "clean":
            clean(root)
        else:
            set_up(root, PROFILES[chosen.action])
    except SetupError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted; nothing half-made is left.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
