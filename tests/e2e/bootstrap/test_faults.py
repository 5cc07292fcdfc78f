"""Hosts with networks and disks of their own: words and a LoRA learned on them, and faults."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bootstrap.commands import forget_host, logs, stop, train
from bootstrap.commands.drawing import generate
from bootstrap.inventory.inventory import Inventory
from bootstrap.node import run_state
from bootstrap.node.job import Job
from bootstrap.paths import CHECKOUT, Layout
from bootstrap.setup.processor import cpu_list
from tests.equipped_rig import equip, join, put_on
from tests.rig.host import RigHost
from tests.rig.rig import Rig, rig_of

pytestmark = pytest.mark.rig
ROOT = f"{RigHost.home}/.xeon-diffusion"
FLAGS = [
    "--inventory", "rig.json", "--accept-host-keys", "--resolution", "32",
    "--placeholder-token", "<new>", "--checkpointing-steps", "2", "--learning-rate", "1e-2",
    "--stack", "upstream", "--mixed-precision", "no", "--report-to", "none",
    "--num-evaluation-samples", "2", "--save-as-full-pipeline", "false",
]  # fmt: skip
INVENTORY = ["--inventory", "rig.json"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the person works; the inventory, the pinned keys and the results are here."""
    folder = tmp_path_factory.mktemp("home")
    before = Path.cwd()
    os.chdir(folder)
    yield folder
    os.chdir(before)


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with rig_of(3) as up:
        yield up


@pytest.fixture(scope="module")
def inventory(rig: Rig, home: Path) -> Inventory:
    return equip(rig, home)


def folder(host: RigHost, name: str) -> Path:
    """A run's folder, as it lies on a host's disk."""
    return host.path(f"{ROOT}/runs/{name}")


def events(host: RigHost, name: str, kind: str) -> list[dict[str, Any]]:
    path = folder(host, name) / run_state.EVENTS
    found = run_state.read_events(path.read_text()) if path.exists() else []
    return [event for event in found if event["event"] == kind]


def phase(host: RigHost, name: str) -> str:
    return str(json.loads((folder(host, name) / run_state.STATE).read_text())["phase"])


def until(true: Callable[[], bool], host: RigHost, name: str) -> None:
    """Wait for what the run comes to by itself; it must not end before."""
    while not true():
        assert phase(host, name) not in run_state.ENDED
        time.sleep(0.05)


def checkpoints(host: RigHost, name: str) -> list[str]:
    return sorted(path.name for path in folder(host, name).glob("checkpoint-*"))


RANKS = """
for process in /proc/[0-9]*; do
  case $(cat $process/comm 2>/dev/null) in python*) ;; *) continue ;; esac
  grep -qzx training.textual_inversion $process/cmdline && echo ${process#/proc/}
done
:
"""


def ranks(host: RigHost) -> list[int]:
    """The ranks on a host, by their process ids there."""
    return [int(word) for word in host.run(RANKS).stdout.split()]


def listening_elsewhere(host: RigHost) -> list[str]:
    """What listens on a host beside its sshd, where neither the cluster nor itself alone is."""
    lines = host.run("ss -Hltnp", user="root").stdout.splitlines()
    well = (f"{host.address}:", "127.0.0.1:", "[::1]:")
    sshd = [line for line in lines if line.split()[3] in ("0.0.0.0:22", "[::]:22")]
    assert sshd, "ss has not looked at the host"
    return [line for line in lines if line not in sshd and not line.split()[3].startswith(well)]


def test_each_rank_has_the_environment_and_the_cores_that_were_said(
    rig: Rig, inventory: Inventory
) -> None:
    assert (
        train.main([*FLAGS, "--run", "looked-at", "--detach", "--max-train-steps", "100000"]) == 0
    )
    head, *workers = rig.hosts
    until(lambda: bool(events(head, "looked-at", "step")), head, "looked-at")
    for host in rig.hosts:
        (rank,) = ranks(host)
        environ = host.run(f"cat /proc/{rank}/environ").stdout.split("\0")
        for variable in (
            f"MASTER_ADDR={head.address}", f"XEON_DIFFUSION_RUN={ROOT}/runs/looked-at",
            "CCL_ATL_TRANSPORT=ofi", "FI_PROVIDER=tcp", f"HF_HOME={ROOT}/hf",
        ):  # fmt: skip
            assert variable in environ
        interfaces = ("GLOO_SOCKET_IFNAME=", "FI_TCP_IFACE=", "I_MPI_HYDRA_IFACE=")
        names = [word for word in environ if word.startswith(interfaces)]
        assert {name.partition("=")[2] for name in names} <= set(
            host.run("ls /sys/class/net").stdout.split()
        )
        assert len(names) == 3
        allowed = host.run(f"grep Cpus_allowed_list /proc/{rank}/status").stdout.split()[1]
        (threads,) = (word for word in environ if word.startswith("OMP_NUM_THREADS="))
        assert len(cpu_list(allowed)) == int(threads.partition("=")[2])
        assert listening_elsewhere(host) == []
    assert stop.main(INVENTORY) == 0
    for worker in workers:
        assert checkpoints(worker, "looked-at") == checkpoints(head, "looked-at")
    assert not any(ranks(host) for host in rig.hosts)


FILES_OF_WORDS = {f"learned_embeds.{word}.safetensors" for word in ("rex", "teapot")}


@pytest.fixture(scope="module")
def two_words(home: Path, inventory: Inventory) -> Path:
    """Pictures of two words with captions, a folder a word."""
    for number, word in enumerate(("rex", "rex", "teapot")):
        of_word = home / "ours" / word
        of_word.mkdir(parents=True, exist_ok=True)
        shutil.copy(home / "inputs" / "data" / "five" / f"{number}.png", of_word)
        (of_word / f"{number}.txt").write_text(f"a red <{word}>")
    return home / "ours"


def learned_on_two_hosts(rig: Rig, home: Path, name: str, *flags: str) -> set[str]:
    """Train four steps, a rank on each of two hosts; returns what has come home, by name."""
    shared = ("--initializer-token", "toy", "--max-train-steps", "4", "-n", "2", "-ppn", "1")
    assert train.main([*FLAGS, *flags, *shared, "--run", name]) == 0
    (start,) = events(rig.head, name, "start")
    assert start["ranks"] == 2
    assert checkpoints(rig.head, name) == checkpoints(rig.hosts[1], name) != []
    return {path.name for path in (home / "runs" / name).iterdir()}


def is_drawn(name: str, prompt: str, capsys: pytest.CaptureFixture[str]) -> bool:
    words = ["--run", name, "--prompt", prompt, "--num-inference-steps", "2"]
    capsys.readouterr()
    assert generate.main([*INVENTORY, *words]) == 0
    return Path(capsys.readouterr().out.strip()).is_file()


def test_words_and_a_lora_are_learned_in_one_run(
    rig: Rig, home: Path, two_words: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--train-text-encoder-ti", "--placeholder-token", "<rex>,<teapot>", "--rank", "2")
    more = ("--max-train-steps-ti", "2", "--train-data-dir", str(two_words))
    there = learned_on_two_hosts(rig, home, "both", "--method", "lora", *words, *more)
    assert there >= {"pytorch_lora_weights.safetensors", *FILES_OF_WORDS}
    assert is_drawn("both", "a <rex> and a <teapot>", capsys)


def test_each_subfolder_is_a_word_of_one_run(
    rig: Rig, home: Path, two_words: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--placeholder-token", "auto", "--train-data-dir", str(two_words))
    assert learned_on_two_hosts(rig, home, "words", *words) >= FILES_OF_WORDS
    record = (home / "runs" / "words" / "config.toml").read_text()
    assert 'placeholder_token = "<rex>,<teapot>"' in record
    assert is_drawn("words", "a red <teapot>", capsys)


def test_a_host_cut_off_the_network_is_left_out_and_the_rest_goes_on(
    rig: Rig, inventory: Inventory, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Looked after as always, only more often: the test would wait minutes for it.
    monkeypatch.setattr(train, "Job", functools.partial(Job, watch_seconds=3.0))
    head, _, cut = rig.hosts
    assert train.main([*FLAGS, "--run", "cut", "--detach", "--max-train-steps", "100000"]) == 0
    until(lambda: len(events(head, "cut", "checkpoint")) > 1, head, "cut")
    cut.cut()
    until(lambda: bool(events(head, "cut", "restart")), head, "cut")
    (restart,) = events(head, "cut", "restart")
    assert restart["nodes"] == [host.name for host in rig.hosts[:2]]
    assert f"without {cut.name} (2 ranks): lost {cut.name}" in restart["text"]
    until(lambda: len(events(head, "cut", "start")) == 2, head, "cut")
    first, second = events(head, "cut", "start")
    assert (first["ranks"], second["ranks"]) == (3, 2)
    assert second["global_batch"] == first["global_batch"] == 3
    assert second["step"] == restart["step"] > 0
    until(lambda: events(head, "cut", "checkpoint")[-1]["step"] > second["step"], head, "cut")
    cut.mend()
    assert stop.main(INVENTORY) == 0
    assert phase(head, "cut") == "stopped"


def test_the_persons_connection_is_cut_and_the_training_goes_on(
    rig: Rig, inventory: Inventory, home: Path
) -> None:
    person = subprocess.Popen(
        [sys.executable, "-m", "bootstrap.commands.train", *FLAGS, "--run", "alone",
         "--max-train-steps", "300"],
        stderr=subprocess.PIPE, text=True, cwd=home,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
    )  # fmt: skip
    assert person.stderr is not None
    for line in person.stderr:
        if "checkpoint checkpoint-2" in line:
            break
    rig.cut_person()
    person.kill()
    person.wait()
    at = len(events(rig.head, "alone", "step"))
    until(lambda: len(events(rig.head, "alone", "step")) > at, rig.head, "alone")
    rig.mend_person()
    assert logs.main(INVENTORY) == 0
    assert phase(rig.head, "alone") == "done"
    assert (home / "runs" / "alone" / "learned_embeds.safetensors").exists()


def test_the_head_is_lost_and_a_workers_rows_go_on(
    rig: Rig, inventory: Inventory, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head, worker, _ = rig.hosts
    assert train.main([*FLAGS, "--run", "headless", "--detach", "--max-train-steps", "60"]) == 0
    until(lambda: len(events(head, "headless", "checkpoint")) > 1, head, "headless")
    head.replace()
    kept = max(int(name.rpartition("-")[2]) for name in checkpoints(worker, "headless"))
    assert kept >= 4
    assert train.main([*FLAGS, "--resume", "--run", "headless"]) == 1
    assert "host key" in capsys.readouterr().err.lower()
    assert forget_host.main(["--node", head.name]) == 0
    put_on(head, home / "inputs", Layout(ROOT))
    join(inventory)
    assert train.main([*INVENTORY, "--resume"]) == 0
    said = capsys.readouterr().err
    assert f"step {kept} of 60, 3 ranks" in said
    state = "checkpoint-60/state.safetensors"
    assert (folder(head, "headless") / state).read_bytes() == (
        folder(worker, "headless") / state
    ).read_bytes()
