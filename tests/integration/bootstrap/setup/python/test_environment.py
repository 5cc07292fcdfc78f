"""Packages fetched from a real index by a real pip, and environments made of them without one.

The packages are tiny; the whole stack is installed on the rig (tests/e2e).
"""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from bootstrap.errors import UserError
from bootstrap.inventory.inventory import Node
from bootstrap.setup.node_facts import gather_facts
from bootstrap.setup.python import environment, packages
from bootstrap.setup.python.environment import Base, Recipe, installed, set_up, venv_lines
from bootstrap.setup.python.package_pins import Lock
from bootstrap.setup.python.payload import Payload, make_payload, send_payload
from bootstrap.setup.python.project_wheel import build, source_key
from bootstrap.ssh.host import Host, local_host
from tests.rig.stand_in import PackageIndex, serving_packages
from tests.tiny_wheels import tiny_wheel

ROOT = Path(__file__).resolve().parents[5]


class Python(NamedTuple):
    version: str
    path: str


def quiet(text: str) -> None:
    del text


@pytest.fixture(scope="module")
def payload(tmp_path_factory: pytest.TempPathFactory) -> Payload:
    return make_payload(ROOT, tmp_path_factory.mktemp("records"))


@pytest.fixture
def host(tmp_path: Path, payload: Payload, monkeypatch: pytest.MonkeyPatch) -> Host:
    # What this machine's pip is set to must make no difference.
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    found = local_host(Node("n0", "127.0.0.1"), str(tmp_path / "root"))
    send_payload(found, payload)
    return found


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Python:
    root = tmp_path_factory.mktemp("gather_facts")
    facts = gather_facts(local_host(Node("n0", "127.0.0.1"), str(root)), "127.0.0.1")
    return Python(*next(iter(facts.pythons.items())))


@pytest.fixture
def index(tmp_path: Path) -> Iterator[PackageIndex]:
    with serving_packages(tmp_path / "index") as index:
        yield index


def lock_of(index: PackageIndex, **codes: str) -> Lock:
    """Two packages and their lock; keyword arguments are modules' code."""
    codes = {"first": "", "second": "import first\n", **codes}
    lines = {
        name: f"{name}==1.0 --hash=sha256:{tiny_wheel(index.folder, name, '1.0', code)}"
        for name, code in codes.items()
    }
    return Lock("upstream", dict.fromkeys(codes, "1.0"), lines)


def fetch(
    host: Host, lock: Lock, payload: Payload, python: Python, index: PackageIndex
) -> tuple[str, ...]:
    return tuple(
        packages.fetch(
            host,
            lock,
            python=python.path,
            version=python.version,
            pip=payload.pip(host),
            package_index=index.simple,
            say=quiet,
        )
    )


def make(
    host: Host,
    lock: Lock,
    payload: Payload,
    python: Python,
    wheels: tuple[str, ...],
    said: list[str],
) -> Recipe:
    base = Base("venv", python.version)
    recipe = Recipe(lock, payload, base, wheels, imports=("first", "second", "bootstrap"))
    set_up(host, recipe, venv_lines(python.path, recipe.home(host)), None, said.append)
    return recipe


def test_from_an_index_to_an_environment(
    host: Host, payload: Payload, python: Python, index: PackageIndex
) -> None:
    lock = dataclasses.replace(lock_of(index), extras=("openvino",))
    wheels = fetch(host, lock, payload, python, index)
    assert sorted(path.name for path in Path(*wheels).iterdir()) == [
        "first-1.0-py3-none-any.whl",
        "pins.txt",
        "second-1.0-py3-none-any.whl",
    ]
    before = len(index.requests)
    index.close()  # from here on the internet is not needed
    said: list[str] = []
    recipe = make(host, lock, payload, python, wheels, said)
    where = host.run([host.python, "-I", "-c", "import second; print(second.__file__)"]).stdout
    assert where.startswith(f"{host.layout.env}/lib/")
    assert Path(host.layout.env).resolve().name == recipe.name
    assert len(index.requests) == before
    found = installed(host)
    assert found["packages"]["first"] == "1.0"
    assert found["packages"]["xeon-diffusion"]
    assert (found["stack"], found["with"]) == ("upstream", ["openvino"])
    assert found["environment"] == "venv"
    assert found["payload"] == payload.key
    assert "no tcmalloc on this system: training does without it" in said


def test_a_second_time_nothing_is_asked_and_nothing_changes(
    host: Host, payload: Payload, python: Python, index: PackageIndex
) -> None:
    lock = lock_of(index)
    wheels = fetch(host, lock, payload, python, index)
    recipe = make(host, lock, payload, python, wheels, [])
    before = (Path(recipe.home(host)) / "installed.json").stat().st_mtime_ns
    index.close()
    assert fetch(host, lock, payload, python, index) == wheels
    said: list[str] = []
    make(host, lock, payload, python, wheels, said)
    assert said == ["already there"]
    assert (Path(recipe.home(host)) / "installed.json").stat().st_mtime_ns == before


def test_a_password_of_an_index_is_shown_and_written_nowhere(
    host: Host,
    payload: Payload,
    python: Python,
    index: PackageIndex,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(packages, "TRIES", 1)
    address = index.simple
    monkeypatch.setattr(
        PackageIndex, "simple", property(lambda _: address.replace("//", "//me:geheim@"))
    )
    logged: list[str] = []
    host = dataclasses.replace(host, log=logged.append)
    fetch(host, lock_of(index), payload, python, index)
    host.run("echo geheim, by itself")
    index.fail("error")
    with pytest.raises(UserError, match=r"not available from http://\*\*\*@127") as caught:
        fetch(host, lock_of(index, third=""), payload, python, index)
    told = [*logged, str(caught.value)]
    told += [
        path.read_text(errors="replace")
        for path in Path(host.layout.root).rglob("*")
        if path.is_file() and path.suffix != ".zip"
    ]
    assert not [text for text in told if "geheim" in text]


def test_a_broken_index_is_named_and_the_next_try_goes_on(
    host: Host,
    payload: Payload,
    python: Python,
    index: PackageIndex,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    by_one = functools.partial(Lock.parts, batch=1)
    monkeypatch.setattr(Lock, "parts", lambda lock, index: by_one(lock, index))
    lock = lock_of(index)
    index.fail("error", only="second")
    with pytest.raises(UserError, match=r"n0: .*127\.0\.0\.1(.|\n)*second(.|\n)*--package-index"):
        fetch(host, lock, payload, python, index)
    first, second = packages.folders_of(host, lock, python.version)
    assert Path(first).is_dir()
    assert not Path(second).exists()
    index.mend()
    fetched = len([path for _, path in index.requests if path.endswith(".whl")])
    fetch(host, lock, payload, python, index)
    again = [path for _, path in index.requests if path.endswith(".whl")][fetched:]
    assert [path for path in again if "second" in path]
    assert not [path for path in again if "first" in path]


def test_a_wheel_that_is_not_the_locks_is_refused(
    host: Host, payload: Payload, python: Python, index: PackageIndex
) -> None:
    lock = lock_of(index)
    tiny_wheel(index.folder, "second", "1.0", "print('somebody else was here')\n")
    with pytest.raises(UserError, match="second"):
        fetch(host, lock, payload, python, index)
    assert not Path(*packages.folders_of(host, lock, python.version)).exists()


def test_a_package_that_does_not_import_leaves_the_old_environment_in_use(
    host: Host, payload: Payload, python: Python, index: PackageIndex
) -> None:
    good = lock_of(index)
    old = make(host, good, payload, python, fetch(host, good, payload, python, index), [])
    bad = lock_of(index, third="", second="import nothing_of_that_name\n")
    wheels = fetch(host, bad, payload, python, index)
    with pytest.raises(UserError, match=r"nothing_of_that_name(.|\n)*do not work together on n0"):
        make(host, bad, payload, python, wheels, [])
    assert Path(host.layout.env).resolve() == Path(old.home(host)).resolve()
    assert installed(host)["packages"]["second"] == "1.0"


def test_an_environment_cut_short_is_made_anew(
    host: Host, payload: Payload, python: Python, index: PackageIndex
) -> None:
    lock = lock_of(index)
    wheels = fetch(host, lock, payload, python, index)
    recipe = Recipe(lock, payload, Base("venv", python.version), wheels)
    home = Path(recipe.home(host))
    for line in venv_lines(python.path, str(home)):
        host.run(["mkdir", "-p", host.layout.envs])
        host.run(line)
    shutil.rmtree(home / "bin")
    (home / "stale").touch()
    make(host, lock, payload, python, wheels, [])
    assert not (home / "stale").exists()
    host.run([host.python, "-I", "-c", "import second"])


def test_new_code_of_the_checkout_goes_into_the_environment_that_is_there(
    host: Host, payload: Payload, python: Python, index: PackageIndex
) -> None:
    lock = lock_of(index)
    wheels = fetch(host, lock, payload, python, index)
    make(host, lock, payload, python, wheels, [])
    newer = dataclasses.replace(payload, key="another")
    shutil.copytree(payload.path(host), newer.path(host))
    said: list[str] = []
    make(host, lock, newer, python, wheels, said)
    assert said[:2] == ["this checkout's code", "first import"]
    assert installed(host)["payload"] == "another"


def test_only_a_library_that_loads_is_preloaded(
    host: Host, payload: Payload, python: Python, index: PackageIndex, tmp_path: Path
) -> None:
    lock = lock_of(index)
    wheels = fetch(host, lock, payload, python, index)
    recipe = Recipe(lock, payload, Base("venv", python.version), wheels, imports=("first",))
    broken = tmp_path / "libtcmalloc.so.4"
    broken.write_bytes(b"not a library")
    set_up(host, recipe, venv_lines(python.path, recipe.home(host)), str(broken), quiet)
    recorded = json.loads((Path(recipe.home(host)) / environment.PRELOAD).read_text())
    assert recorded == []
    shutil.rmtree(recipe.home(host))
    set_up(host, recipe, venv_lines(python.path, recipe.home(host)), "libm.so.6", quiet)
    assert installed(host)["preload"] == ["libm.so.6"]


def test_the_projects_wheel_is_the_same_bytes_each_time(tmp_path: Path) -> None:
    one, two = build(ROOT, tmp_path / "a"), build(ROOT, tmp_path / "b")
    assert one.read_bytes() == two.read_bytes()
    assert one.parent.name == source_key(ROOT)
    assert build(ROOT, tmp_path / "a") == one
