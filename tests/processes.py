"""Runs of `training.textual_inversion` in processes of their own: several ranks, killed at will.

The processes are forked from a server that has imported torch and diffusers and done nothing
else, so that each starts in milliseconds.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["training.run"])
TIMEOUT_SECONDS = 240


@dataclass(frozen=True)
class SignalAt:
    """SIGTERM to this process just before call number `count` (from 1) of a function.

    Attributes:
        target: "module:name" or "module:Class.name".
        rank: only in this rank.
    """

    target: str
    count: int
    rank: int = 0
    number: int = signal.SIGTERM

    def __call__(self, rank: int) -> None:
        if rank != self.rank:
            return
        module_name, path = self.target.split(":")
        owner = importlib.import_module(module_name)
        *parents, name = path.split(".")
        for parent in parents:
            owner = getattr(owner, parent)
        original = getattr(owner, name)
        calls = 0

        def counting(*arguments: object, **named: object) -> object:
            nonlocal calls
            calls += 1
            if calls == self.count:
                os.kill(os.getpid(), self.number)
            return original(*arguments, **named)

        setattr(owner, name, counting)


@dataclass(frozen=True)
class KillAt(SignalAt):
    """SIGKILL instead."""

    number: int = signal.SIGKILL


@dataclass(frozen=True)
class Environment:
    """Variables of the environment that ranks are started with, as a hook of `run_ranks`."""

    variables: tuple[tuple[str, str], ...]

    def __call__(self, rank: int) -> None:
        os.environ.update(self.variables)


@dataclass
class Finished:
    """One process's end: its exit code (negative: the signal) and what it printed."""

    code: int
    output: str


def run_ranks(
    argv: list[str],
    logs: Path,
    size: int = 1,
    hook: Callable[[int], None] | None = None,
    main: str = "training.textual_inversion:main",
    per_machine: int | None = None,
    own: Callable[[int], list[str]] | None = None,
) -> list[Finished]:
    """Run `main(argv)` in `size` ranks as torchrun would start them, and wait for them all.

    Args:
        per_machine: so many ranks believe that they share a machine; default: all of them.
        own: further arguments of each machine, the way a disk of its own would be.
    """
    per_machine = per_machine or size
    logs.mkdir(parents=True, exist_ok=True)
    port = str(_free_port())
    processes = []
    for rank in range(size):
        environment = {}
        if size > 1:
            environment = {
                "RANK": str(rank),
                "WORLD_SIZE": str(size),
                "LOCAL_RANK": str(rank % per_machine),
                "LOCAL_WORLD_SIZE": str(per_machine),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
            }
        log = logs / f"rank-{rank}.log"
        words = [*argv, *(own(rank // per_machine) if own else [])]
        process = CONTEXT.Process(target=_child, args=(main, words, environment, log, rank, hook))
        process.start()
        processes.append((process, log))
    finished = []
    for process, log in processes:
        process.join(TIMEOUT_SECONDS)
        if process.is_alive():
            process.kill()
            process.join()
        finished.append(Finished(process.exitcode or 0, log.read_text()))
    return finished


def _child(
    main: str,
    argv: list[str],
    environment: dict[str, str],
    log: Path,
    rank: int,
    hook: Callable[[int], None] | None,
) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)
    os.environ.pop("OMP_NUM_THREADS", None)  # the tests' own: these run as a person's would
    os.environ.update(environment)
    if hook:
        hook(rank)
    module, name = main.split(":")
    sys.exit(getattr(importlib.import_module(module), name)(argv))


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port
