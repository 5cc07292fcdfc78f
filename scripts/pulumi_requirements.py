"""Write requirements.txt, what Pulumi's own environment holds, from the extra `infra`.

    python scripts/pulumi_requirements.py [--check]

Pulumi's pip toolchain reads that file and no other. With --check nothing is written; the exit
status is 1 where the file is stale.
"""

from __future__ import annotations

import argparse
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILE = "requirements.txt"
HEADER = (
    "# Pulumi's own environment. Written by\n"
    "#     python scripts/pulumi_requirements.py\n"
    "# from the extra infra in pyproject.toml: change that, not this.\n"
)


def text(root: Path = ROOT) -> str:
    """The file as pyproject.toml asks for it."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return HEADER + "".join(f"{line}\n" for line in project["optional-dependencies"]["infra"])


def main(argv: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Write the file, or with --check say whether it is current."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when stale")
    path = root / FILE
    if not parser.parse_args(argv).check:
        path.write_text(text(root), encoding="utf-8")
        return 0
    if path.is_file() and path.read_text(encoding="utf-8") == text(root):
        return 0
    print(f"error: {path} is stale: run python scripts/pulumi_requirements.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
