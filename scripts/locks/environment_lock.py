"""The lock file of one of the checkout's environments: what `scripts.environment` installs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from scripts.environments.profiles import Profile, lock_path, normal
from scripts.environments.pytorch import CUDA_PACKAGES
from scripts.locks.resolve import Resolver

# optimum-intel asks for it and imports it for other kinds of models alone. The index's build of it
# belongs to the CUDA build of torch: beside a CPU build, transformers could not be imported.
NEVER_IMPORTED = ("torchvision",)


def text(resolver: Resolver, profile: Profile) -> str:
    """Resolve an environment's extras into its lock file; raises SetupError."""
    lock = lock_path(resolver.root, profile)
    torch = "" if profile.torch is None else f"torch=={profile.torch}\n"
    releases = resolver.releases(lock, profile.extras, torch)
    header = (
        f"# Every package of the {profile.name} environment. Written by\n"
        f"#     python -m scripts.lock {profile.name}\n"
        "# from the extras in pyproject.toml: change those, not this.\n"
    )
    return header + "\n".join(lines(releases, direct_requirements(resolver.root, profile))) + "\n"


def direct_requirements(root: Path, profile: Profile) -> list[str]:
    """What the project itself asks for in an environment."""
    import tomllib  # older Pythons, which are refused with a message, lack it

    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    return [text for extra in profile.extras for text in extras[extra]]


def lines(releases: Mapping[str, str], requirements: Sequence[str]) -> list[str]:
    """The lines of a lock file, from the release of each package.

    A package that the project asks for on some platforms only keeps that condition, also where
    this is none of them and it is pinned. Torch keeps no
    mark of the build that was found here, and no CUDA packages: `install_torch` sees to both. Hence
    no hashes either. What is never imported is left out: locks are installed without looking at
    dependencies.
    """
    conditions: dict[str, str] = {}
    elsewhere: list[str] = []
    for text in requirements:
        asked, _, condition = text.partition(";")
        if condition:
            name = normal(re.split(r"[^A-Za-z0-9._-]", asked)[0])
            conditions[name] = condition.strip()
            if name not in releases and "==" in asked:
                elsewhere.append(f"{asked.strip()}; {condition.strip()}")
    found = elsewhere
    for name, version in releases.items():
        if name.startswith(CUDA_PACKAGES) or name in NEVER_IMPORTED:
            continue
        line = f"{name}=={version.partition('+')[0]}"
        found.append(f"{line}; {conditions[name]}" if name in conditions else line)
    return sorted(found)
