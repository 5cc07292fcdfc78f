"""The default way, `--environment conda`, from bare hosts to a training: nothing prepared.

The channel is a small one of real packages, beside the package index on the head's uplink.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bootstrap.setup.python import conda
from bootstrap.setup.python.payload import make_payload
from tests.conda_channel import Channel, libiomp5_of, make_channel
from tests.hub import serving
from tests.person import CHECKOUT, SECONDS, STATE, TRAINING, Person, pulumi
from tests.rig.rig import rig_of
from tests.rig.stand_in import FileServer, serving_packages
from tests.rig.wheels import fetch_wheels

MINIATURE = CHECKOUT / "training" / "miniature"
LOCKS = [CHECKOUT / "requirements" / f"node-{name}.txt" for name in ("upstream", "conda")]
ENVIRONMENT = "~/.xeon-diffusion/env"

pytestmark = pytest.mark.rig


@dataclass(frozen=True)
class Place:
    """A person, the channel that their head reaches, and what it serves."""

    person: Person
    server: FileServer
    channel: Channel


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Two bare hosts."""
    folder = tmp_path_factory.mktemp("person")
    (folder / "fabfile.py").symlink_to(CHECKOUT / "fabfile.py")
    wheels = fetch_wheels(LOCKS)
    channel = make_channel(tmp_path_factory.mktemp("channel"), libiomp5_of(wheels))
    repositories = {
        "stable-diffusion-v1-5/stable-diffusion-v1-5": MINIATURE / "model",
        "sd-concepts-library/dicoo": MINIATURE / "concept",
    }
    with (
        rig_of(2) as rig,
        serving_packages(wheels, rig.outside) as index,
        serving(repositories, address=rig.outside) as hub,
    ):
        server = FileServer(channel.folder, str(rig.outside))
        pulumi(folder, rig)
        # The way to the stand-in is a cable of this machine's own.
        choices = ("--stack", "upstream", "--conda-channel", server.url, "--allow-http")
        yield Place(Person(folder, rig, index, hub, choices), server, channel)
        server.close()


@pytest.fixture(scope="module")
def ready(place: Place) -> Place:
    """After `fab bootstrap`, whose first try the channel cut short."""
    place.server.fail("torn", only="gperftools")
    said = place.person.bootstrap(code=1)
    assert "gperftools-2.10-0.tar.bz2" in said
    assert "0 of 2 nodes are ready" in said
    place.server.mend()
    assert "2 of 2 nodes are ready" in place.person.bootstrap()
    return place


def test_conda_packages_came_in_once_and_to_the_head_alone(ready: Place) -> None:
    """Although there are two hosts, and a first try had fetched some of them."""
    torn = sum(ready.server.sent[path] for path in ready.server.sent if "gperftools" in path)
    whole = (ready.channel.folder / "linux-64" / "gperftools-2.10-0.tar.bz2").stat().st_size
    packages = [path for path in ready.server.sent if path.endswith((".tar.bz2", ".conda"))]
    assert sum(ready.server.sent[path] for path in packages) == ready.channel.size + torn - whole
    assert set(ready.server.clients) == {str(ready.person.rig.network.public)}


def test_a_second_bootstrap_changes_nothing_and_asks_nothing(ready: Place) -> None:
    hosts = ready.person.rig.hosts
    before = [host.run(STATE).stdout for host in hosts]
    asked = len(ready.server.requests), len(ready.person.index.requests)
    ready.person.bootstrap()
    assert (len(ready.server.requests), len(ready.person.index.requests)) == asked
    assert [host.run(STATE).stdout for host in hosts] == before


def test_conda_knows_its_environment_and_every_host_has_the_same(ready: Place) -> None:
    """Its records name each file; those of libiomp5 are conda's, not a wheel's."""
    read = f"cat {ENVIRONMENT}/conda-meta/llvm-openmp-20.1.8-0.json"
    about = [json.loads(host.run(read).stdout) for host in ready.person.rig.hosts]
    assert about[0]["url"] == f"{ready.server.url}/linux-64/llvm-openmp-20.1.8-0.tar.bz2"
    (listed,) = (path for path in about[0]["paths_data"]["paths"] if "libomp" in path["_path"])
    for host in ready.person.rig.hosts:
        said = host.run(f"sha256sum {ENVIRONMENT}/lib/libiomp5.so").stdout
        assert said.split()[0] == listed["sha256"]
        there = set(host.run("ls -A ~").stdout.split())
        assert there <= {".xeon-diffusion", ".ssh", ".bashrc", ".profile", ".bash_logout"}


@pytest.fixture(scope="module")
def trained(ready: Place) -> Place:
    """After `fab check`, and a training of which a rank is looked at while it goes on."""
    checked = ready.person.fab("check")
    assert "All is well." in checked
    longer = [*TRAINING, "--max-train-steps", "5000", "-n", "2", "-ppn", "1", "--run", "long"]
    ready.person.fab("train", *longer, "--detach")
    return ready


def test_ranks_have_loaded_the_environments_own_libraries(trained: Place) -> None:
    rig = trained.person.rig
    events = "~/.xeon-diffusion/runs/long/events.jsonl"
    rig.head.run(
        f"""until grep -q '"event": "step"' {events}; do sleep 0.2; done""", seconds=SECONDS
    )
    maps = (
        "for maps in /proc/[0-9]*/maps; do"
        " if grep -qs XEON_DIFFUSION_RUN ${maps%maps}environ && grep -qs libtorch_cpu $maps;"
        " then grep -o '/.*' $maps | sort -u; fi; done"
    )
    home = rig.head.run(f"readlink -f {ENVIRONMENT}").stdout.strip()
    for host in rig.hosts:
        mapped = host.run(maps, check=False).stdout.splitlines()
        assert f"{home}/lib/libtcmalloc.so.4.5.10" in mapped
        assert f"{home}/lib/libomp.so" in mapped  # libiomp5.so is a link to it
        assert not [path for path in mapped if path.startswith("/usr/lib") and "tcmalloc" in path]
    trained.person.fab("stop")
    lines = rig.head.run(f"cat {events}").stdout.splitlines()
    (start,) = (event for event in map(json.loads, lines) if event["event"] == "start")
    assert (start["ranks"], start["backend"]) == (2, "gloo")


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    """A disk of its own for the packages, which is smaller than they are."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    for wheel in fetch_wheels(LOCKS[1:]).glob("py_rattler-*.whl"):
        (wheels / wheel.name).symlink_to(wheel)
    payload = make_payload(CHECKOUT, tmp_path / "records")
    channel = make_channel(tmp_path / "channel", b"x", libtcmalloc=os.urandom(8 << 20))
    with zipfile.ZipFile(next(wheels.iterdir())) as archive:
        unpacked = sum(-(-entry.file_size // 4096) * 4096 for entry in archive.infolist())
    disk = tmp_path / "disk"
    disk.mkdir()
    line = conda.node_line(
        sys.executable, str(payload.folder / payload.wheel), "fetch", str(wheels), f"{disk}/folder"
    )
    # Room for py-rattler itself, which is unpacked there, and for half of a package of 8 MB.
    mount = f"mount -t tmpfs -o size={unpacked + (4 << 20)} tmpfs {disk}"
    asked = {"channel": f"file://{channel.folder}", "specs": conda.SPECS}
    finished = subprocess.run(
        ["unshare", "--mount", "sh", "-c", f"{mount} && {line}; code=$?; find {disk}; exit $code"],
        input=json.dumps(asked), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert finished.returncode == 1, finished
    (error,) = finished.stderr.splitlines()
    assert error.startswith("error: ")
    assert "No space left on device" in error
    assert "gperftools" not in finished.stdout.partition(str(disk))[2]
