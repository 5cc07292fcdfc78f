"""Write requirements/node-upstream.txt and node-intel.txt, which pin what the cluster's nodes get.

    python -m scripts.node_locks [upstream] [intel] [conda]

A node needs the extras `train` and `node`, and for the intel stack `intel`: no tools, no Pulumi.
The versions are those of the checkout's own environments, so nodes compute with what the tests ran
on. Every wheel's sha256 is in the lock, for each Python that a node may have. Two packages come
from indexes of their own, which this does not ask: torch, always the CPU build, whose hashes are in
`TORCH_SHA256`, and the oneCCL bindings, which are pinned by version alone: bootstrap takes them
over TLS only. node-conda.txt pins what makes conda environments.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts import environment
from scripts.environment import PROFILES, SetupError, Steps

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ("3.11", "3.12", "3.13")
PLATFORMS = (
    "manylinux_2_28", "manylinux_2_27", "manylinux_2_26", "manylinux_2_24", "manylinux_2_17",
    "manylinux2014", "manylinux2010", "manylinux_2_5", "manylinux1", "linux",
)  # fmt: skip
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
    "upstream": ("train", "node"),
}


def own_index(stack: str) -> list[str]:
    """The pins of a stack that come from indexes of their own, with the hashes that are known."""
    profile = PROFILES.get(stack)
    if profile is None:
        return []
    if profile.torch not in TORCH_SHA256:
        raise SetupError(
            f"torch {profile.torch}: enter the SHA-256 of its +cpu wheels in TORCH_SHA256, as"
            f" {environment.TORCH_INDEX}/torch/ lists them."
        )
    pins = [_hashed(f"torch=={profile.torch}+cpu", TORCH_SHA256[profile.torch])]
    if profile.oneccl is not None:
        pins.append(f"oneccl-bind-pt=={profile.oneccl}")
    return pins


def _hashed(pin: str, digests: Sequence[str]) -> str:
    return " \\\n    ".join([pin, *(f"--hash=sha256:{digest}" for digest in digests)])


def pins(report: Mapping[str, Any]) -> list[str]:
    """`name==version` for each package of pip's report, but for torch and what only CUDA needs."""
    found = {
        environment.normal(item["metadata"]["name"]): item["metadata"]["version"]
        for item in report["install"]
    }
    return [
        f"{name}=={version}"
        for name, version in sorted(found.items())
        if name not in ("torch", *NEVER_LOADED) and not name.startswith(environment.CUDA_PACKAGES)
    ]


def hashes(reports: Sequence[Mapping[str, Any]]) -> dict[str, set[str]]:
    """The sha256 of every wheel in pip's reports, by package."""
    found: dict[str, set[str]] = {}
    for report in reports:
        for item in report["install"]:
            name = environment.normal(item["metadata"]["name"])
            digest = item["download_info"]["archive_info"]["hashes"]["sha256"]
            found.setdefault(name, set()).add(digest)
    return found


def text(stack: str, pinned: Sequence[str], found: Mapping[str, set[str]]) -> str:
    """The lock file."""
    what = "What makes conda environments on nodes."
    if stack in PROFILES:
        what = f"Every package of a node with the {stack} stack."
    lines = [
        f"# {what} Written by",
        f"#     python -m scripts.node_locks {stack}",
        "# from the extras in pyproject.toml: change those, not this.",
        "",
    ]
    if own := own_index(stack):
        lines += ["# From indexes of their own (bootstrap/setup/python/packages.py):", *own, ""]
    lines.append("# From the package index:")
    for pin in pinned:
        lines.append(_hashed(pin, sorted(found[pin.partition("==")[0]])))
    return "\n".join(lines) + "\n"


def write(root: Path, stack: str) -> Path:
    """Resolve a stack, collect its wheels' hashes, and write its lock.

    Raises:
        SetupError: it cannot be resolved, or a package has no wheel for one of `PYTHONS`.
    """
    profile = PROFILES.get(stack)
    import tomllib

    extras = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    wanted = [line for name in EXTRAS[stack] for line in extras["optional-dependencies"][name]]
    path = root / "requirements" / f"node-{stack}.txt"
    with tempfile.TemporaryDirectory(prefix="lock-") as scratch:
        place = Path(scratch)
        steps = Steps(place / "log")
        steps.run("virtual environment", [sys.executable, "-m", "venv", place / "env"], "")
        pip = [*environment.pip(place / "env"), "install"]
        steps.run("pip", [*pip, "--upgrade", "pip"], "Check the network.")
        dry = [*pip, "--dry-run", "--ignore-installed", "--only-binary=:all:"]
        ask = place / "wanted.txt"
        constraint: list[str | Path] = []
        if profile is not None:
            wanted.append(f"torch=={profile.torch}")
            constraint = ["--constraint", environment.lock_path(root, profile)]
        ask.write_text("\n".join(wanted) + "\n")
        resolved = place / "resolved.json"
        steps.run(
            "resolving the packages",
            [*dry, "--report", resolved, "--requirement", ask, *constraint],
            "Change the ranges in pyproject.toml so that they can all be met.",
        )
        pinned = pins(json.loads(resolved.read_text()))
        ask.write_text("\n".join(pinned) + "\n")
        reports = []
        for version in PYTHONS:
            report = place / f"{version}.json"
            platforms = [part for name in PLATFORMS for part in ("--platform", f"{name}_x86_64")]
            target = ["--python-version", version, *platforms, "--target"]
            steps.run(
                f"wheels for Python {version}",
                [
                    *dry,
                    "--no-deps",
                    *target,
                    place / "nowhere",
                    "--report",
                    report,
                    "--requirement",
                    ask,
                ],
                f"One of these packages has no wheel for Python {version}: choose another release.",
            )
            reports.append(json.loads(report.read_text()))
    path.write_text(text(stack, pinned, hashes(reports)))
    environment.say(f"{path.relative_to(root)}: {len(pinned) + len(own_index(stack))} packages")
    return path


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Write the locks that are named, or all."""
    parser = argparse.ArgumentParser(description="Pin what the cluster's nodes get.")
    parser.add_argument("stacks", nargs="*", metavar="STACK", help="upstream, intel, conda (all)")
    stacks = parser.parse_args(arguments).stacks or sorted(EXTRAS)
    try:
        for stack in stacks:
            if stack not in EXTRAS:
                parser.error(f"no stack named {stack}: {', '.join(sorted(EXTRAS))}")
            write(root, stack)
    except SetupError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
