"""Write the files in requirements/, which pin what the environments and the cluster's nodes get.

    python -m scripts.lock                  write all of them
    python -m scripts.lock upstream         requirements/upstream.txt
    python -m scripts.lock node-intel       requirements/node-intel.txt
    python -m scripts.lock --upgrade        take the newest releases that pyproject.toml allows

They are resolved by uv from the extras in pyproject.toml. Releases that a file has already are kept
where the extras still allow them, unless --upgrade is given.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from scripts.environments.machine import check_python
from scripts.environments.profiles import PROFILES, SetupError
from scripts.environments.steps import say
from scripts.locks import environment_lock, node_lock
from scripts.locks.resolve import Resolver

ROOT = Path(__file__).resolve().parent.parent
# The nodes' locks hold the releases of the environments' locks, which are written first.
LOCKS: dict[str, Callable[[Resolver], str]] = {
    **{name: partial(environment_lock.text, profile=PROFILES[name]) for name in PROFILES},
    **{f"node-{stack}": partial(node_lock.text, stack=stack) for stack in node_lock.EXTRAS},
}
"""What makes the text of each file of requirements/, by the file's name."""


def write(resolver: Resolver, name: str) -> None:
    """Write one file; an older one stays until the new one is whole. Raises SetupError."""
    path = resolver.root / "requirements" / f"{name}.txt"
    text = LOCKS[name](resolver)
    new = path.with_suffix(".new")
    new.write_text(text)
    os.replace(new, path)
    packages = sum("==" in line for line in text.splitlines())
    say(f"{path.relative_to(resolver.root)}: {packages} packages")


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Write the files that are named, or all; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"{', '.join(LOCKS)} (default: all)"
    )
    parser.add_argument("--upgrade", action="store_true", help="take the newest releases")
    chosen = parser.parse_args(arguments)
    for name in chosen.names:
        if name not in LOCKS:
            parser.error(f"no lock file named {name}: {', '.join(LOCKS)}")
    try:
        check_python()
        with Resolver.installed(root, upgrade=chosen.upgrade) as resolver:
            for name in LOCKS:
                if name in chosen.names or not chosen.names:
                    write(resolver, name)
    except SetupError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
