"""Ranks under every launcher, and what happens to the others when one dies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.oneccl import BROKEN, WHOLE, put_intel_packages
from tests.processes import Environment, KillAt, run_ranks
from tests.run_folder import learned_rows
from tests.training_fixtures import Flags
from training.errors import SharedError
from training.machine.cpu import this_cpu
from training.ranks import process_group
from training.textual_inversion import LOST

ENVIRONMENT = Path(sys.executable).parent
MODULE = "training.textual_inversion"
LAUNCHERS = {
    "torchrun": [str(ENVIRONMENT / "torchrun"), "--nproc_per_node=2", "-m", MODULE],
}
if (ENVIRONMENT / "mpirun").exists():  # Intel MPI has wheels for Linux on x86-64 only
    MPIRUN = [str(ENVIRONMENT / "mpirun"), "-n", "2"]
    LAUNCHERS["Intel MPI"] = [*MPIRUN, sys.executable, "-m", MODULE]
    LAUNCHERS["accelerate launch in Intel MPI"] = [
        *MPIRUN, str(ENVIRONMENT / "accelerate"), "launch", "--cpu", "--num_processes=1",
        "--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no", "-m", MODULE,
    ]  # fmt: skip


COLLECTIVES = (
    *("all_reduce", "reduce", "reduce_scatter", "reduce_scatter_tensor", "broadcast"),
    *("all_gather", "all_gather_into_tensor", "gather", "scatter", "all_to_all", "barrier"),
    *("send", "recv", "all_gather_object", "broadcast_object_list"),
)


def launch(command: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MASTER_", "RANK"))}
    environment["PATH"] = f"{ENVIRONMENT}:{environment['PATH']}"
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_ranks_learn_what_one_learns(launcher: str, flags: Flags, tmp_path: Path) -> None:
    finished = launch([*LAUNCHERS[launcher], *flags(output_dir=tmp_path / "two")])
    assert finished.returncode == 0, finished.stderr
    assert "2 ranks (" in finished.stderr
    assert "gloo" in finished.stderr
    (one,) = run_ranks(flags(output_dir=tmp_path / "one", train_batch_size=2), tmp_path / "logs")
    assert one.code == 0, one.output
    one_rank, two_ranks = learned_rows(tmp_path / "one"), learned_rows(tmp_path / "two")
    assert float((two_ranks - one_rank).norm() / one_rank.norm()) < 1e-5


def test_a_number_of_threads_that_is_asked_for_is_kept_and_shown(
    flags: Flags, tmp_path: Path
) -> None:
    (asked,) = run_ranks(
        flags(max_train_steps=1), tmp_path / "logs", 1, Environment((("OMP_NUM_THREADS", "3"),))
    )
    assert "1 rank, 3 threads each (OMP_NUM_THREADS)\n" in asked.output
    start = json.loads((tmp_path / "run" / "events.jsonl").read_text().splitlines()[0])
    assert start["threads"] == 3
    (free,) = run_ranks(flags(max_train_steps=1, overwrite_output_dir=True), tmp_path / "logs")
    assert f"1 rank, {this_cpu().cores} threads each\n" in free.output


COUNT_THREADS = """
import os, training, psutil, torch
wanted = os.cpu_count() + 2
torch.set_num_threads(wanted)
before = psutil.Process().num_threads()
torch.ones(1 << 20).add_(1)
print(psutil.Process().num_threads() - before == wanted - 1)
"""


@pytest.mark.parametrize(("name", "value"), [("OMP_DYNAMIC", "true"), ("OMP_THREAD_LIMIT", "1")])
def test_an_operation_gets_all_the_threads_that_it_counts_on(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    finished = launch([sys.executable, "-c", COUNT_THREADS])
    assert finished.stdout == "True\n", finished.stderr


@pytest.mark.parametrize("dead", [0, 1])
def test_a_rank_that_dies_is_named_by_the_others(dead: int, flags: Flags, tmp_path: Path) -> None:
    finished = run_ranks(
        flags(),
        tmp_path / "logs",
        3,
        KillAt("training.loop.step:TrainingStep.__call__", 4, rank=dead),
    )
    assert finished[dead].code == -9
    survivors = [process for rank, process in enumerate(finished) if rank != dead]
    for process in survivors:
        assert process.code == LOST
        assert f"lost rank {dead} (" in process.output
        assert "Traceback" not in process.output
    assert (tmp_path / "run" / "checkpoint-2").is_dir()


@pytest.mark.parametrize("place", ["learned_embeds", "learned_embeds-steps-4"])
def test_an_error_of_the_first_rank_alone_ends_all_with_its_code(
    place: str, flags: Flags, tmp_path: Path
) -> None:
    """While it finishes, and in the middle of the run: a folder is where a file should be."""
    taken = tmp_path / "run" / f"{place}.safetensors"
    taken.mkdir(parents=True)
    (taken / "mine.txt").write_text("")
    finished = run_ranks(flags(), tmp_path / "logs", 3)
    assert [process.code for process in finished] == [2, 2, 2], [p.output for p in finished]
    assert finished[0].output.count("error:") == 1
    assert f"error: {taken}: cannot be written" in finished[0].output
    for process in finished[1:]:
        assert "error:" not in process.output
        assert "Traceback" not in process.output


def test_an_error_of_another_rank_alone_ends_all_with_its_code(
    flags: Flags, tmp_path: Path
) -> None:
    """Rank 1 keeps the run on a machine of its own, whose disk refuses a checkpoint."""
    folders = [tmp_path / name / "run" for name in ("first", "second")]
    (folders[1] / "learned_embeds-steps-4.safetensors" / "mine").mkdir(parents=True)
    finished = run_ranks(
        flags(), tmp_path / "logs", 2, per_machine=1,
        own=lambda machine: [f"--output_dir={folders[machine]}"],
    )  # fmt: skip
    assert [process.code for process in finished] == [2, 2], [p.output for p in finished]
    assert "error:" not in finished[0].output
    assert finished[1].output.count("error:") == 1
    assert (folders[0] / "checkpoint-4").is_dir()


def test_a_bug_in_one_rank_is_not_called_a_lost_rank(flags: Flags, tmp_path: Path) -> None:
    finished = run_ranks(flags(), tmp_path / "logs", 2, raise_a_key_error)
    assert [process.code for process in finished] == [1, 1], [p.output for p in finished]
    assert "KeyError: 'a bug'" in finished[0].output
    assert "Traceback" not in finished[1].output


def raise_a_key_error(rank: int) -> None:
    """A hook: the first rank stumbles at its end."""
    from training.outputs.writer import Outputs

    def final(self: Outputs, rows: torch.Tensor) -> None:
        raise KeyError("a bug")

    if rank == 0:
        Outputs.final = final  # type: ignore[method-assign, assignment]


class NothingPickled:
    """Makes torch's own pickling and unpickling of what ranks exchange an error."""

    def __call__(self, rank: int) -> None:
        from torch.distributed import distributed_c10d

        for name in ("_pickler", "_unpickler"):
            assert hasattr(distributed_c10d, name)
            setattr(distributed_c10d, name, None)


def test_nothing_that_ranks_exchange_is_unpickled(flags: Flags, tmp_path: Path) -> None:
    argv = flags(max_train_steps=1)
    finished = run_ranks(argv, tmp_path / "logs", 2, NothingPickled(), per_machine=1)
    assert [process.code for process in finished] == [0, 0], finished[0].output
    main = "tests.integration.training.ranks.test_ranks:exchange"
    told = run_ranks([], tmp_path / "told", 3, NothingPickled(), main)
    assert [process.code for process in told] == [2, 2, 2], told[0].output
    for process in told:
        assert "rank 0: né\nrank 1: \nrank 2: nénéné" in process.output


def exchange(argv: list[str]) -> int:
    """Texts of different lengths, from one rank to all and from all to all."""
    from training.errors import UserError
    from training.ranks.process_group import broadcast_text, joined_process_group, on_all_ranks

    with joined_process_group("gloo", 60, os.environ) as ranks:
        assert broadcast_text("né\n" * (1 - ranks.rank) * 100_000, ranks) == "né\n" * 100_000
        assert broadcast_text("", ranks) == ""
        assert on_all_ranks(ranks, lambda: ranks.rank) == ranks.rank

        def fail() -> None:
            raise UserError("né" * (0, 3)[ranks.rank // 2] if ranks.rank else "né")

        try:
            on_all_ranks(ranks, fail)
        except UserError as error:
            print(error, flush=True)
            return 2
    return 0


def test_bad_input_on_every_rank_is_one_message(flags: Flags, tmp_path: Path) -> None:
    finished = run_ranks(flags(train_data_dir=tmp_path / "nowhere"), tmp_path / "logs", 2)
    assert [process.code for process in finished] == [2, 2]
    assert finished[0].output.count("error:") == 1
    assert "error:" not in finished[1].output


@pytest.mark.parametrize("cut", [0, 1])
def test_bad_input_is_one_message_where_a_rank_is_cut_off_as_the_others_leave(
    cut: int, flags: Flags, tmp_path: Path
) -> None:
    finished = run_ranks(
        flags(train_data_dir=tmp_path / "nowhere"), tmp_path / "logs", 2, CutOff(cut)
    )
    assert [process.code for process in finished] == [2, 2], [p.output for p in finished]
    assert finished[0].output.count("error:") == 1
    assert "error:" not in finished[1].output


@dataclass(frozen=True)
class CutOff:
    """A hook: in one rank the exchange of what is wrong ends as if the others had gone."""

    rank: int

    def __call__(self, rank: int) -> None:
        import training.run

        def on_all_ranks(*arguments: Any) -> Any:
            try:
                return process_group.on_all_ranks(*arguments)
            except SharedError as error:
                raise RuntimeError("Connection closed by peer") from error

        if rank == self.rank:
            vars(training.run)["on_all_ranks"] = on_all_ranks


def test_several_machines_without_a_master_address_are_refused(
    flags: Flags, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from training.textual_inversion import main

    for name, value in {
        "PMI_RANK": "0", "PMI_SIZE": "4", "MPI_LOCALRANKID": "0", "MPI_LOCALNRANKS": "2",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    assert main(flags()) == 2
    assert "MASTER_ADDR is not set" in capsys.readouterr().err


def test_bytes_that_travel_in_a_step(flags: Flags, tmp_path: Path) -> None:
    """Rows x width gradients, the loss and the wish to stop, in float32; nothing else."""
    counted = run_ranks(
        flags(num_vectors=2),
        tmp_path / "logs",
        2,
        main="tests.integration.training.ranks.test_ranks:counting",
    )
    assert [process.code for process in counted] == [0, 0], counted[0].output
    for process in counted:
        line = next(line for line in process.output.splitlines() if line.startswith("{"))
        assert json.loads(line) == {"all_reduce": [4 * (2 * 32 + 2)] * 6}


def counting(argv: list[str]) -> int:
    """`main`, printing the bytes handed to each collective inside a training step."""
    import torch.distributed as dist

    from training.loop.step import TrainingStep
    from training.textual_inversion import main

    sent: dict[str, list[int]] = {}
    inside = False
    for name in COLLECTIVES:
        original = getattr(dist, name)

        def intercepted(
            *arguments: object, _name: str = name, _original: object = original, **named: object
        ) -> object:
            if inside:
                tensors = [a for a in arguments if isinstance(a, torch.Tensor)]
                sent.setdefault(_name, []).append(sum(t.nbytes for t in tensors))
            return _original(*arguments, **named)  # type: ignore[operator]

        setattr(dist, name, intercepted)
    step = TrainingStep.__call__

    def watched(*arguments: object, **named: object) -> object:
        nonlocal inside
        inside = True
        try:
            return step(*arguments, **named)  # type: ignore[arg-type]
        finally:
            inside = False

    TrainingStep.__call__ = watched  # type: ignore[method-assign, assignment]
    code = main(argv)
    print(json.dumps(sent), flush=True)
    return code


@dataclass(frozen=True)
class Packages:
    """Lets each rank find packages of its own, as the ranks of different machines do."""

    folders: tuple[Path, ...]

    def __call__(self, rank: int) -> None:
        sys.path.insert(0, str(self.folders[rank]))


@pytest.mark.parametrize(
    ("bindings", "backend", "said"),
    [
        (WHOLE, "ccl", ""),
        (
            BROKEN,
            "gloo",
            "its bindings do not import (OSError: libccl.so.1.0",
        ),
        (None, "gloo", "its environment has none"),
    ],
    ids=["whole", "broken", "missing"],
)
def test_ranks_agree_on_a_backend_where_one_of_them_lacks_oneccl(
    bindings: str | None, backend: str, said: str, flags: Flags, tmp_path: Path
) -> None:
    first = put_intel_packages(tmp_path / "first", WHOLE)
    packages = Packages((first, put_intel_packages(tmp_path / "second", bindings)))
    argv = flags(stack="intel", frozen="native", max_train_steps=1)
    finished = run_ranks(argv, tmp_path / "logs", 2, packages)
    assert [process.code for process in finished] == [0, 0], finished[0].output
    start = json.loads((tmp_path / "run" / "events.jsonl").read_text().splitlines()[0])
    assert (start["backend"], start["ranks"]) == (backend, 2)
    told = "gloo on every rank, as oneCCL is not available on rank 1 ("
    assert (told in finished[0].output) == (backend == "gloo")
    assert said in finished[0].output

    # What fab check asks: ccl, or why not.
    words = ["--backend", "ccl", "--repeats", "1"]
    finished = run_ranks(words, tmp_path / "timed", 2, packages, "training.all_reduce:main")
    assert [process.code for process in finished] == ([0, 0] if backend == "ccl" else [1, 1])
    assert (f"error: {told}" in finished[0].output) == (backend == "gloo")
