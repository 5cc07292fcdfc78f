"""A program of `training` on the head, in the environment that bootstrap has written there."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Sequence
from pathlib import Path

from bootstrap.errors import UserError
from bootstrap.ssh.command import CommandResult, OnLine
from bootstrap.ssh.host import Host

MAKE_TARGET = "make environment-openvino"
WITH_TORCH, OPENVINO = ("training.generate", "training.tune"), "--engine=openvino"
"""The programs that need not use OpenVINO, and the flag with which one does."""


def command(head: Host, module: str, words: Sequence[str]) -> str:
    """The line that runs `python -m MODULE WORDS` on the head."""
    activate = shlex.quote(head.layout.activate)
    program = shlex.join([head.python, "-P", "-m", module, *words])
    steps = [f"[ ! -r {activate} ] || . {activate}", f"cd {shlex.quote(head.layout.root)}"]
    if module not in WITH_TORCH or OPENVINO in words:
        steps.append("unset LD_PRELOAD")  # OpenVINO crashes where tcmalloc is preloaded
    line = "; ".join([*steps, f"exec {program}"])
    return shlex.join(["bash", "--norc", "-c", line])  # what it sources is bash's


def run(head: Host, module: str, words: Sequence[str], on_line: OnLine) -> CommandResult:
    """Run it to its end.

    Raises:
        UserError: it failed; says what it said last.
    """
    finished = head.run(command(head, module, words), on_line=on_line, check=False)
    if finished.exit_code == 0:
        return finished
    if MAKE_TARGET in finished.stderr:
        raise UserError(
            f"{head.name}: its environment has no OpenVINO. `fab bootstrap --with openvino` brings "
            "it (with the flags of your last fab bootstrap)."
        )
    raise UserError(f"{head.name}: {finished.error_line}")


def send(head: Host, path: Path) -> str:
    """Bring a file or a folder of the person's to the head; returns its path there.

    It keeps its name, which programs read. What is there already is not sent again.
    """
    whole = path.resolve()
    place = hashlib.sha256(str(whole).encode()).hexdigest()[:12]
    target = f"{head.layout.given}/{place}/{path.name}"
    head.run(["mkdir", "-p", f"{head.layout.given}/{place}"])
    head.send(whole, target, exact=whole.is_dir())
    return target
