"""This machine's pip as one file that any Python runs: a bare node need not have one."""

from __future__ import annotations

import importlib.util
import shlex
import zipfile
from collections.abc import Sequence
from pathlib import Path

from bootstrap.errors import UserError

NAME = "pip.zip"
MAIN = (
    "import sys\nfrom pip._internal.cli.main import main\n"
    "if __name__ == '__main__':\n    sys.exit(main())\n"
)
# What would send packages elsewhere, or take them from elsewhere.
MISLEADING = ("PIP_PREFIX", "PIP_ROOT", "PIP_TARGET", "PIP_USER", "PIP_REQUIRE_VIRTUALENV")
EARLIEST = (1980, 1, 1, 0, 0, 0)


def pack_pip(folder: Path) -> Path:
    """Pack the pip that this interpreter has; the same bytes each time.

    Raises:
        UserError: it has none.
    """
    found = importlib.util.find_spec("pip")
    if found is None or found.origin is None:
        raise UserError("this Python has no pip: run python -m ensurepip, or `make environment`.")
    package = Path(found.origin).parent
    folder.mkdir(parents=True, exist_ok=True)
    partial, path = folder / f"{NAME}.partial", folder / NAME
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(_entry("__main__.py"), MAIN)
        for file in sorted(package.rglob("*")):
            if file.is_file() and "__pycache__" not in file.parts:
                name = f"pip/{file.relative_to(package).as_posix()}"
                archive.writestr(_entry(name), file.read_bytes())
    partial.replace(path)
    return path


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, EARLIEST)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    return entry


def pip_command(python: str, pip: str, arguments: Sequence[str], *, offline: bool) -> str:
    """The shell line that runs a packed pip, deaf to the node's Python settings.

    Args:
        python: the interpreter that packages are chosen for, or installed into.
        pip: where the packed pip lies.
        offline: also deaf to the node's pip settings, which may name an index.
    """
    words = ["env", *(word for name in MISLEADING for word in ("-u", name))]
    if offline:
        words.append("PIP_CONFIG_FILE=/dev/null")
    # No bytecode: a zip cannot hold it, and what is installed is compiled as it is imported.
    words += [python, "-I", "-B", pip, *(["--isolated"] if offline else []), *arguments]
    return shlex.join([*words, "--disable-pip-version-check", "--no-input"])
