"""Which module may import which is a contract, and the drawing of the rooms is made from it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import rooms_picture

CHECKOUT = Path(__file__).parents[2]
PACKAGES = ("bootstrap", "infra", "training")


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkout's code and its contract."""
    folder = tmp_path_factory.mktemp("rooms")
    shutil.copy(CHECKOUT / "pyproject.toml", folder)
    for package in PACKAGES:
        for file in (CHECKOUT / package).rglob("*.py"):
            target = folder / file.relative_to(CHECKOUT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
    return folder


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """`lint-imports`, as `make lint` runs it."""
    words = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", "--no-logo"]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)


def test_the_contract_is_kept(copied: Path) -> None:
    finished = lint(copied)
    assert finished.returncode == 0, finished.stdout
    assert " 0 broken" in finished.stdout


@pytest.mark.parametrize(
    ("file", "line", "said"),
    [
        (
            "bootstrap/ssh/host.py",
            "import bootstrap.commands.train",
            "bootstrap.ssh is not",
        ),
        ("bootstrap/node/job.py", "import bootstrap.ssh.host", "bootstrap.node is not allowed"),
        ("bootstrap/node/job.py", "def later():\n    import paramiko", "to import paramiko"),
        ("bootstrap/node/mpi.py", "from fabric import Connection", "to import fabric"),
        ("bootstrap/stray.py", "", "bootstrap.stray"),
        ("bootstrap/errors.py", "import infra.errors", "bootstrap is not allowed to import infra"),
        ("training/errors.py", "import bootstrap.errors", "training is not allowed"),
        ("training/data/draws.py", "import training.loop.step", "training.data is not allowed"),
        (
            "training/loop/train.py",
            "from training.models.concept import install",
            "training.models.concept",
        ),
        ("infra/config/sizes.py", "import infra.azure.arm", "infra.config is not allowed"),
        ("infra/errors.py", "import torch", "to import torch"),
        ("bootstrap/ssh/connection.py", "import bootstrap.ssh.ssh_transport", "No cycles"),
    ],
)
def test_a_planted_violation_is_found(copied: Path, file: str, line: str, said: str) -> None:
    path = copied / file
    before = path.read_text() if path.exists() else None
    path.write_text(f"{before or ''}\n{line}\n")
    try:
        finished = lint(copied)
    finally:
        path.unlink() if before is None else path.write_text(before)
    assert finished.returncode == 1
    assert said in " ".join(finished.stdout.split())


def test_the_committed_drawing_is_current() -> None:
    assert rooms_picture.main(["--check"]) == 0


def test_a_room_that_moves_moves_in_the_drawing(copied: Path) -> None:
    (copied / "docs").mkdir()
    assert rooms_picture.main(["--check"], copied) == 1
    assert rooms_picture.main([], copied) == 0
    assert rooms_picture.main(["--check"], copied) == 0
    contract = copied / "pyproject.toml"
    text = contract.read_text()
    moved = text.replace('"ssh",', "", 1).replace('"setup",', '"ssh", "setup",', 1)
    contract.write_text(moved)
    assert rooms_picture.main(["--check"], copied) == 1
    contract.write_text(text)
