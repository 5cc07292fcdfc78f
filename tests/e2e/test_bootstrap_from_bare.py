"""`fab bootstrap` on a rig: from bare hosts to ones that train, broken on the way, and again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bootstrap.bootstrap import main
from tests.rig.fixtures import MakeRig
from tests.rig.rig import Rig
from tests.rig.stand_in import PackageIndex
from tests.rig.wheels import fetch_wheels

pytestmark = pytest.mark.rig

CHECKOUT = Path(__file__).parents[2]
MINIATURE = CHECKOUT / "training" / "miniature"
# Every file that lies there and when it changed. A node's mark in homes/ is new each time.
STATE = (
    "cd; find .xeon-diffusion .ssh ! -type d ! -path '*/homes/*'"
    " -printf '%p %y %i %T@ %s\\n' | sort"
)


@pytest.fixture(autouse=True)
def person(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A person with a folder of their own, and neither ~/.ssh nor an agent."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "person"))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)


def bootstrap(rig: Rig, index: str, *more: str) -> int:
    """What a person types, and what it exits with."""
    Path("rig.json").write_text(json.dumps(rig.inventory()))
    return main([
        "--inventory", "rig.json", "--stack", "upstream", "--environment", "venv",
        "--package-index", index, "--accept-host-keys", "--wait", "5",
        "--pretrained-model-name-or-path", str(MINIATURE / "model"),
        "--train-data-dir", str(MINIATURE / "concept"), *more,
    ])  # fmt: skip


def test_bare_broken_whole_and_again(make_rig: MakeRig, capsys: pytest.CaptureFixture[str]) -> None:
    rig = make_rig(hosts=2)
    index = PackageIndex(
        fetch_wheels([CHECKOUT / "requirements" / "node-upstream.txt"]), rig.outside
    )
    try:
        for host in rig.hosts:
            assert rig.ssh(host, "python3 -c 'import torch'", check=False).returncode != 0
        index.fail("error", only="diffusers")
        assert bootstrap(rig, index.simple) == 1
        said = capsys.readouterr()
        assert "error: vm-rig-0: " in said.err
        assert "diffusers" in said.err
        assert "0 of 2 nodes are ready" in said.out
        index.mend()
        fetched = sum(index.sent[path] for path in index.sent if "torch-" in path)

        assert bootstrap(rig, index.simple) == 0
        assert "2 of 2 nodes are ready" in capsys.readouterr().out
        # What the broken run had fetched was kept, and nothing was fetched for the second host.
        assert sum(index.sent[path] for path in index.sent if "torch-" in path) == fetched
        assert set(index.clients) == {str(rig.network.public)}
        for host in rig.hosts:
            imported = rig.ssh(host, ". .xeon-diffusion/activate; python -c 'import torch'")
            assert imported.returncode == 0
        launched = rig.ssh(
            rig.head,
            ". .xeon-diffusion/activate;"
            " mpirun -f .xeon-diffusion/cluster/nodefile -n 2 -ppn 1 hostname",
        )
        assert sorted(launched.stdout.split()) == [host.name for host in rig.hosts]

        before = [rig.ssh(host, STATE).stdout for host in rig.hosts]
        asked = len(index.requests)
        assert bootstrap(rig, index.simple) == 0
        assert [rig.ssh(host, STATE).stdout for host in rig.hosts] == before
        assert len(index.requests) == asked
    finally:
        index.close()
