"""The lock file of what the cluster's nodes get, with the SHA-256 of every wheel.

A node needs the extras `train` and `node`, and for the intel stack `intel`: no tools, no Pulumi.
The releases are those of the checkout's own environments, so nodes compute with what the tests ran
on. The wheels are those for each Python that a node may have. Two packages come from indexes of
their own, which this does not ask: torch, always the CPU build, whose hashes are in `TORCH_SHA256`,
and the oneCCL bindings, which are pinned by version alone: bootstrap takes them over TLS only.
What ends in -openvino is a stack with what `fab bootstrap --with openvino` adds, in the releases of
the openvino environment. What only newer Pythons need says so. node-conda.txt pins what makes conda
environments.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from scripts.environments.indexes import TORCH_INDEX
from scripts.environments.profiles import PROFILES, Profile, SetupError, lock_path
from scripts.environments.pytorch import CUDA_PACKAGES
from scripts.locks.environment_lock import NEVER_IMPORTED
from scripts.locks.resolve import Resolver

# libiomp5 alone is used of intel-openmp, and it needs nothing of this runtime for Intel's GPUs.
NEVER_LOADED = ("intel-cmplr-lib-ur",)
TORCH_SHA256 = {
    "2.8.0": (
        "cb06175284673a581dd91fb1965662ae4ecaba6e5c357aa0ea7bb8b84b6b7eeb",
        "cb9a8ba8137ab24e36bf1742cb79a1294bd374db570f09fc15a5e1318160db4e",
        "8f81dedb4c6076ec325acc3b47525f9c550e5284a18eae1d9061c543f7b6e7de",
    ),
    "2.13.0": (
        "6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b",
        "4ca4a9394b0c771238a4f73590fdbbc4debad85ed0fa63d026ae1b085da7d6e2",
        "3fbf9c9d1f3c10c2d59d04aca426dee9ccc6ceb32d255c61e93acc3b4f75fae6",
    ),
}
"""torch-<version>+cpu-cp3xx-cp3xx-manylinux_2_28_x86_64.whl, for each of `PYTHONS`.

PyTorch's index was out of reach when these were entered: they are those that lock files of public
projects have from it, alike in several for each wheel but 2.8.0 for Python 3.12 (one). Of 2.13.0
for Python 3.11 the wheel was at hand and has that hash.
"""
EXTRAS = {
    "conda": ("conda",),
    "intel": ("train", "intel", "node"),
    "intel-openvino": ("train", "intel", "node", "openvino", "playground"),
    "upstream": ("train", "node"),
    "upstream-openvino": ("train", "node", "openvino", "playground"),
}
"""What each stack is resolved from."""
OPENVINO = "-openvino"
"""Ends the name of a stack with what `fab bootstrap --with openvino` adds to it."""


def node_lock_path(root: Path, stack: str) -> Path:
    """The file that pins every package of a stack."""
    return root / "requirements" / f"node-{stack}.txt"


def text(resolver: Resolver, stack: str) -> str:
    """Resolve a stack into its lock file.

    Raises:
        SetupError: it cannot be resolved, or a package has no wheel for one of `PYTHONS`.
    """
    profile = profile_of(stack)
    what = "What makes conda environments on nodes."
    constraints = ""
    if profile is not None:
        what = f"Every package of a node with the {stack} stack."
        constraints = lock_path(resolver.root, profile).read_text()
    if profile is not None and stack.endswith(OPENVINO):
        pins = lock_path(resolver.root, PROFILES["openvino"]).read_text().splitlines()
        kept = [pin for pin in pins if not pin.startswith("torch==")]
        constraints = "\n".join([*kept, f"torch=={profile.torch}"])
    lines = [
        f"# {what} Written by",
        f"#     python -m scripts.lock node-{stack}",
        "# from the extras in pyproject.toml: change those, not this.",
        "",
    ]
    if own := own_index(stack):
        lines += ["# From indexes of their own (bootstrap/setup/python/packages.py):", *own, ""]
    lines.append("# From the package index:")
    lock, extras = node_lock_path(resolver.root, stack), EXTRAS[stack]
    releases = resolver.releases(lock, extras, constraints)
    left_out = ("torch", *NEVER_LOADED, *NEVER_IMPORTED)
    for name, wheels in sorted(resolver.wheels(lock, extras, releases).items()):
        if name not in left_out and not name.startswith(CUDA_PACKAGES):
            since = "" if name in releases else f'; python_version >= "{wheels.python}"'
            lines.append(hashed(f"{name}=={wheels.version}{since}", sorted(wheels.digests)))
    return "\n".join(lines) + "\n"


def profile_of(stack: str) -> Profile | None:
    """The environment whose torch a stack computes with; None: what makes conda environments."""
    return PROFILES.get(stack.removesuffix(OPENVINO))


def own_index(stack: str) -> list[str]:
    """The pins of a stack that come from indexes of their own, with the hashes that are known."""
    profile = profile_of(stack)
    if profile is None:
        return []
    if profile.torch not in TORCH_SHA256:
        raise SetupError(
            f"torch {profile.torch}: enter the SHA-256 of its +cpu wheels in TORCH_SHA256, as"
            f" {TORCH_INDEX}/torch/ lists them."
        )
    pins = [hashed(f"torch=={profile.torch}+cpu", TORCH_SHA256[profile.torch])]
    if profile.oneccl is not None:
        pins.append(f"oneccl-bind-pt=={profile.oneccl}")
    return pins


def hashed(pin: str, digests: Sequence[str]) -> str:
    """A pin and its hashes, one per line, as pip reads them."""
    return " \\\n    ".join([pin, *(f"--hash=sha256:{digest}" for digest in digests)])
