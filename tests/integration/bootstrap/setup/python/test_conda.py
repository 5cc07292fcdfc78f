"""conda environments by py-rattler, from a channel that a real server serves to this machine.

The packages are small and real; the whole way, on hosts, is tests/e2e/bootstrap/test_conda.py.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootstrap.errors import CommandFailed, UserError
from bootstrap.inventory.inventory import Node
from bootstrap.node.downloads import conda_node, conda_packages
from bootstrap.setup.python import conda, packages
from bootstrap.setup.python.package_pins import CONDA, read_lock
from bootstrap.setup.python.payload import Payload, make_payload, send_payload
from bootstrap.ssh.command import Command
from bootstrap.ssh.command_output import Output
from bootstrap.ssh.host import Host, local_host
from tests.conda_channel import Channel, make_channel
from tests.rig.stand_in import FileServer
from tests.rig.wheels import fetch_wheels

ROOT = Path(__file__).resolve().parents[5]
KINDS = (".tar.bz2", ".conda")
BIG = os.urandom(1 << 20)
"""In the place of libraries that nobody loads here: does not shrink when it is packed."""


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with py-rattler's wheel, as it lies on the head."""
    folder = tmp_path_factory.mktemp("wheels")
    lock = ROOT / "requirements" / "node-conda.txt"
    for wheel in fetch_wheels([lock]).glob("py_rattler-*.whl"):
        (folder / wheel.name).symlink_to(wheel)
    return str(folder)


@pytest.fixture(scope="module")
def payload(tmp_path_factory: pytest.TempPathFactory) -> Payload:
    return make_payload(ROOT, tmp_path_factory.mktemp("records"))


@pytest.fixture
def host(tmp_path: Path, payload: Payload) -> Host:
    found = local_host(Node("n0", "127.0.0.1"), str(tmp_path / "root"))
    send_payload(found, payload)
    return found


@pytest.fixture
def channel(tmp_path: Path) -> Channel:
    return make_channel(tmp_path / "channel", BIG, libtcmalloc=BIG)


@pytest.fixture
def server(channel: Channel) -> Iterator[FileServer]:
    served = FileServer(channel.folder)
    yield served
    served.close()


def fetch(
    host: Host, payload: Payload, wheels: str, url: str, said: list[str] | None = None
) -> str:
    said = [] if said is None else said
    return conda.fetch(host, payload, sys.executable, wheels, url, said.append)


def install(host: Host, payload: Payload, wheels: str, folder: str) -> Path:
    home = f"{host.layout.envs}/mine"
    for line in conda.install_lines(
        f"{payload.path(host)}/{payload.wheel}", sys.executable, wheels, folder, home
    ):
        host.run(line)
    return Path(home)


def fetched(server: FileServer) -> list[str]:
    """The packages that were asked for, in order."""
    return [Path(path).name for _, path in server.requests if path.endswith(KINDS)]


def left_behind(host: Host) -> list[str]:
    """What lies beside the folders that have their names."""
    beside = [*Path(host.layout.wheels).iterdir(), *Path(host.layout.root).glob("envs/*")]
    return [path.name for path in beside if "." in path.name]


def test_from_a_channel_to_an_environment_and_the_second_one_without_it(
    host: Host, payload: Payload, wheels: str, server: FileServer, channel: Channel
) -> None:
    said: list[str] = []
    found = fetch(host, payload, wheels, server.url, said)
    assert sorted(fetched(server)) == sorted(
        path.name for path in channel.folder.rglob("*") if path.name.endswith(KINDS)
    )
    packages = [path for path in server.sent if path.endswith(KINDS)]
    assert sum(server.sent[path] for path in packages) == channel.size
    assert any(re.fullmatch(r"[\d.]+ of [\d.]+ MB, \d+ s left: .*", line) for line in said)
    asked = len(server.requests)
    server.close()  # From here on there is no network.

    home = install(host, payload, wheels, found)
    printed = host.run([f"{home}/bin/python", "-I", "-c", "import sys; print(sys.prefix)"]).stdout
    assert printed.strip() == str(home)
    base = conda.base_on(host)
    assert f"/python-{base.version}." in (Path(found) / conda_node.EXPLICIT).read_text()
    assert (home / "bin" / "pydoc3").read_text().startswith(f"#!{home}/bin/python\n")
    assert (home / "lib" / "libiomp5.so").read_bytes() == BIG
    records = {path.name: json.loads(path.read_text()) for path in home.glob("conda-meta/*.json")}
    assert {about["name"] for about in records.values()} == {
        "python", "tzdata", "gperftools", "llvm-openmp",
    }  # fmt: skip
    about = records["gperftools-2.10-0.json"]
    assert about["url"] == f"{server.url}/linux-64/gperftools-2.10-0.tar.bz2"
    assert set(about["files"]) == {"lib/libtcmalloc.so.4", "lib/libtcmalloc.so.4.5.10"}

    assert fetch(host, payload, wheels, server.url) == found
    assert conda.base_on(host) == base
    assert len(server.requests) == asked
    assert left_behind(host) == []


def test_what_is_handed_out_is_a_channel_itself(
    host: Host, payload: Payload, wheels: str, server: FileServer
) -> None:
    found = fetch(host, payload, wheels, server.url)
    explicit = (Path(found) / conda_node.EXPLICIT).read_text()
    assert "@EXPLICIT" in explicit.splitlines()
    assert re.search(
        rf"^{server.url}/noarch/tzdata-2026b-0.tar.bz2#[0-9a-f]{{32}}$", explicit, re.M
    )
    again = local_host(Node("n1", "127.0.0.1"), f"{host.layout.root}-n1")
    send_payload(again, payload)
    fetch(again, payload, wheels, f"file://{found}")
    assert conda.base_on(again).version == conda.base_on(host).version


def test_a_password_is_written_nowhere(
    host: Host,
    payload: Payload,
    wheels: str,
    server: FileServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines: list[str] = []
    stream = host.transport.stream

    def noting(command: Command, output: Output) -> None:
        lines.append(command.line)
        stream(command, output)

    monkeypatch.setattr(host.transport, "stream", noting)
    found = fetch(host, payload, wheels, server.url.replace("//", "//me:geheim@"))
    home = install(host, payload, wheels, found)
    for path in [*Path(found).rglob("*"), *home.glob("conda-meta/*")]:
        if path.is_file():
            assert b"geheim" not in path.read_bytes(), path
    assert lines
    assert not [line for line in lines if "geheim" in line], "it is in a process's arguments"
    logged: list[str] = []
    host = dataclasses.replace(host, log=logged.append)
    host.run("echo geheim, by itself")
    server.close()
    shutil.rmtree(found)
    with pytest.raises(UserError) as caught:
        fetch(host, payload, wheels, server.url.replace("//", "//me:geheim@"))
    assert not [text for text in [*logged, str(caught.value)] if "geheim" in text]


@pytest.mark.parametrize(
    ("fault", "only", "said"),
    [
        ("refused", "", "127.0.0.1"),
        ("error", "", "500"),
        ("error", "gperftools", r"gperftools-2\.10-0\.tar\.bz2 from http://127.*500"),
        ("torn", "gperftools", r"gperftools-2\.10-0\.tar\.bz2 from .*\d+ of \d+ bytes arrived"),
        ("wrong", "gperftools", r"gperftools-2\.10-0\.tar\.bz2 from .*SHA-256 is \w+\.\.\., and"),
    ],
)
def test_a_fault_of_the_channel_is_one_line_and_the_next_try_goes_on(
    host: Host,
    payload: Payload,
    wheels: str,
    server: FileServer,
    fault: str,
    only: str,
    said: str,
) -> None:
    server.fail(fault, only=only)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=said) as caught:
        fetch(host, payload, wheels, server.url)
    text = str(caught.value)
    assert text.startswith("n0: ")
    assert "\n" not in text
    assert "--conda-channel URL" in text
    assert not Path(conda.folder_of(host)).exists()
    server.mend()
    before = len(fetched(server))
    fetch(host, payload, wheels, server.url)
    again = fetched(server)[before:]
    assert "gperftools-2.10-0.tar.bz2" in again
    # Those that came before it had arrived whole.
    assert only == "" or again[0] == "gperftools-2.10-0.tar.bz2"
    assert left_behind(host) == []


def test_a_package_whose_hash_is_not_listed_is_refused(
    host: Host, payload: Payload, wheels: str, server: FileServer, channel: Channel
) -> None:
    path = channel.folder / "noarch" / "repodata.json"
    listed = json.loads(path.read_text())
    for about in listed["packages"].values():
        del about["sha256"]
    path.write_text(json.dumps(listed))
    with pytest.raises(UserError, match=r"lists tzdata-2026b-0\.tar\.bz2 without SHA-256"):
        fetch(host, payload, wheels, server.url)


def test_a_name_that_the_channel_does_not_have(
    host: Host, payload: Payload, wheels: str, server: FileServer, tmp_path: Path
) -> None:
    other = Channel(tmp_path / "other")
    other.add("gperftools2", "1.0", {"lib/a": b"a"})
    other.add("python", "3.12.1", {"lib/b": b"b"})
    other.add("llvm-openmp", "20.1", {"lib/c": b"c"})
    other.index()
    server.folder = other.folder
    with pytest.raises(UserError, match=r"no package gperftools \(nearest: gperftools2\)"):
        fetch(host, payload, wheels, server.url)
    assert not Path(conda.folder_of(host)).exists()


def test_a_package_whose_name_leads_elsewhere_is_refused(
    host: Host, payload: Payload, wheels: str, server: FileServer, channel: Channel
) -> None:
    path = channel.folder / "noarch" / "repodata.json"
    text = path.read_text().replace('"tzdata-2026b-0.tar.bz2"', '"../tzdata-2026b-0.tar.bz2"')
    path.write_text(text)
    with pytest.raises(UserError, match=r"127\.0\.0\.1.*: .*tzdata"):
        fetch(host, payload, wheels, server.url)
    assert not list(Path(host.layout.root).rglob("tzdata*"))


def test_versions_that_do_not_fit_together(
    host: Host, payload: Payload, wheels: str, server: FileServer, channel: Channel
) -> None:
    channel.add("gperftools", "2.10", {"lib/a": b"a"}, depends=["python >=3.14"])
    channel.index()
    with pytest.raises(UserError, match=r"no packages that fit together: .*python") as caught:
        fetch(host, payload, wheels, server.url)
    assert "\n" not in str(caught.value)


def test_an_attempt_that_was_killed_goes_on_where_it_was(
    host: Host, payload: Payload, wheels: str, server: FileServer
) -> None:
    filling = f"{conda.folder_of(host)}.fetching"
    wheel = f"{payload.path(host)}/{payload.wheel}"
    line = conda.node_line(sys.executable, wheel, "fetch", wheels, filling)
    server.fail("slow", only="llvm-openmp", bytes_per_second=100_000)
    process = subprocess.Popen(["sh", "-c", f"exec {line}"], stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(json.dumps({"channel": server.url, "specs": conda.SPECS}).encode())
    process.stdin.close()
    while not any("llvm-openmp" in path for path in server.sent):
        assert process.poll() is None
    process.kill()
    process.wait()
    server.mend()
    assert not list(Path(filling).rglob("llvm-openmp*.bz2"))
    before = fetched(server)
    fetch(host, payload, wheels, server.url)
    again = fetched(server)[len(before) :]
    assert again[0] == "llvm-openmp-20.1.8-0.tar.bz2"
    assert "gperftools-2.10-0.tar.bz2" not in again
    assert left_behind(host) == []


def test_a_damaged_package_makes_no_environment(
    host: Host, payload: Payload, wheels: str, server: FileServer
) -> None:
    found = fetch(host, payload, wheels, server.url)
    package = Path(found) / "linux-64" / "llvm-openmp-20.1.8-0.tar.bz2"
    shutil.copyfile(package.with_name("gperftools-2.10-0.tar.bz2"), package)
    with pytest.raises(CommandFailed, match=r"llvm-openmp-20\.1\.8-0\.tar\.bz2 is damaged"):
        install(host, payload, wheels, found)
    assert not (Path(host.layout.envs) / "mine").exists()
    assert left_behind(host) == []


def test_auto_goes_by_whether_the_channel_answers(host: Host, server: FileServer) -> None:
    assert conda.channel_answers(host, sys.executable, server.url)
    assert not conda.channel_answers(host, None, server.url)
    server.close()
    assert not conda.channel_answers(host, sys.executable, server.url)


def test_a_proxy_of_the_environment_is_used(
    host: Host,
    payload: Payload,
    wheels: str,
    server: FileServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The server is asked for the whole URL, as proxies are; it answers by the path in it."""
    monkeypatch.setenv("HTTP_PROXY", server.url)
    monkeypatch.setenv("http_proxy", server.url)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    found = fetch(host, payload, wheels, "http://conda.invalid")
    assert (
        "http://conda.invalid/linux-64/gperftools"
        in (Path(found) / conda_node.EXPLICIT).read_text()
    )
    assert conda.channel_answers(host, sys.executable, "http://conda.invalid")


def test_what_the_wheel_of_the_installer_is_asked_for() -> None:
    lock = read_lock(ROOT, CONDA)
    (part,) = lock.parts(None)
    assert part.names == ("py-rattler",)
    assert "--hash=sha256:" in part.lines[0]
    line = packages.download_line("python3", conda.WHEEL_PYTHON, "pip.zip", part, "folder")
    assert "--require-hashes" in line


def test_what_runs_on_nodes_is_what_python_3_10_reads() -> None:
    """Ubuntu 22.04 has no newer one, and conda is for nodes that lack what a venv needs."""
    for module in (conda_node, conda_packages):
        ast.parse(inspect.getsource(module), feature_version=(3, 10))
