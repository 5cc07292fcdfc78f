"""Nodes without SSH: folders of this machine, an `ssh` that runs commands here, real mpirun.

mpirun starts a proxy per address through that `ssh`, as between machines, and every node's ranks
believe to be alone on their machine. What is missing against the rig: networks and disks of their
own. Everything is run by the training's environment, never by the tests' own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.short_run import short_run

CHECKOUT = Path(__file__).parent.parent
SSH = """\
#!/bin/bash
# ssh [options] ADDRESS COMMAND...; a file named as the address in `down` cuts that node off.
while [ "${1#-}" != "$1" ]; do shift; done
address=$1; shift
if [ -e "%(down)s/$address" ]; then echo "ssh: connect to host $address: No route" >&2; exit 255; fi
exec bash -c "$*"
"""
MAKE_INPUTS = """
import sys
from pathlib import Path
from tests.tiny_model import make_pictures, make_tiny_model
make_tiny_model(Path(sys.argv[1]) / "models" / "tiny")
make_pictures(Path(sys.argv[1]) / "data" / "five")
"""


def training_environment() -> Path:
    """The environment that holds torch: the checkout's .venv, which need not be the tests' own."""
    made = CHECKOUT / ".venv"
    return made if (made / "bin" / "python").exists() else Path(sys.prefix)


def node_variables() -> dict[str, str]:
    """What commands on a node are run with: the checkout's code, and no threads that spin.

    The proxies of mpirun call back over the loopback, as bootstrap has them use the nodes'
    network: this machine's name, by which they would, may stand for no address.
    """
    return {
        "PYTHONPATH": str(CHECKOUT),
        "OMP_WAIT_POLICY": "PASSIVE",
        "OMP_NUM_THREADS": "1",
        "I_MPI_HYDRA_IFACE": "lo",
    }


def make_root(root: Path) -> Path:
    """A node's root folder as bootstrap leaves it: env, model, pictures, cluster/ssh."""
    (root / "cluster").mkdir(parents=True)
    (root / "down").mkdir()
    (root / "env").symlink_to(training_environment())
    ssh = root / "cluster" / "ssh"
    ssh.write_text(SSH % {"down": root / "down"})
    ssh.chmod(0o755)
    for record, kind, name in (("model", "models", "tiny"), ("data", "data", "five")):
        about = {"name": name, "path": str(root / kind / name), "source": f"tests/{name}"}
        (root / "cluster" / f"{record}.json").write_text(json.dumps(about))
    subprocess.run(
        [root / "env" / "bin" / "python", "-c", MAKE_INPUTS, root],
        env={**os.environ, **node_variables()}, check=True, capture_output=True,
    )  # fmt: skip
    return root


def training_arguments(root: Path, name: str, **changes: object) -> tuple[str, ...]:
    """The arguments of a short training on the tiny model; keyword arguments add and replace."""
    model, pictures = root / "models" / "tiny", root / "data" / "five"
    return tuple(short_run(model, pictures, root / "latents", root / "runs" / name, **changes))
