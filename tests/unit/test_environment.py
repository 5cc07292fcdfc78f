"""scripts.environment, run on small checkouts with packages made here: nothing is downloaded."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from scripts import environment
from scripts.environments import indexes, place, profiles, pytorch
from scripts.environments.profiles import Profile, SetupError
from scripts.environments.steps import Steps

CHECKOUT = Path(environment.__file__).resolve().parents[1]
# The packages that are made here are tiny: they need none of the disk that the real ones take.
UPSTREAM = replace(profiles.PROFILES["upstream"], free_gib=0)
MAIN = """
import sys
from dataclasses import replace
from scripts import environment
from scripts.environments.profiles import PROFILES
PROFILES["upstream"] = replace(PROFILES["upstream"], free_gib=0)
sys.exit(environment.main())
"""
"""scripts.environment as the command line starts it, whatever disk is free."""


def write_wheel(
    index: Path, name: str, version: str, code: str = "", requires: tuple[str, ...] = ()
) -> None:
    """Write a wheel of one module into a folder that pip can search."""
    index.mkdir(parents=True, exist_ok=True)
    module = name.replace("-", "_")
    information = f"{module}-{version}.dist-info"
    metadata = [f"Name: {name}", f"Version: {version}"]
    metadata += [f"Requires-Dist: {text}" for text in requires]
    with zipfile.ZipFile(index / f"{module}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{module}.py", code)
        wheel.writestr(f"{information}/METADATA", "\n".join(["Metadata-Version: 2.1", *metadata]))
        wheel.writestr(
            f"{information}/WHEEL",
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        wheel.writestr(f"{information}/RECORD", "")


@dataclass(frozen=True)
class Checkout:
    """A checkout with a lock file, and the folder of wheels that its set-up may take from."""

    root: Path
    index: Path

    def lock(self, *pins: str) -> None:
        """Pin packages in the upstream lock file."""
        path = profiles.lock_path(self.root, UPSTREAM)
        path.parent.mkdir(exist_ok=True)
        path.write_text("# A comment\n" + "".join(f"{pin}\n" for pin in pins))

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-c", MAIN, "--root", str(self.root), *words]

    def variables(self, **more: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
        offline = {
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(self.index),
            indexes.TORCH_INDEX_VARIABLE: "none",
        }
        return kept | offline | more

    def run(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words),
            env=self.variables(**variables),
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def environments(self) -> list[Path]:
        return sorted(path for path in (self.root / ".venvs").glob("*-*") if path.is_dir())

    def installed(self) -> list[str]:
        found = (self.root / ".venv").glob("lib/python*/site-packages/*.dist-info")
        names = {path.name.partition("-")[0] for path in found}
        return sorted(names - {"pip", "setuptools"})


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """A checkout whose lock file pins nothing."""
    place = Checkout((tmp_path / "checkout").resolve(), tmp_path / "wheels")
    place.root.mkdir()
    place.index.mkdir()
    place.lock()
    return place


@pytest.fixture
def fake_build(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Replace the building of environments by the making of an empty one; lists those made."""
    made: list[Path] = []

    def build(root: Path, profile: Profile, home: Path, steps: Steps) -> None:
        (home / "bin").mkdir(parents=True)
        (home / "bin" / "python").symlink_to(sys.executable)
        (home / "finished.json").write_text("{}")
        made.append(home)

    monkeypatch.setattr(place, "build", build)
    return made


def wait_for(happened: Callable[[], bool]) -> None:
    """Wait until something has happened, at most half a minute."""
    end = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def test_a_set_up_installs_the_lock_and_the_next_one_does_nothing(checkout: Checkout) -> None:
    write_wheel(checkout.index, "tiny", "1.0", "answer = 42")
    # A build of torch for CUDA, which also gets the libraries it loads, and no others.
    requires = (
        "tiny",
        "nvidia-cublas-cu12==1.0; platform_system != 'nowhere'",
        "nvidia-cusolver-cu12==1.0; platform_system != 'nowhere'",
        "triton==1.0; platform_system != 'nowhere'",
        'nvidia-extra==1.0; extra == "gpu"',
    )
    write_wheel(checkout.index, "torch", "9.0", "import nvidia_cublas_cu12", requires)
    for name in ("nvidia-cublas-cu12", "nvidia-cusolver-cu12", "triton"):
        write_wheel(checkout.index, name, "1.0")
    checkout.lock("tiny==1.0", "torch==9.0", "absent==3.0; sys_platform == 'nowhere'")
    (checkout.root / "training.py").write_text("here = True")

    first = checkout.run("upstream")
    assert first.returncode == 0, first.stderr
    link = checkout.root / ".venv"
    assert link.is_symlink()
    assert checkout.installed() == ["nvidia_cublas_cu12", "tiny", "torch"]
    assert json.loads((link / "finished.json").read_text())["lock"] == "upstream.txt"

    # Both the package and the checkout itself can be imported, from any folder.
    imports = "import tiny, training; print(tiny.answer, training.here)"
    command = [str(link / "bin" / "python"), "-I", "-c", imports]
    assert subprocess.check_output(command, text=True, cwd="/") == "42 True\n"

    target = os.readlink(link)
    before = (link / "finished.json").stat().st_mtime_ns
    began = time.monotonic()
    second = checkout.run("upstream")
    took = time.monotonic() - began
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
    assert os.readlink(link) == target
    assert (link / "finished.json").stat().st_mtime_ns == before
    # It takes a tenth of a second; the rest is room for a busy machine.
    assert took < 2


def test_a_package_that_is_not_to_be_had_fails_with_its_name_and_leaves_nothing(
    checkout: Checkout,
) -> None:
    checkout.lock("nowhere-to-be-found==1.0")
    result = checkout.run("upstream")
    assert result.returncode == 1
    assert "nowhere-to-be-found==1.0" in result.stderr
    assert ".venvs/upstream.log" in result.stderr
    assert "Check the network" in result.stderr
    assert "Traceback" not in result.stderr
    assert "$ " in (checkout.root / ".venvs" / "upstream.log").read_text()
    assert checkout.environments() == []
    assert not os.path.lexists(checkout.root / ".venv")


def test_a_failure_keeps_the_environment_that_worked(
    checkout: Checkout, fake_build: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    place.set_up(checkout.root, UPSTREAM)
    (worked,) = fake_build

    def fail(root: Path, profile: Profile, home: Path, steps: Steps) -> None:
        (home / "bin").mkdir(parents=True)
        raise SetupError("the network is down")

    monkeypatch.setattr(place, "build", fail)
    checkout.lock("tiny==1.0")
    with pytest.raises(SetupError, match="the network is down\nNothing half-made"):
        place.set_up(checkout.root, UPSTREAM)
    assert checkout.environments() == [worked]
    assert (checkout.root / ".venv").resolve() == worked


def test_packages_that_do_not_import_are_a_failure(checkout: Checkout) -> None:
    write_wheel(checkout.index, "torch", "9.0", "raise ImportError('wrong kind of processor')")
    checkout.lock("torch==9.0")
    result = checkout.run("upstream")
    assert result.returncode == 1
    assert "first import: failed" in result.stderr
    assert "wrong kind of processor" in result.stderr
    assert checkout.environments() == []


def test_torch_comes_from_the_index_that_the_variable_names(
    checkout: Checkout, tmp_path: Path
) -> None:
    write_wheel(checkout.index, "torch", "9.0", "build = 'cuda'")
    pages = tmp_path / "index"
    write_wheel(pages / "torch", "torch", "9.0+cpu", "build = 'cpu'")
    wheel = next((pages / "torch").glob("*.whl")).name
    (pages / "torch" / "index.html").write_text(f'<a href="{wheel}">{wheel}</a>')
    checkout.lock("torch==9.0")
    index = {indexes.TORCH_INDEX_VARIABLE: pages.as_uri(), "PIP_NO_INDEX": "0"}
    result = checkout.run("upstream", **index)
    assert result.returncode == 0, result.stderr
    assert pages.as_uri() in result.stdout
    show = [
        str(checkout.root / ".venv" / "bin" / "python"),
        "-c",
        "import torch;print(torch.build)",
    ]
    assert subprocess.check_output(show, text=True) == "cpu\n"


def test_a_password_of_an_index_is_no_argument_and_shown_and_logged_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = tmp_path / "given"
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python"
    python.write_text(f'#!/bin/sh\necho "$@"; echo "$PIP_INDEX_URL" >> {given}; exit 1\n')
    python.chmod(0o755)
    index = "http://me:geheim@127.0.0.1:9/whl"
    for variable in (indexes.TORCH_INDEX_VARIABLE, indexes.ONECCL_INDEX_VARIABLE):
        monkeypatch.setenv(variable, index)
    steps = Steps(tmp_path / "log")
    with pytest.raises(SetupError) as caught:
        pytorch.install_torch(steps, tmp_path, "9.0")
    pytorch.install_oneccl(steps, tmp_path, "9.0")
    assert given.read_text().splitlines() == [index, index]
    said = capsys.readouterr().out + str(caught.value)
    assert said.count("from http://127.0.0.1:9/whl") == 3
    assert "geheim" not in said + steps.log.read_text()


def test_an_index_that_is_not_there_is_found_out_soon() -> None:
    began = time.monotonic()
    assert not indexes.index_answers("http://127.0.0.1:9/whl")
    assert not indexes.index_answers("not an address")
    assert time.monotonic() - began < 3


def test_an_interrupted_set_up_cleans_up(checkout: Checkout) -> None:
    process = subprocess.Popen(
        checkout.command("upstream"),
        cwd=CHECKOUT,
        env=checkout.variables(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: bool(checkout.environments()))
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Interrupted" in error
    assert "Traceback" not in error
    assert checkout.environments() == []


def test_what_a_killed_set_up_left_is_removed_once_its_programs_have_ended(
    checkout: Checkout, fake_build: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    killed = subprocess.Popen(
        checkout.command("upstream"),
        cwd=CHECKOUT,
        env=checkout.variables(),
        stdout=subprocess.DEVNULL,
    )
    wait_for(lambda: bool(checkout.environments()))
    killed.kill()
    killed.wait()
    (partial,) = checkout.environments()
    (partial / "trace of the first").touch()

    # The program that the killed one had started goes on, and is waited for.
    place.set_up(checkout.root, UPSTREAM)
    said = capsys.readouterr().out
    assert said.index("waiting") < said.index("half-made")
    assert not (partial / "trace of the first").exists()
    assert checkout.environments() == fake_build == [(checkout.root / ".venv").resolve()]


def test_two_at_once_make_one_environment(checkout: Checkout) -> None:
    both = [
        subprocess.Popen(
            checkout.command("upstream"),
            cwd=CHECKOUT,
            env=checkout.variables(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(2)
    ]
    said = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert "".join(said).count("Setting up .venv") == 1
    assert len(checkout.environments()) == 1


def test_the_link_moves_to_the_environment_of_the_new_lock(
    checkout: Checkout, fake_build: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    place.set_up(checkout.root, UPSTREAM)
    place.set_up(checkout.root, UPSTREAM)
    assert len(fake_build) == 1
    checkout.lock("tiny==2.0")
    place.set_up(checkout.root, UPSTREAM)
    old, new = fake_build
    assert old != new
    assert (checkout.root / ".venv").resolve() == new
    # A program may still run in the old one.
    assert old.is_dir()
    assert old.name in capsys.readouterr().out
    # Going back to the old lock finds its environment whole.
    checkout.lock()
    place.set_up(checkout.root, UPSTREAM)
    assert (checkout.root / ".venv").resolve() == old
    assert len(fake_build) == 2


def test_a_copied_checkout_does_not_take_the_environment_along(
    checkout: Checkout, fake_build: list[Path], tmp_path: Path
) -> None:
    place.set_up(checkout.root, UPSTREAM)
    copy = tmp_path / "copy"
    checkout.root.rename(copy)
    assert not place.is_ready(copy, UPSTREAM)


def test_an_environment_whose_interpreter_is_gone_is_made_anew(
    checkout: Checkout, fake_build: list[Path]
) -> None:
    place.set_up(checkout.root, UPSTREAM)
    python = checkout.root / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to(checkout.root / "no longer here")
    place.set_up(checkout.root, UPSTREAM)
    assert len(fake_build) == 2
    assert place.is_ready(checkout.root, UPSTREAM)


@pytest.mark.parametrize("kind", ["folder", "link"])
def test_a_foreign_environment_is_refused_and_kept(
    checkout: Checkout, fake_build: list[Path], tmp_path: Path, kind: str
) -> None:
    foreign = tmp_path / "somebody's"
    foreign.mkdir()
    (foreign / "work").touch()
    link = checkout.root / ".venv"
    if kind == "link":
        link.symlink_to(foreign)
    else:
        foreign.rename(link)
    with pytest.raises(SetupError, match="did not make it"):
        place.set_up(checkout.root, UPSTREAM)
    place.clean(checkout.root)
    assert (link / "work").exists()
    assert fake_build == []


def test_clean_removes_the_environments_and_nothing_else(
    checkout: Checkout, fake_build: list[Path]
) -> None:
    place.set_up(checkout.root, UPSTREAM)
    result = checkout.run("clean")
    assert result.returncode == 0, result.stderr
    assert checkout.environments() == []
    assert not os.path.lexists(checkout.root / ".venv")
    assert profiles.lock_path(checkout.root, UPSTREAM).exists()


def test_a_full_disk_and_a_wrong_machine_are_told_beforehand(
    checkout: Checkout, fake_build: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout.lock()
    lock = profiles.lock_path(checkout.root, profiles.PROFILES["intel"])
    lock.write_text("")
    with monkeypatch.context() as patch:
        patch.setattr("platform.machine", lambda: "arm64")
        with pytest.raises(SetupError, match="Linux on x86-64 only"):
            place.set_up(checkout.root, profiles.PROFILES["intel"])
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=2**29))
        with pytest.raises(SetupError, match=r"has 0\.5 GiB free"):
            place.set_up(checkout.root, profiles.PROFILES["upstream"])
    assert fake_build == []


def test_an_old_python_is_told_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "version_info", (3, 9, 2, "final", 0))
        assert environment.main(["upstream"]) == 1
    assert "Python 3.11 or newer is needed" in capsys.readouterr().err
