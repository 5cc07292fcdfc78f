"""A conda channel of real, small packages, built where it is needed.

Its `python` hands over to the system's (as a virtual environment's does), its `gperftools` holds
Debian's libtcmalloc, its `llvm-openmp` the libiomp5 of PyPI's intel-openmp.
"""

from __future__ import annotations

import bz2
import hashlib
import io
import json
import struct
import subprocess
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bootstrap.setup.node_facts import TCMALLOC

ZSTD_BLOCK = 1 << 17
PLACEHOLDER = "/opt/placeholder_" + "_place" * 20
SYSTEM_PYTHON = "/usr/bin/python3"


class Channel:
    """A folder that is being filled with packages; `index` makes a channel of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._listed: dict[str, dict[str, Any]] = {"linux-64": {}, "noarch": {}}
        """What `repodata.json` says of each file, by part."""

    def add(
        self,
        name: str,
        version: str,
        files: Mapping[str, bytes],
        *,
        links: Mapping[str, str] | None = None,
        depends: Sequence[str] = (),
        subdir: str = "linux-64",
        old: bool = True,
    ) -> Path:
        """Write a package; texts with `PLACEHOLDER` in them name the environment once installed.

        Args:
            files: content by path; those in bin/ can be run.
            links: targets of symbolic links by path.
            old: as .tar.bz2; else as .conda, which is what conda-forge has had since 2022.
        """
        about = {
            "name": name, "version": version, "build": "0", "build_number": 0,
            "depends": list(depends), "subdir": subdir, "license": "none",
            "timestamp": 1_700_000_000_000,
        }  # fmt: skip
        paths = [_path(path, content) for path, content in files.items()]
        paths += [_path(path, b"", "softlink") for path in links or {}]
        listed = json.dumps({"paths": paths, "paths_version": 1}).encode()
        info = {"info/index.json": json.dumps(about).encode(), "info/paths.json": listed}
        file = self.folder / subdir / f"{name}-{version}-0{'.tar.bz2' if old else '.conda'}"
        file.parent.mkdir(parents=True, exist_ok=True)
        if old:
            file.write_bytes(bz2.compress(_tar({**info, **files}, links or {})))
        else:
            with zipfile.ZipFile(file, "w") as archive:
                archive.writestr("metadata.json", '{"conda_pkg_format_version": 2}')
                archive.writestr(f"pkg-{file.stem}.tar.zst", _zstd(_tar(files, links or {})))
                archive.writestr(f"info-{file.stem}.tar.zst", _zstd(_tar(info, {})))
        content = file.read_bytes()
        self._listed[subdir][file.name] = {
            **about,
            "sha256": hashlib.sha256(content).hexdigest(),
            "md5": hashlib.md5(content).hexdigest(),
            "size": len(content),
        }
        return file

    def index(self) -> None:
        """Write `repodata.json` of each part."""
        for subdir, packages in self._listed.items():
            (self.folder / subdir).mkdir(parents=True, exist_ok=True)
            old = {name: about for name, about in packages.items() if name.endswith(".bz2")}
            content = {
                "info": {"subdir": subdir},
                "packages": old,
                "packages.conda": {k: v for k, v in packages.items() if k not in old},
                "repodata_version": 1,
            }
            (self.folder / subdir / "repodata.json").write_text(json.dumps(content))

    @property
    def size(self) -> int:
        """Bytes of all packages."""
        return sum(about["size"] for part in self._listed.values() for about in part.values())


def make_channel(folder: Path, libiomp5: bytes, *, libtcmalloc: bytes | None = None) -> Channel:
    """The packages that `fab bootstrap` asks of conda-forge, indexed.

    Args:
        libiomp5: the library's bytes; a test that does not load it gives any.
        libtcmalloc: None: Debian's, which has to be installed.
    """
    channel = Channel(folder)
    version = subprocess.run(
        [SYSTEM_PYTHON, "-c", "import platform; print(platform.python_version())"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    channel.add(
        "python",
        version,
        {
            "pyvenv.cfg": b"home = /usr/bin\ninclude-system-site-packages = false\n",
            "bin/pydoc3": f"#!{PLACEHOLDER}/bin/python\nimport pydoc\npydoc.cli()\n".encode(),
        },
        links={"bin/python": SYSTEM_PYTHON, "bin/python3": "python"},
        depends=["tzdata"],
        old=False,
    )
    channel.add("tzdata", "2026b", {"share/zoneinfo/UTC": b"TZif2"}, subdir="noarch")
    if libtcmalloc is None:
        libtcmalloc = _system_tcmalloc().read_bytes()
    channel.add(
        "gperftools",
        "2.10",
        {"lib/libtcmalloc.so.4.5.10": libtcmalloc},
        links={"lib/libtcmalloc.so.4": "libtcmalloc.so.4.5.10"},
    )
    channel.add(
        "llvm-openmp", "20.1.8", {"lib/libomp.so": libiomp5}, links={"lib/libiomp5.so": "libomp.so"}
    )
    channel.index()
    return channel


def libiomp5_of(wheels: Path) -> bytes:
    """The library out of intel-openmp's wheel."""
    (wheel,) = wheels.glob("intel_openmp-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/libiomp5.so"))
        return archive.read(name)


def _system_tcmalloc() -> Path:
    for name in TCMALLOC:
        for path in sorted(Path("/usr/lib").glob(f"*/{name}")):
            return path
    raise FileNotFoundError("no tcmalloc: apt-get install libtcmalloc-minimal4, as .ci/run does")


def _path(path: str, content: bytes, kind: str = "hardlink") -> dict[str, Any]:
    entry: dict[str, Any] = {
        "_path": path,
        "path_type": kind,
        "sha256": hashlib.sha256(content).hexdigest(),
        "size_in_bytes": len(content),
    }
    if PLACEHOLDER.encode() in content:
        entry |= {"prefix_placeholder": PLACEHOLDER, "file_mode": "text"}
    return entry


def _tar(files: Mapping[str, bytes], links: Mapping[str, str]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755 if name.startswith("bin/") else 0o644
            archive.addfile(entry, io.BytesIO(content))
        for name, target in links.items():
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, target
            archive.addfile(link)
    return made.getvalue()


def _zstd(content: bytes) -> bytes:
    """A Zstandard frame of blocks that are not compressed (RFC 8878, 3.1.1)."""
    blocks = [content[at : at + ZSTD_BLOCK] for at in range(0, len(content), ZSTD_BLOCK)]
    frame = b"\x28\xb5\x2f\xfd" + b"\xe0" + struct.pack("<Q", len(content))
    for number, block in enumerate(blocks, 1):
        frame += struct.pack("<I", (number == len(blocks)) | len(block) << 3)[:3] + block
    return frame
