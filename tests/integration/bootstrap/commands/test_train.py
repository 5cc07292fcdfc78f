"""`fab train` and its companions on this machine alone: no SSH, real mpirun, a tiny model."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from bootstrap.commands import destroy, fetch, logs, status, stop, train
from bootstrap.commands.drawing import generate
from bootstrap.commands.tuning import tune
from bootstrap.errors import UserError
from bootstrap.inventory.read_inventory import local_inventory
from bootstrap.node import run_processes, run_state
from bootstrap.paths import Layout
from tests.local_cluster import CHECKOUT, make_root, node_variables

ROWS = "learned_embeds.safetensors"
SHORT = [
    "--resolution", "32", "--placeholder-token", "<new>", "--max-train-steps", "6",
    "--checkpointing-steps", "2", "--learning-rate", "1e-2", "--stack", "upstream",
    "--mixed-precision", "no", "--report-to", "none", "--num-evaluation-samples", "2",
]  # fmt: skip
LOCAL = ["--inventory", "local"]
Command = Callable[[Sequence[str] | None], int]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("nodes")


@pytest.fixture(scope="module")
def root(nodes: Path) -> Path:
    return make_root(nodes / ".xeon-diffusion")


@pytest.fixture(autouse=True)
def at_home(
    root: Path,
    nodes: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Path]:
    """A person's folder, where results come home; nothing of a test is left running."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.chdir(home)
    monkeypatch.setenv("XEON_DIFFUSION_ROOT", str(nodes))
    for name, value in node_variables().items():
        monkeypatch.setenv(name, value)
    yield home
    runs = root / "runs"
    for run in runs.iterdir() if runs.exists() else ():
        assert not run_processes.processes_of(str(run))


def trained(*words: str) -> int:
    return train.main([*LOCAL, *SHORT, *words])


def state(root: Path, name: str) -> dict[str, Any]:
    return run_state.read_state(root / "runs" / name)


@pytest.fixture(scope="module")
def whole() -> dict[str, bytes]:
    """The rows of the first run that nothing happened to, for the others to be compared with."""
    return {}


def test_attached_it_shows_progress_and_brings_everything_home(
    root: Path, at_home: Path, whole: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    assert trained("-n", "2", "--run", "whole") == 0
    said = capsys.readouterr().err
    assert "2 ranks (gloo), global batch 2" in said
    assert "step 4: checkpoint checkpoint-4" in said
    assert "whole: done; its results are in runs/whole/" in said
    there, here = root / "runs" / "whole", at_home / "runs" / "whole"
    for name in (ROWS, "checkpoint-6/state.safetensors", "config.toml", "report.html"):
        assert (here / name).read_bytes() == (there / name).read_bytes()
    assert (there / "model_index.json").exists()
    assert not (here / "unet").exists()
    assert [path.name for path in here.rglob(".*")] == [".origin"]
    whole["rows"] = (there / ROWS).read_bytes()

    assert status.main(LOCAL) == 0
    said = capsys.readouterr().out
    assert "whole: done" in said
    assert "step 6 of 6, loss" in said
    assert "not fetched: the whole pipeline (--full)" in said
    assert "GiB" in said

    assert fetch.main([*LOCAL, "--full"]) == 0
    capsys.readouterr()
    weights = "unet/diffusion_pytorch_model.safetensors"
    assert (here / weights).read_bytes() == (there / weights).read_bytes()
    assert status.main(LOCAL) == 0
    assert "everything is in runs/whole/" in capsys.readouterr().out

    torn = here / "checkpoint-6" / "state.safetensors"
    torn.write_bytes(torn.read_bytes()[:-1])
    (here / ROWS).unlink()
    assert fetch.main(LOCAL) == 0
    assert torn.read_bytes() == (there / "checkpoint-6" / "state.safetensors").read_bytes()
    assert (here / ROWS).read_bytes() == whole["rows"]

    capsys.readouterr()
    assert generate.main([*LOCAL, "--prompt", "a photo of <new>", "--num-images", "2",
                          "--num-inference-steps", "2"]) == 0  # fmt: skip
    pictures = capsys.readouterr().out.split()
    assert len(pictures) == 2
    assert all((at_home / picture).read_bytes().startswith(b"\x89PNG") for picture in pictures)
    assert generate.main([*LOCAL, "--prompt", f"a <new>{' red' * 30}",
                          "--num-inference-steps", "1"]) == 0  # fmt: skip
    assert generate.main([*LOCAL, "--prompt", f"{'red ' * 30}<new>",
                          "--num-inference-steps", "1"]) == 0  # fmt: skip
    assert len(capsys.readouterr().out.split()) == 2  # drawn whole, however long
    assert generate.main([*LOCAL, "--prompt", "a <new>", "--step", "5"]) == 1
    assert "holds no learned_embeds-steps-5" in capsys.readouterr().err
    assert generate.main([*LOCAL, "--prompt", "a photo of a <nwe>"]) == 1
    assert "the word of whole, which is written <new>: <nwe> is not it" in capsys.readouterr().err


def test_detached_killed_watched_again_it_ends_as_if_nothing_had_been(
    root: Path, whole: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    assert trained("-n", "2", "--run", "detached", "--detach", "--max-train-steps", "6") == 0
    folder = root / "runs" / "detached"
    victim = None
    while victim is None:
        assert state(root, "detached")["phase"] not in run_state.ENDED
        if (folder / "checkpoint-2").is_dir():
            ranks = [
                pid for pid in run_processes.processes_of(str(folder))
                if b"training.textual_inversion" in Path(f"/proc/{pid}/cmdline").read_bytes()
                and b"python" in Path(f"/proc/{pid}/comm").read_bytes()
            ]  # fmt: skip
            victim = max(ranks)
            os.kill(victim, signal.SIGKILL)
        time.sleep(0.02)
    assert train.main([*LOCAL, *SHORT]) == 1
    assert "detached is " in capsys.readouterr().err
    assert logs.main(LOCAL) == 0
    said = capsys.readouterr().err
    assert "restarted from step " in said
    assert "detached: done" in said
    if "rows" in whole:
        assert (folder / ROWS).read_bytes() == whole["rows"]
    assert status.main([*LOCAL, "--run", "detached"]) == 0
    assert "restarted 1 times" in capsys.readouterr().out


def test_stopped_and_resumed(root: Path, at_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert trained("-n", "2", "--run", "stopped", "--detach", "--max-train-steps", "500") == 0
    folder = root / "runs" / "stopped"
    while not (folder / "checkpoint-2").is_dir():
        assert state(root, "stopped")["phase"] not in run_state.ENDED
        time.sleep(0.02)
    assert stop.main(LOCAL) == 0
    assert "stopped: stopped." in capsys.readouterr().err
    at = max(int(path.name.rpartition("-")[2]) for path in folder.glob("checkpoint-*"))
    assert (at_home / "runs" / "stopped" / f"checkpoint-{at}").is_dir()
    assert state(root, "stopped")["phase"] == "stopped"
    assert stop.main(LOCAL) == 0
    assert "stopped is not running" in capsys.readouterr().out

    more = ["--resume", "-n", "1", "--max-train-steps", str(at + 2)]
    assert train.main([*LOCAL, *more]) == 0
    assert f"step {at} of {at + 2}, 1 ranks (alone), global batch 2" in capsys.readouterr().err


def test_what_cannot_be_started_is_said_before_it_is(
    root: Path, nodes: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for words, wanted in (
        (["--train-data-dir", "/nowhere"], "--train-data-dir /nowhere: is no folder here"),
        (["--pretrained-model-name-or-path", "a/b"], "--pretrained-model-name-or-path a/b: the"),
        (["--run", "../x"], "--run ../x: must be letters"),
        (["--run", "stopped"], "--run stopped: the head holds a run of that name"),
        (["-n", "4", "-ppn", "2"], "-n 4 -ppn 2: 1 nodes take 2 ranks"),
        (["--resume", "--run", "never"], "no node holds a run never"),
        (["--then-pause"], "--then-pause is for VMs in Azure"),
    ):
        before = sorted(path.name for path in (root / "runs").iterdir())
        assert train.main([*LOCAL, *SHORT, *words]) == 1
        assert f"error: {wanted}" in capsys.readouterr().err
        assert sorted(path.name for path in (root / "runs").iterdir()) == before
    monkeypatch.setenv("XEON_DIFFUSION_ROOT", str(nodes / "empty"))
    (nodes / "empty").mkdir()
    for command in (train.main, status.main, fetch.main, logs.main, stop.main):
        assert command(LOCAL) == 1
        assert "fab bootstrap sets it up" in capsys.readouterr().err


def test_new_pictures_are_sent_along_and_a_dry_run_starts_nothing(
    root: Path, at_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(root / "data" / "five", at_home / "mine")
    words = ["--train-data-dir", "mine", "--run", "mine", "-n", "1"]
    assert trained(*words, "--dry-run") == 0
    said = capsys.readouterr().out
    assert f"--train_data_dir={root}/data/mine" in said
    assert "rank 0: 2 threads" in said or "rank 0: " in said
    assert f"{root}/env/bin/mpirun" in said
    assert not (root / "data" / "mine").exists()
    assert not (root / "runs" / "mine").exists()
    assert trained(*words, "--max-train-steps", "1") == 0
    sent = {path.name for path in (root / "data" / "mine").iterdir()}
    assert sent == {path.name for path in (at_home / "mine").iterdir()}


def test_quantizing_is_refused_where_nncf_is_missing_before_anything_is_sent(
    root: Path, at_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(root / "data" / "five", at_home / "castles")
    runs = sorted(path.name for path in (root / "runs").glob("*"))
    words = ["--method", "quantize", "--train-data-dir", "castles", "--run", "int8"]
    for more in ([], ["--dry-run"]):
        assert train.main([*LOCAL, *words, *more]) == 1
        said = capsys.readouterr().err
        assert "NNCF is missing, which --method quantize needs on every node" in said
        assert "`fab bootstrap --with openvino` brings it" in said
    assert sorted(path.name for path in (root / "runs").glob("*")) == runs
    assert not (root / "data" / "castles").exists()


def test_quantizing_starts_without_tcmalloc(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nncf.py").touch()  # nothing is started: it need only be found
    monkeypatch.setenv("PYTHONPATH", f"{CHECKOUT}:{tmp_path}")
    activate = Path(Layout(str(root)).activate)
    activate.write_text("export LD_PRELOAD=/lib/libiomp5.so:/lib/libtcmalloc.so.4\n")
    words = [*LOCAL, "--method", "quantize", "--run", "int8", "--dry-run"]
    try:
        assert train.main([*words, "--merge-tokens", "0.4"]) == 0
        said = capsys.readouterr().out
        assert train.main([*LOCAL, "--dry-run", "--run", "word"]) == 0
    finally:
        activate.unlink()
    assert "-genv LD_PRELOAD /lib/libiomp5.so \\\n" in said
    assert "-m training.quantize" in said
    assert "--merge_tokens=0.4" in said
    assert "-genv LD_PRELOAD" not in capsys.readouterr().out


def test_words_and_a_lora_are_learned_from_the_subfolders_that_are_sent_along(
    root: Path, at_home: Path
) -> None:
    for number, word in enumerate(["rex", "rex", "teapot"]):
        folder = at_home / "ours" / word
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / "data" / "five" / f"{number}.png", folder)
        (folder / f"{number}.txt").write_text(f"a red <{word}>")
    words = ["--method", "lora", "--rank", "2", "--train-text-encoder-ti", "--max-train-steps-ti",
             "2", "--placeholder-token", "<rex>,<teapot>", "--initializer-token", "toy",
             "--train-data-dir", "ours"]  # fmt: skip
    assert trained(*words, "-n", "2", "--run", "both") == 0
    for name in ("learned_embeds.rex", "learned_embeds.teapot", "pytorch_lora_weights"):
        assert (at_home / "runs" / "both" / f"{name}.safetensors").is_file()
    assert (root / "data" / "ours" / "teapot" / "2.png").is_file()


def test_what_tune_finds_is_taken_where_no_flag_says_otherwise(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*LOCAL, "--resolution", "32", "--placeholder-token", "<new>", "--stack", "upstream"]
    asked = ["--frozen", "native", "--mixed-precision", "no", "-ppn", "2", "--budget", "600"]
    assert tune.main([*words, *asked]) == 0
    said = capsys.readouterr().err
    assert "trial 1: native, fp32, 2 ranks of 1" in said
    assert "images/s" in said
    path = root / "tuned" / "textual_inversion.json"
    found = json.loads(path.read_text())
    try:
        assert train.main([*words, "--dry-run"]) == 0
        shown = capsys.readouterr()
        assert "from fab tune, where no flag says otherwise: native, fp32, 2 ranks" in shown.err
        assert "--frozen=native" in shown.out
        assert "--mixed_precision=no" in shown.out
        assert "-ppn 2" in shown.out
        assert f"-genv OMP_NUM_THREADS {found['threads']}" in shown.out

        more = ["-n", "1", "--frozen", "auto", "--mixed-precision", "auto", "--dry-run"]
        assert train.main([*words, *more]) == 0
        shown = capsys.readouterr()
        assert "--frozen=auto" in shown.out
        assert "--mixed_precision=auto" in shown.out
        assert "-ppn 1" in shown.out

        assert train.main([*words, "--resolution", "64", "--dry-run"]) == 0
        shown = capsys.readouterr()
        assert "what fab tune found is not taken: it is of resolution 32, not 64" in shown.err
        assert "--frozen" not in shown.out
        path.write_text(json.dumps({**found, "cpu": "another"}))
        assert train.main([*words, "--dry-run"]) == 0
        assert "not taken: it is of other processors than" in capsys.readouterr().err
        path.write_text("torn")
        assert train.main([*words, "--dry-run"]) == 0
        assert "fab tune" not in capsys.readouterr().err
    finally:
        path.unlink()


def test_ctrl_c_ends_what_tune_tries(root: Path, at_home: Path) -> None:
    words = ["--frozen", "native", "--budget", "600", "--resolution", "32", "--stack", "upstream"]
    process = subprocess.Popen(
        [sys.executable, "-m", "bootstrap.commands.tuning.tune", *LOCAL, *words],
        stderr=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(at_home)},
    )  # fmt: skip
    assert process.stderr is not None
    while not commands_with(str(at_home)):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert "interrupted: the trial is ended on the head" in process.stderr.read()
    assert process.wait() == 130
    until = time.monotonic() + 60
    while time.monotonic() < until and (commands_with(str(at_home)) or any(at_home.glob("tune-*"))):
        time.sleep(0.05)
    assert commands_with(str(at_home)) == []
    assert not list((root / "tuned").glob("*"))
    assert not list(at_home.glob("tune-*"))


def commands_with(text: str) -> list[str]:
    """The command lines of this machine's trainings that have `text` in them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if text in line and "training.textual_inversion" in line:
                found.append(line)
    return found


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["--budget", "long"], "--budget long: must be a number"),
        (["--dry-run", "--run", "x"], "--dry-run, --run: fab train takes it, fab tune does not"),
        (["--frozn", "native"], "did you mean --frozen?"),
    ],
)
def test_what_tune_cannot_take_is_said(
    words: list[str], wanted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tune.main([*LOCAL, *words]) != 0
    assert wanted in capsys.readouterr().err


def test_destroy_asks_before_anything_unfetched_is_lost(
    root: Path, at_home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:  # fmt: skip
    """A `pulumi` that notes what it is asked; the machines are this one."""
    (tmp_path / "pulumi").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    (tmp_path / "pulumi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    chosen = argparse.Namespace(yes=False, keep_data=False, accept_host_keys=False)
    lost = destroy.losses(local_inventory(), False)
    assert any("not fetched: rows and samples up to checkpoint-" in line for line in lost)
    stack = local_inventory()
    with pytest.raises(UserError, match="fab clean"):
        destroy.destroy(stack, chosen)
    monkeypatch.setattr(destroy, "losses", lambda *_: lost)
    stack = dataclasses.replace(stack, kind="stack")
    with pytest.raises(UserError, match="no terminal to ask in"):
        destroy.destroy(stack, chosen)
    assert not (tmp_path / "asked").exists()
    chosen.yes = True
    assert destroy.destroy(stack, chosen) == 0
    assert (tmp_path / "asked").read_text() == "destroy --yes\n"


def test_ctrl_c_detaches(root: Path) -> None:
    """A real terminal's way: SIGINT to the command; the training goes on to its end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bootstrap.commands.train",
         *LOCAL, *SHORT, "-n", "1", "--run", "ctrl-c"],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        said += line
        if "step 0 of 6" in line:
            process.send_signal(signal.SIGINT)
            break
    said += process.stderr.read()
    assert process.wait() == 130
    assert "detached: the training goes on" in said
    assert logs.main([*LOCAL, "--run", "ctrl-c"]) == 0
    assert state(root, "ctrl-c")["phase"] == "done"
    events = run_state.read_events((root / "runs/ctrl-c/events.jsonl").read_text())
    assert json.dumps(events[-1]).startswith('{"event": "done"')
