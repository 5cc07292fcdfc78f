"""scripts.lock: the committed lock files, and how it writes them, with a stand-in for uv."""

from __future__ import annotations

import contextlib
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts import lock
from scripts.environments.profiles import (
    PROFILES,
    Profile,
    lock_path,
    locked_versions,
    normal,
)
from scripts.environments.steps import Steps
from scripts.locks.environment_lock import direct_requirements, lines
from scripts.locks.node_lock import EXTRAS, node_lock_path
from scripts.locks.resolve import PYTHONS, Resolver

CHECKOUT = Path(__file__).parents[2]
UV = """#!/bin/sh
# Writes for each release what the test has prepared, and what it was asked for.
for last; do :; done
while [ "$#" -gt 0 ]; do
    case "$1" in
        --output-file) out=$2 ;;
        --python-version) version=$2 ;;
        --constraint) constraints=$2 ;;
        --extra) extras="$extras $2" ;;
    esac
    shift
done
here=$(dirname "$0")
echo "$last for $version:$extras" >> "$here/asked"
cat "$constraints" >> "$here/asked"
case "$out" in
    */pylock.*) from="$here/pylock-$version" ;;
    *) cat "$out" > "$here/kept"; from="$here/releases" ;;
esac
if [ ! -f "$from" ]; then echo "error: because tiny==1 and tiny==2, there is none"; exit 1; fi
cat "$from" > "$out"
"""


class StandIn:
    """A checkout, and a `uv` that finds there what a test says."""

    def __init__(self, place: Path) -> None:
        self.root, self.place = place / "checkout", place
        self.bin = place / "env" / "bin"
        self.bin.mkdir(parents=True)
        (self.bin / "uv").write_text(UV)
        (self.bin / "uv").chmod(0o755)
        (self.root / "requirements").mkdir(parents=True)
        asked = {extra: ["tiny>=1"] for extra in ("train", "intel", "openvino", "infra", "node")}
        asked |= {"bootstrap": [], "conda": [], "dev": ["only-here>=1; sys_platform == 'linux'"]}
        text = "".join(f"{extra} = {names!r}\n" for extra, names in asked.items())
        project = f"[project]\nname = 'x'\n[project.optional-dependencies]\n{text}"
        (self.root / "pyproject.toml").write_text(project)

    def finds(self, *releases: str) -> None:
        (self.bin / "releases").write_text("".join(f"{pin}\n" for pin in releases))

    def wheels(self, python: str, **digests: str) -> None:
        packages = [
            f"[[packages]]\nname = '{name}'\nversion = '1'\n"
            f"wheels = [{{ url = 'x', hashes = {{ sha256 = '{digest}' }} }}]\n"
            for name, digest in digests.items()
        ]
        (self.bin / f"pylock-{python}").write_text("".join(packages))

    def file(self, name: str) -> Path:
        return self.root / "requirements" / f"{name}.txt"


@pytest.fixture
def uv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """A stand-in that takes the place of the uv which would be installed."""
    place = StandIn(tmp_path)

    @contextlib.contextmanager
    def installed(root: Path, *, upgrade: bool) -> Iterator[Resolver]:
        yield Resolver(root, tmp_path, Steps(tmp_path / "log"), upgrade)

    monkeypatch.setattr(Resolver, "installed", installed)
    return place


def test_a_lock_keeps_conditions_and_drops_the_build_and_cuda() -> None:
    releases = {"torch": "2.8.0+cpu", "impi-rt": "1.0", "nvidia-nccl-cu12": "2", "a-b": "1"}
    releases["torchvision"] = "0.23.0"  # never imported, and made for CUDA
    asked = ["torch>=2", "impi_rt>=1; sys_platform == 'linux'", "a-b[more]>=1"]
    assert lines(releases, asked) == [
        "a-b==1",
        "impi-rt==1.0; sys_platform == 'linux'",
        "torch==2.8.0",
    ]


def test_an_environment_gets_what_uv_finds_and_an_older_file_is_kept_to(uv: StandIn) -> None:
    uv.file("upstream").write_text("tiny==1\n")
    uv.finds("only-here==3", "tiny==1", f"torch=={PROFILES['upstream'].torch}", "triton==3")
    assert lock.main(["upstream"], uv.root) == 0
    written = uv.file("upstream").read_text().splitlines()
    assert written[1] == "#     python -m scripts.lock upstream"
    assert [line for line in written if not line.startswith("#")] == [
        "only-here==3; sys_platform == 'linux'",
        "tiny==1",
        f"torch=={PROFILES['upstream'].torch}",
    ]
    asked = (uv.bin / "asked").read_text().splitlines()
    assert asked == [
        f"{uv.root}/pyproject.toml for 3.11: train dev",
        f"torch=={PROFILES['upstream'].torch}",
    ]
    assert (uv.bin / "kept").read_text() == "tiny==1\n"
    assert lock.main(["--upgrade", "upstream"], uv.root) == 0
    assert (uv.bin / "kept").read_text() == ""


def test_a_node_gets_the_wheels_of_every_python(uv: StandIn) -> None:
    uv.file("upstream").write_text("tiny==1\n")
    uv.finds("tiny==1", "torch==2.13.0", "nvidia-nccl==1")
    for python, digest in zip(PYTHONS, ("aa", "bb", "aa"), strict=True):
        uv.wheels(python, tiny=digest, torch="cc", **{"nvidia-nccl": "dd"})
    assert lock.main(["node-upstream"], uv.root) == 0
    text = uv.file("node-upstream").read_text()
    assert "tiny==1 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\n" in text
    # Torch is the CPU build, with hashes that are not the package index's.
    assert "torch==2.13.0+cpu \\\n" in text
    assert "sha256:cc" not in text
    assert "nvidia" not in text
    # The releases are those of the checkout's environment.
    assert (uv.bin / "asked").read_text().splitlines()[1] == "tiny==1"


def test_what_cannot_be_resolved_leaves_the_file_as_it_was(
    uv: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    uv.file("upstream").write_text("tiny==1\n")
    assert lock.main(["upstream"], uv.root) == 1
    said = capsys.readouterr().err
    assert "because tiny==1 and tiny==2" in said
    assert "ranges in pyproject.toml" in said
    assert uv.file("upstream").read_text() == "tiny==1\n"
    # One Python would need a package that a newer one does not.
    uv.finds("tiny==1", "torch==2.13.0")
    for python in PYTHONS:
        uv.wheels(python, tiny="aa", torch="cc", **({"more": "ee"} if python == "3.12" else {}))
    assert lock.main(["node-upstream"], uv.root) == 1
    assert "Python 3.12 and not on 3.13: more" in capsys.readouterr().err
    assert not uv.file("node-upstream").exists()


def test_what_newer_pythons_need_says_so(uv: StandIn) -> None:
    uv.file("upstream").write_text("tiny==1\ntorch==2.13.0\n")
    uv.finds("tiny==1", "torch==2.13.0")
    for python in PYTHONS:
        uv.wheels(python, tiny="aa", torch="cc", **({"more": "ee"} if python == "3.13" else {}))
    assert lock.main(["node-upstream"], uv.root) == 0
    text = uv.file("node-upstream").read_text()
    assert 'more==1; python_version >= "3.13" \\\n    --hash=sha256:ee\n' in text


def test_a_name_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        lock.main(["node-upstraem"])
    assert "node-upstraem" in capsys.readouterr().err


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_the_lock_in_the_checkout_pins_all_that_the_project_asks_for(profile: Profile) -> None:
    text = lock_path(CHECKOUT, profile).read_text()
    versions = locked_versions(lock_path(CHECKOUT, profile))
    assert versions.get("torch") == profile.torch
    assert "://" not in text
    asked = [requirement.split(";")[0] for requirement in direct_requirements(CHECKOUT, profile)]
    for requirement in asked:
        name = normal(requirement.split(">")[0].split("=")[0].split("[")[0])
        assert name in versions


@pytest.mark.parametrize("stack", [stack for stack in EXTRAS if stack in PROFILES])
def test_the_lock_of_nodes_has_the_releases_of_the_checkout_with_hashes(stack: str) -> None:
    ours = locked_versions(lock_path(CHECKOUT, PROFILES[stack]))
    text = node_lock_path(CHECKOUT, stack).read_text()
    nodes = locked_versions(node_lock_path(CHECKOUT, stack))
    shared = nodes.keys() & ours.keys() - {"torch"}
    assert {name: nodes[name] for name in shared} == {name: ours[name] for name in shared}
    extras = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    for extra in EXTRAS[stack]:
        for requirement in extras["optional-dependencies"][extra]:
            assert normal(re.split(r"[<>=;\[]", requirement)[0].strip()) in nodes
    without = [pin for pin in re.split(r"\n(?=\S)", text) if "==" in pin and "--hash" not in pin]
    assert [pin.partition("==")[0] for pin in without] in ([], ["oneccl-bind-pt"])
