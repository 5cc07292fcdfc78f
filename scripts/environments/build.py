"""Fills an environment's folder with what its lock file pins."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from scripts.environments.profiles import Profile, lock_path, locked_versions
from scripts.environments.pytorch import install_oneccl, install_torch
from scripts.environments.steps import Steps, pip, python

# Imported once at the end: a package that installs but does not import is a failed set-up.
IMPORTED_AS = {
    "accelerate": "accelerate",
    "diffusers": "diffusers",
    "fabric": "fabric",
    "gradio": "gradio",
    "intel-extension-for-pytorch": "intel_extension_for_pytorch",
    "nncf": "nncf",
    "openvino-genai": "openvino_genai",
    "openvino-tokenizers": "openvino_tokenizers",
    "optimum-intel": "optimum.intel",
    "pulumi": "pulumi",
    "torch": "torch",
    "transformers": "transformers",
}


def build(root: Path, profile: Profile, home: Path, steps: Steps) -> None:
    """Fill an environment's folder from its lock file and mark it finished."""
    lock = lock_path(root, profile)
    versions = locked_versions(lock)
    network = (
        "Check the network and the package index (pip config list; PIP_INDEX_URL names another),"
        " then run this again."
    )
    steps.run(
        "virtual environment",
        [sys.executable, "-m", "venv", home],
        f"Check that {sys.executable} -m venv works for any other folder.",
    )
    if "torch" in versions:
        install_torch(steps, home, versions["torch"])
    # The lock holds all packages, those that other packages need too: nothing is left to resolve.
    steps.run(
        f"{len(versions)} packages, as {lock.relative_to(root)} pins them",
        [*pip(home), "install", "--no-deps", "--requirement", lock],
        network,
    )
    if profile.oneccl is not None and "torch" in versions:
        install_oneccl(steps, home, profile.oneccl)
    # Not `pip install -e`: that lists today's packages, and one added tomorrow would be missed.
    site_packages = next(home.glob("lib/python*/site-packages"))
    (site_packages / "xeon_diffusion_checkout.pth").write_text(f"{root}\n")
    modules = [IMPORTED_AS[name] for name in sorted(versions) if name in IMPORTED_AS]
    if modules:
        steps.run(
            "first import",
            [python(home), "-I", "-c", f"import {', '.join(sorted(modules, key=import_order))}"],
            "The packages installed but do not work together on this machine; the log has the"
            " whole traceback.",
        )
    (home / "finished.json").write_text(
        json.dumps({"lock": lock.name, "python": sys.version, "packages": versions}, indent=1)
    )


def import_order(module: str) -> tuple[bool, str]:
    """Torch comes first: its extension does not load without it."""
    return (module != "torch", module)
