"""A wheel of torch under the CPU build's name, where PyTorch's own index is out of reach.

PyPI's builds of torch for Linux are made for CUDA, and nodes get the CPU build alone. So what
`make environment-intel` installed is packed together: torch as PyPI has it, with the CUDA libraries
that it cannot be imported without. It computes as the CPU build does, and is ten times its size.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

from tests.rig.commands import RigError

PACKAGES = ("torch", "torchgen", "functorch", "nvidia")
# Opened when a GPU is used, and never otherwise.
LEFT_OUT = ("__pycache__", "libcudnn_", "libtorch_cuda_linalg", "/include/", "torch/test/")


def pack_torch(environment: Path, folder: Path) -> Path:
    """Write `torch-<version>+cpu-....whl` into a folder, unless it is there.

    Args:
        environment: the virtual environment with the torch of PyPI.

    Raises:
        RigError: the environment has no torch.
    """
    sites = sorted(environment.glob("lib/python3.*/site-packages"))
    infos = [path for site in sites for path in site.glob("torch-*.dist-info")]
    if not infos:
        raise RigError(f"{environment} has no torch: make environment-intel")
    site, version = infos[0].parent, infos[0].name.split("-")[1].split(".dist")[0].split("+")[0]
    tag = f"cp{site.parent.name.removeprefix('python').replace('.', '')}"
    wheel = folder / f"torch-{version}+cpu-{tag}-{tag}-linux_x86_64.whl"
    if wheel.exists():
        return wheel
    folder.mkdir(parents=True, exist_ok=True)
    info = f"torch-{version}+cpu.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: torch\nVersion: {version}+cpu\n"
    about = {
        f"{info}/METADATA": metadata,
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: false\n"
        f"Tag: {tag}-{tag}-linux_x86_64\n",
    }
    files = dict(_files(site))
    record = "".join(f"{name},,\n" for name in [*files, *about, f"{info}/RECORD"])
    partial = wheel.with_suffix(".partial")
    # Not compressed: it is packed and unpacked on the machine that the hosts share.
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
        for name, path in files.items():
            archive.write(path, name)
        for name, text in {**about, f"{info}/RECORD": record}.items():
            archive.writestr(name, text)
    partial.rename(wheel)
    return wheel


def _files(site: Path) -> Iterator[tuple[str, Path]]:
    for package in PACKAGES:
        for path in sorted((site / package).rglob("*")):
            name = path.relative_to(site).as_posix()
            if path.is_file() and not any(part in name for part in LEFT_OUT):
                yield name, path
