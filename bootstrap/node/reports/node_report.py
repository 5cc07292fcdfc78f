"""What a node holds now, said by the node itself.

    env/bin/python -m bootstrap.node.reports.node_report ROOT

Prints one JSON object. It runs on nodes, with the standard library alone: it must also work where
a package is broken.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path


def report(root: Path) -> dict[str, object]:
    """Packages, C++ compiler, disk, and how models and pictures differ from what was put there."""
    return {
        "packages": {
            (item.metadata["Name"] or "?").lower().replace("_", "-"): item.version
            for item in importlib.metadata.distributions()
        },
        "compiler": shutil.which(os.environ.get("CXX", "g++")),
        "disk_free": shutil.disk_usage(root).free,
        "folders": {
            str(manifest.with_suffix("").relative_to(root)): against(manifest)
            for manifest in sorted(manifests(root))
        },
        "missing": [
            name
            for name in ("activate", "cluster/nodefile", "hf/accelerate/default_config.yaml")
            if not (root / name).is_file()
        ],
    }


def manifests(root: Path) -> Iterator[Path]:
    """The manifests (SHA-256 per file) of models and pictures."""
    for place in ("data", "models"):
        yield from (root / place).glob("*.sha256")


def against(manifest: Path) -> dict[str, object]:
    """A folder against its manifest: the manifest's digest, and the files that differ."""
    text = manifest.read_text(encoding="utf-8", errors="replace")
    folder, wrong = manifest.with_suffix(""), []
    for line in text.splitlines():
        digest, name = line[:64], line[66:].removeprefix("./")
        try:
            same = sha256(folder / name) == digest
        except OSError:
            same = False
        if not same:
            wrong.append(name)
    return {"digest": hashlib.sha256(text.encode()).hexdigest(), "wrong": wrong}


def sha256(path: Path) -> str:
    """A file's digest, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def main(argv: Sequence[str] | None = None) -> int:
    """Print it."""
    (root,) = sys.argv[1:] if argv is None else argv
    print(json.dumps(report(Path(root))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
