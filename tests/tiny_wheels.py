"""Wheels of one module each, for what installs packages to be tested in seconds."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path


def tiny_wheel(folder: Path, name: str, version: str, code: str = "") -> str:
    """Write a wheel that holds one module; returns its sha256."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": code,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(member, content)
    return hashlib.sha256(path.read_bytes()).hexdigest()
