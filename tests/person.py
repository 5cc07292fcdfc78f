"""A person at a terminal who types `fab ...`, after a `pulumi up` whose machines are a rig's."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from infra.plan import plan
from tests.hub import Hub
from tests.rig.rig import Rig
from tests.rig.stand_in import PackageIndex

CHECKOUT = Path(__file__).parents[1]
FAB = Path(sys.executable).with_name("fab")
SECONDS = 1200
TRAINING = [
    *("--resolution", "64", "--max-train-steps", "4", "--checkpointing-steps", "2"),
    *("--learning-rate", "2e-2", "--report-to", "none", "--num-evaluation-samples", "2"),
    *("--validation-prompt", "a <dicoo>", "--num-validation-images", "1"),
    *("--num-inference-steps", "2"),
]
"""A miniature's size and a test's length; all else is `fab train`'s own."""

# Every file that lies there and when it changed. A node's mark in homes/ is new each time, and the
# lock says who held it last.
STATE = (
    "cd; find .xeon-diffusion .ssh ! -type d ! -path '*/homes/*' ! -name 'setup.l*'"
    " -printf '%p %y %i %T@ %s\\n' | sort"
)


@dataclass(frozen=True)
class Person:
    """Someone at a terminal, after `pulumi up`."""

    folder: Path
    rig: Rig
    index: PackageIndex
    hub: Hub
    choices: tuple[str, ...] = ("--stack", "upstream", "--environment", "venv")
    checkout: Path = CHECKOUT

    def fab(self, *words: str, code: int = 0) -> str:
        """Type a command; returns what it printed, on both outputs."""
        finished = subprocess.run(
            [FAB, *words],
            cwd=self.folder,
            env=self._variables(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert finished.returncode == code, finished.stdout
        return finished.stdout

    @contextmanager
    def fab_open(self, *words: str) -> Iterator[Iterator[str]]:
        """Type a command that goes on until Ctrl-C, which comes at the end; gives its lines."""
        process = subprocess.Popen(
            [FAB, *words],
            cwd=self.folder,
            env=self._variables(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stdout is not None
            yield iter(process.stdout)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(SECONDS)

    def _variables(self) -> dict[str, str]:
        return {
            **os.environ,
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": str(self.checkout),
            "HF_ENDPOINT": self.hub.endpoint,
            "AZURE_TOKEN_CREDENTIALS": "AzureCliCredential",
            "COLUMNS": "400",
        }

    def bootstrap(self, *more: str, code: int = 0) -> str:
        """`fab bootstrap`, with what cannot be reached here replaced."""
        index = ("--package-index", self.index.simple)
        return self.fab("bootstrap", *self.choices, *index, "--accept-host-keys", *more, code=code)


def pulumi(folder: Path, rig: Rig) -> None:
    """A program of that name that prints the stack's outputs, as the real program makes them."""
    public_key = rig.key.with_suffix(".pub")
    values = {
        "allowed_ssh_cidr": "203.0.113.7/32",
        "ssh_public_key_path": str(public_key),
        # It does not lie in ~/.ssh, where fab would find it.
        "ssh_private_key_path": str(rig.key),
        "node_count": str(len(rig.hosts)),
    }
    outputs = plan.make(values)["outputs"]
    outputs["gateway"] = outputs["nodes"][0]["public_ip"] = str(rig.network.public)
    for node, host in zip(outputs["nodes"], rig.hosts, strict=True):
        node["private_ip"] = str(host.address)
    (folder / "outputs.json").write_text(json.dumps(outputs))
    program = folder / "bin" / "pulumi"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\nexec cat {folder}/outputs.json\n")
    program.chmod(0o755)
