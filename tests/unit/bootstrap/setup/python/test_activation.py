"""The environment of a node, as data and as a script that a real shell sources."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bootstrap.errors import UserError
from bootstrap.paths import node_root
from bootstrap.setup.python.accelerate_config import accelerate_config
from bootstrap.setup.python.activation import activation
from bootstrap.setup.python.rank_environment import cluster_environment

ROOT = "/home/me/.xeon-diffusion"


def variables(**changes: object) -> dict[str, str]:
    choice: dict[str, object] = {
        "master_address": "10.0.0.4",
        "interface": "eth0",
        "preload": ("/r/libiomp5.so", "/r/libtcmalloc.so.4"),
        **changes,
    }
    return cluster_environment(ROOT, **choice)  # type: ignore[arg-type]


def sourced(text: str, times: int, shell: str, tmp_path: Path) -> dict[str, str]:
    """The variables after sourcing a script in a shell that started with next to none."""
    (tmp_path / "activate").write_text(text)
    line = f"set -eu; {f'. {tmp_path}/activate; ' * times} /usr/bin/env"
    finished = subprocess.run(
        [shell, "-c", line],
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(line.split("=", 1) for line in finished.stdout.splitlines())


def test_what_the_seed_exports() -> None:
    found = variables()
    assert found["I_MPI_HYDRA_IFACE"] == "eth0"
    assert found["FI_TCP_IFACE"] == "eth0"
    assert found["GLOO_SOCKET_IFNAME"] == "eth0"
    assert found["CCL_ATL_TRANSPORT"] == "ofi"
    assert found["CCL_WORKER_COUNT"] == "1"
    assert found["MASTER_ADDR"] == "10.0.0.4"
    assert found["LD_PRELOAD"] == "/r/libiomp5.so:/r/libtcmalloc.so.4"
    assert found["HF_HOME"] == f"{ROOT}/hf"
    assert found["I_MPI_HYDRA_BOOTSTRAP_EXEC"] == f"{ROOT}/cluster/ssh"


def test_what_is_not_there_is_not_named() -> None:
    found = variables(preload=(), interface=None, own_libraries=True)
    assert not {"LD_PRELOAD", "GLOO_SOCKET_IFNAME", "LD_LIBRARY_PATH"} & set(found)


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_sourcing(shell: str, tmp_path: Path) -> None:
    text = activation(ROOT, variables(preload=()))
    once = sourced(text, 1, shell, tmp_path)
    assert once["PATH"] == f"{ROOT}/env/bin:/usr/bin:/bin"
    assert once["LD_LIBRARY_PATH"] == f"{ROOT}/env/lib"
    assert variables(preload=()).items() <= once.items()
    ours = {name: value for name, value in once.items() if name not in ("_", "SHLVL")}
    assert ours.items() <= sourced(text, 2, shell, tmp_path).items()


def test_onecclss_own_script_comes_first_and_its_libraries_stay_in_front(tmp_path: Path) -> None:
    setvars = tmp_path / "setvars.sh"
    setvars.write_text("export CCL_ROOT=/ccl LD_LIBRARY_PATH=/ccl/lib I_MPI_ROOT=/ccl\n")
    text = activation(ROOT, variables(preload=()), str(setvars))
    found = sourced(text, 1, "bash", tmp_path)
    assert found["CCL_ROOT"] == "/ccl"
    assert found["LD_LIBRARY_PATH"] == f"/ccl/lib:{ROOT}/env/lib"
    assert found["I_MPI_ROOT"] == f"{ROOT}/env"


def test_accelerate_config_of_the_second_node() -> None:
    text = accelerate_config(
        machine_rank=1, num_machines=4, main_process_ip="10.0.0.4", mixed_precision="bf16"
    )
    found = dict(line.split(": ", 1) for line in text.splitlines())
    assert found["distributed_type"] == "MULTI_CPU"
    assert found["use_cpu"] == "true"
    assert (found["num_machines"], found["machine_rank"]) == ("4", "1")
    assert (found["main_process_ip"], found["main_process_port"]) == ("10.0.0.4", "29500")
    assert found["num_processes"] == "4"
    assert found["mixed_precision"] == "'bf16'"
    assert "mpirun" not in text


def test_a_root_with_a_space_is_one_word(tmp_path: Path) -> None:
    root = "/mnt/a b*"
    text = activation(root, {"HF_HOME": f"{root}/hf", "LD_LIBRARY_PATH": f"{root}/env/lib"})
    for times in (1, 2):
        found = sourced(text, times, "bash", tmp_path)
        assert found["PATH"] == f"{root}/env/bin:/usr/bin:/bin"
        assert found["LD_LIBRARY_PATH"] == f"{root}/env/lib"


@pytest.mark.parametrize("place", ["scratch/me", "/scratch/a b", "~/x", "/a:b", "/a$HOME", "/a\n"])
def test_a_root_that_others_would_stumble_over_is_refused(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XEON_DIFFUSION_ROOT", place)
    with pytest.raises(UserError, match=r"XEON_DIFFUSION_ROOT is .* absolute path"):
        node_root("/home/me")
    monkeypatch.delenv("XEON_DIFFUSION_ROOT")
    assert node_root("/home/me") == "/home/me/.xeon-diffusion"
    with pytest.raises(UserError, match="home folder is said to be"):
        node_root(place)
