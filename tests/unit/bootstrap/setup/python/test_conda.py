"""conda's command lines. conda itself has never been run with them (docs/verification.md)."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bootstrap.errors import UserError
from bootstrap.setup.python import conda
from bootstrap.ssh.transfer import script

LIST = """\
# This file may be used to create an environment using:
# $ conda create --name <env> --file <this file>
@EXPLICIT
https://conda.anaconda.org/conda-forge/linux-64/llvm-openmp-20.1.8-h4922eb0_0.conda#5a5f1b
https://conda.anaconda.org/conda-forge/noarch/tzdata-2025b-h78e105d_0.conda#4222072737
"""


def test_the_installer_is_pinned_and_checked_before_it_runs() -> None:
    check, install = conda.miniforge_lines("/r/w/Miniforge.sh", "/r/miniforge")
    assert check == f"echo {conda.SHA256}  /r/w/Miniforge.sh | sha256sum --check --quiet"
    assert install == "bash /r/w/Miniforge.sh -b -u -p /r/miniforge"
    assert conda.VERSION in conda.URL
    assert len(conda.SHA256) == 64


def test_the_check_refuses_another_file(tmp_path: Path) -> None:
    (tmp_path / "other.sh").write_text("echo hello\n")
    check, _ = conda.miniforge_lines(str(tmp_path / "other.sh"), "/r/miniforge")
    assert subprocess.run(["sh", "-c", check], capture_output=True, check=False).returncode != 0


def test_the_head_resolves_from_one_channel() -> None:
    assert conda.create_line("/r/miniforge", "/r/envs/x", "/r/cache") == (
        "env CONDA_PKGS_DIRS=/r/cache /r/miniforge/bin/conda create --yes --quiet"
        " --override-channels --channel https://conda.anaconda.org/conda-forge"
        " --strict-channel-priority --prefix /r/envs/x python=3.12 gperftools llvm-openmp"
    )


def test_the_others_install_files_and_ask_nobody() -> None:
    line = conda.offline_line("/r/miniforge", "/r/envs/x", "/r/w/explicit.txt")
    assert line[0] == "/r/miniforge/bin/conda"
    assert "--offline" in line
    assert conda.local_list(LIST, "/r/w/packages") == (
        "@EXPLICIT\n"
        "file:///r/w/packages/llvm-openmp-20.1.8-h4922eb0_0.conda#5a5f1b\n"
        "file:///r/w/packages/tzdata-2025b-h78e105d_0.conda#4222072737\n"
    )


def test_an_empty_list_is_refused() -> None:
    with pytest.raises(UserError, match="no packages"):
        conda.local_list("@EXPLICIT\n", "/r/w/packages")


def test_the_listed_packages_are_collected_from_the_cache(tmp_path: Path) -> None:
    cache, out = tmp_path / "cache", tmp_path / "out"
    cache.mkdir()
    names = ["llvm-openmp-20.1.8-h4922eb0_0.conda", "tzdata-2025b-h78e105d_0.conda"]
    for name in [*names, "another.conda"]:
        (cache / name).write_text(name)
    (tmp_path / "list").write_text(LIST)
    line = script(conda.COLLECT, str(cache), str(tmp_path / "list"), str(out))
    subprocess.run(["sh", "-c", line], check=True)
    assert sorted(path.name for path in out.iterdir()) == names
