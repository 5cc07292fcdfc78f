"""`fab playground`: a page in your browser to try a run's word in, drawn on the head.

The page is served on the head's loopback address and reached through the SSH connection: on this
machine at http://127.0.0.1:7860 (--port), by whoever is logged in here or on the head. Ctrl-C ends
it. Its pictures are in runs/NAME/generated on the head; fab fetch brings them. The nodes need
`fab bootstrap --with openvino`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from urllib.parse import urlsplit

from rich.console import Console

from bootstrap.commands import command_line, ssh
from bootstrap.errors import UserError
from bootstrap.inventory.inventory import Inventory
from bootstrap.runs import runs_on_head
from bootstrap.runs.drawing import files, head_program
from bootstrap.ssh.host import Host
from bootstrap.terminal import cell, exit_status, say, say_on

MODULE = "training.playground"
ADDRESS, PORT = "127.0.0.1", 7860
PASSED_ON = ("step", "engine", "mixed_precision")
FORWARD_SECONDS = 60.0


def words(head: Host, name: str, chosen: argparse.Namespace) -> list[str]:
    """The program's flags: any free port of the head; its files are on the head after this."""
    return [head.layout.run(name), "--port=0", *files.words(head, chosen, PASSED_ON)]


def forward(inventory: Inventory, port: int, remote: int) -> list[str]:
    """The words of an ssh that makes a port of the head's loopback address one of this machine's.

    Args:
        port: here.
        remote: on the head.
    """
    program, *rest = ssh.command(inventory, inventory.head)
    options = ["-N", "-o", "ExitOnForwardFailure=yes"]
    return [program, *options, "-L", f"{ADDRESS}:{port}:{ADDRESS}:{remote}", *rest]


def port_of(line: str) -> int | None:
    """The port that the program says its page is at, in the line that says so; else None."""
    with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
        return urlsplit(json.loads(line)["url"]).port
    return None


class _Tunnel:
    """The ssh that forwards, once it is known where to."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def open(self, line: list[str], port: int) -> None:
        """Start it, and wait until the port answers.

        Raises:
            UserError: it does not.
        """
        try:
            self._process = subprocess.Popen(line, stdin=subprocess.DEVNULL)
        except FileNotFoundError as error:
            raise UserError("There is no `ssh` on the PATH.") from error
        waiting = threading.Event()
        for _ in range(int(FORWARD_SECONDS / 0.1)):
            if self._process.poll() is not None:
                raise UserError("ssh could not forward the page's port; it says why above.")
            with contextlib.suppress(OSError), socket.create_connection((ADDRESS, port), 1):
                return
            waiting.wait(0.1)
        raise UserError(f"ssh has not forwarded the page's port in {FORWARD_SECONDS:.0f} s.")

    def close(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()


def refuse_taken(port: int) -> None:
    """Raises UserError where another program on this machine has the port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ADDRESS, port))
        except (OSError, OverflowError) as error:
            raise UserError(
                f"--port {port}: cannot be used here ({error}). Choose another."
            ) from error


@exit_status()
def refuse_here(chosen: argparse.Namespace) -> int:
    """Check the port and the files without a connection; not 0: refused."""
    refuse_taken(chosen.port)
    files.refuse_missing(chosen)
    return 0


def act(chosen: argparse.Namespace, inventory: Inventory, hosts: list[Host]) -> int:
    """Serve the page until Ctrl-C."""
    head = hosts[0]
    name = runs_on_head.the_run(head, chosen.run)["name"]
    if inventory.kind != "local":
        ssh.pin(inventory, inventory.head, chosen)
    console = Console(stderr=True)
    tunnel = _Tunnel()
    with console.status(cell(f"{head.name}: loading the model")) as status:

        def tell(line: str) -> None:
            remote = port_of(line)
            if line.startswith("prompt "):
                say_on(console, f"{head.name}: {line}")
            if remote is None:
                return
            port = remote
            if inventory.kind != "local":
                port = chosen.port
                tunnel.open(forward(inventory, port, remote), port)
            status.stop()
            say(f"the page is at http://{ADDRESS}:{port}; Ctrl-C ends it")

        try:
            head_program.run(head, MODULE, words(head, name, chosen), tell)
        finally:
            tunnel.close()
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = command_line.parser("playground", __doc__)
    add = made.add_argument
    add("--port", type=int, default=PORT, help=f"on this machine [{PORT}]")
    add("--step", type=int, help="with the rows of this step [the final ones]")
    files.add_flags(made)
    add("--engine", choices=("torch", "compiled", "openvino"), help="to begin with [torch]")
    add("--mixed-precision", choices=("auto", "no", "bf16"), help="[as in training]")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """`fab playground`."""
    chosen = parser().parse_args(argv)
    return refuse_here(chosen) or command_line.run_command(
        chosen, act, interrupted="the page is closed"
    )


if __name__ == "__main__":
    sys.exit(main())
