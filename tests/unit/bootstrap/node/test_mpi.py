"""The mpirun line, the ranks' environment, and job.json, which holds both."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bootstrap.errors import UserError
from bootstrap.node import mpi
from bootstrap.node.job import Job, JobNode, read_job
from bootstrap.runs.placement import rank_placement
from bootstrap.runs.placement.core_pinning import Placement

PRELOAD = "/root/env/lib/libiomp5.so:/usr/lib/libtcmalloc.so.4"
NODES = tuple(JobNode(f"n{i}", f"10.0.0.{i}", 2, {"OMP_NUM_THREADS": "27"}) for i in range(1, 5))
JOB = Job(
    name="dicoo", root="/home/a/.xeon-diffusion", nodes=NODES,
    arguments=("--placeholder_token=<dicoo>", "--validation_prompt", "a <dicoo>; rm"),
    environment={"MASTER_ADDR": "10.0.0.1"}, ssh="/home/a/.xeon-diffusion/cluster/ssh",
)  # fmt: skip


def test_the_environment_of_a_placement() -> None:
    placement = Placement(((0, 1, 2), (4, 5, 6)), (3, 7))
    assert rank_placement.placement_environment(placement, PRELOAD) == {
        "OMP_NUM_THREADS": "3",
        "I_MPI_PIN_DOMAIN": "[0x7,0x70]",
        "KMP_AFFINITY": "granularity=fine,compact,1,0",
        "KMP_BLOCKTIME": "1",
        "CCL_WORKER_AFFINITY": "3,7",
    }
    without = rank_placement.placement_environment(Placement(((0, 1),)), "")
    assert without == {"OMP_NUM_THREADS": "2", "I_MPI_PIN_DOMAIN": "[0x3]"}


def test_masks_of_many_cores() -> None:
    assert rank_placement.mask((64, 65)) == "0x30000000000000000"


def test_nodes_that_are_alike_make_one_line() -> None:
    words = mpi.command(JOB, NODES, "/run/nodefile", 4711, ["--resume_from_checkpoint=latest"])
    root = "/home/a/.xeon-diffusion"
    assert words == [
        f"{root}/env/bin/mpirun", "-disable-auto-cleanup",
        "-launcher", "ssh", "-launcher-exec", f"{root}/cluster/ssh", "-f", "/run/nodefile",
        "-genv", "MASTER_ADDR", "10.0.0.1", "-genv", "MASTER_PORT", "4711",
        "-genv", "OMP_NUM_THREADS", "27", "-genv", "XEON_DIFFUSION_RUN", f"{root}/runs/dicoo",
        "-n", "8", "-ppn", "2", f"{root}/env/bin/python", "-P", "-m", "training.textual_inversion",
        *JOB.arguments, "--resume_from_checkpoint=latest",
    ]  # fmt: skip
    assert mpi.nodefile_text(NODES) == "10.0.0.1\n10.0.0.2\n10.0.0.3\n10.0.0.4\n"


def test_nodes_that_differ_have_sections() -> None:
    odd = JobNode("n3", "10.0.0.3", 1, {"OMP_NUM_THREADS": "8", "FI_TCP_IFACE": "ens5"})
    none = JobNode("n4", "10.0.0.4", 0)
    words = mpi.command(JOB, (NODES[0], odd, none), "/run/nodefile", 4711)
    assert "-f" not in words
    first, second = " ".join(words).split(" : ")
    assert first.endswith(f"-validation_prompt {JOB.arguments[-1]}")
    assert "-host 10.0.0.1 -n 2 -env OMP_NUM_THREADS 27 " in first
    assert second.startswith("-host 10.0.0.3 -n 1 -env FI_TCP_IFACE ens5 -env OMP_NUM_THREADS 8 ")
    assert "10.0.0.4" not in f"{first}{second}"
    assert mpi.nodefile_text((NODES[0], odd, none)) == "10.0.0.1\n10.0.0.3\n"


def test_one_machine_needs_no_launcher() -> None:
    alone = Job("x", "/r", (JobNode("here", "127.0.0.1", 2),), ())
    words = mpi.command(alone, alone.nodes, "/run/nodefile", 1)
    assert "-launcher" not in words
    assert "-f" not in words


def test_a_shown_command_can_be_pasted() -> None:
    import shlex

    words = mpi.command(JOB, NODES, "/run/nodefile", 4711)
    assert shlex.split(mpi.shown(words).replace("\\\n", "")) == words


def test_a_job_is_read_as_it_was_written(tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text(JOB.text())
    assert read_job(tmp_path / "job.json") == JOB
    assert JOB.ranks == 8
    (tmp_path / "job.json").write_text("{}")
    with pytest.raises(UserError, match="is not a job"):
        read_job(tmp_path / "job.json")


def test_another_method_is_another_program(tmp_path: Path) -> None:
    other = replace(JOB, method="lora")
    words = mpi.command(other, other.nodes, "/nodefile", 29500)
    assert "training.lora" in words
    (tmp_path / "job.json").write_text(other.text())
    assert read_job(tmp_path / "job.json") == other
    # Nodes that were set up before there were others are given what they can read.
    assert "method" not in JOB.text()
