"""Whether OpenVINO can be used in this process."""

from __future__ import annotations

import os
from pathlib import Path

from training.errors import UserError


def check_packages(program: str) -> None:
    """Make sure that OpenVINO can be used in this process, and that it tells nobody of it.

    Args:
        program: the module that needs it.

    Raises:
        UserError: its packages are missing, or tcmalloc is loaded.
    """
    refuse_tcmalloc(Path("/proc/self/maps"))
    # It reports its use to its makers, and leaves a folder in the home, unless it is told that this
    # is a CI job.
    os.environ["CI"] = "true"
    try:
        import nncf  # noqa: F401
        import openvino  # noqa: F401
        import openvino_tokenizers  # noqa: F401
        import optimum.intel  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"OpenVINO's packages are missing here ({error.name}). Make their environment with "
            f"`make environment-openvino` and run .venv-openvino/bin/python -m {program} ..."
        ) from error


def refuse_tcmalloc(maps: Path) -> None:
    """Make sure that tcmalloc is not loaded: OpenVINO 2026.4 then ends with a double free.

    Args:
        maps: /proc's list of what is mapped into this process; where there is none, all is well.

    Raises:
        UserError: says how to start without it.
    """
    try:
        loaded = maps.read_text()
    except OSError:
        return
    if "libtcmalloc" in loaded:
        raise UserError(
            "OpenVINO crashes where tcmalloc is preloaded. Start without it: "
            "env -u LD_PRELOAD, in front of the same command."
        )
