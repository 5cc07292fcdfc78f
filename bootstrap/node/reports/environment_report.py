"""What an environment holds, said by itself.

    env/bin/python -m bootstrap.node.reports.environment_report [--import NAME...]

Prints one JSON object. `--import NAME...` first imports what everything stands on, so that a
package which installs but does not load is a failure here and not in the middle of a training.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

LIBIOMP5 = "libiomp5.so"
CONDA_TCMALLOC = ("libtcmalloc.so", "libtcmalloc.so.4", "libtcmalloc_minimal.so.4")


def packages() -> dict[str, str]:
    """Every installed package's version, by name."""
    found = importlib.metadata.distributions()
    return dict(sorted((item.metadata["Name"].lower(), item.version) for item in found))


def libraries(folder: Path) -> dict[str, str]:
    """The environment's own libiomp5 and tcmalloc, where it has them."""
    found = {}
    for what, names in (("libiomp5", (LIBIOMP5,)), ("tcmalloc", CONDA_TCMALLOC)):
        there = [str(folder / name) for name in names if (folder / name).exists()]
        if there:
            found[what] = there[0]
    return found


def oneccl_setvars() -> str | None:
    """The script that oneCCL's bindings want sourced, where they are installed."""
    found = importlib.util.find_spec("oneccl_bindings_for_pytorch")
    if found is None or found.origin is None:
        return None
    path = Path(found.origin).parent / "env" / "setvars.sh"
    return str(path) if path.is_file() else None


def main(argv: Sequence[str] | None = None) -> int:
    """Print it."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    # Before anything is imported: some packages (setuptools) then show those that they bring along.
    there = packages()
    if arguments[:1] == ["--import"]:
        # OpenVINO reports its use to its makers, and leaves a folder in the home, unless it is told
        # that this is a CI job.
        os.environ["CI"] = "true"
        for name in arguments[1:]:
            importlib.import_module(name)
    prefix = Path(sys.prefix)
    print(
        json.dumps(
            {
                "python": platform.python_version(),
                "prefix": str(prefix),
                "libraries": libraries(prefix / "lib"),
                "oneccl_setvars": oneccl_setvars(),
                "packages": there,
                "executable": os.path.realpath(sys.executable),
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
