"""The ranks of a run: how they meet, what travels between them, and who died."""

from __future__ import annotations

import datetime
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar, cast

import torch
import torch.distributed as dist

from training.errors import SharedError, UserError
from training.launcher import Ranks, read_environment

Result = TypeVar("Result")

ROLL_CALL_SECONDS = 5.0
"""How long the survivors of a lost rank wait for each other before they name the missing."""


def _rendezvous(ranks: Ranks, environment: Mapping[str, str]) -> str:
    """Where the ranks meet: the launcher's master address, or a file on a single machine.

    Raises:
        UserError: the ranks are on several machines and MASTER_ADDR is not set.
    """
    if "MASTER_ADDR" in environment:
        port = environment.get("MASTER_PORT", "29500")
        return f"tcp://{environment['MASTER_ADDR']}:{port}"
    if ranks.local_size != ranks.size:
        raise UserError(
            f"{ranks.size} ranks on several machines, but MASTER_ADDR is not set: "
            "export it as the first node's address (and MASTER_PORT if 29500 is taken)."
        )
    # Ranks of one mpirun on one machine share a parent; its start time tells runs apart.
    parent = os.getppid()
    stat = Path(f"/proc/{parent}/stat")
    started = stat.read_text().rsplit(")", 1)[1].split()[19] if stat.exists() else "0"
    name = f"ranks-{os.getuid()}-{parent}-{started}"
    return f"file://{Path(tempfile.gettempdir()) / name}"


@contextmanager
def joined(backend: str, timeout: int, environment: Mapping[str, str]) -> Iterator[Ranks]:
    """Join the other ranks for the length of the block, and leave them.

    Args:
        backend: "ccl" or "gloo".
        timeout: seconds after which a collective gives up on a hanging rank.
        environment: usually os.environ.

    Raises:
        UserError: the ranks cannot meet, or one of them died (it is named).
    """
    alone = read_environment(environment)
    if alone.size == 1:
        yield alone
        return
    meeting = _rendezvous(alone, environment)
    if alone.local_size == alone.size and backend == "gloo":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", _loopback())
    try:
        dist.init_process_group(
            backend,
            init_method=meeting,
            rank=alone.rank,
            world_size=alone.size,
            timeout=datetime.timedelta(seconds=timeout),
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"rank {alone.rank} could not meet the others at {meeting}: {_first_line(error)}. "
            "Is every node up, and the port free (MASTER_PORT)?"
        ) from error
    place = f"{socket.gethostname()} pid {os.getpid()}"
    store = dist.distributed_c10d._get_default_store()
    store.set(f"place/{alone.rank}", place)
    dist.barrier()
    places = {r: store.get(f"place/{r}").decode() for r in range(alone.size)}
    try:
        yield Ranks(
            alone.launcher, alone.rank, alone.size, alone.local_rank, alone.local_size, backend
        )
    except RuntimeError as error:
        missing = _roll_call(store, alone, places)
        if not missing:
            raise
        raise UserError(
            f"rank {alone.rank} stops: lost {', '.join(missing)} ({_first_line(error)}). "
            "Resume with --resume_from_checkpoint latest."
        ) from error
    finally:
        if meeting.startswith("file://") and alone.rank == 0:
            Path(meeting.removeprefix("file://")).unlink(missing_ok=True)
    dist.destroy_process_group()


def _roll_call(store: dist.Store, me: Ranks, places: dict[int, str]) -> list[str]:
    """After a failed collective: which ranks do not answer within `ROLL_CALL_SECONDS`."""
    try:
        store.set(f"alive/{me.rank}", "yes")
        end = time.monotonic() + ROLL_CALL_SECONDS
        missing = [r for r in places if r != me.rank]
        while missing and time.monotonic() < end:
            missing = [r for r in missing if not store.check([f"alive/{r}"])]
            time.sleep(0.1)
    except RuntimeError:
        missing = [0]  # the first rank keeps the store: unreachable, it is the one that died
    return [f"rank {r} ({places[r]})" for r in missing]


def _loopback() -> str:
    return "lo" if Path("/sys/class/net/lo").exists() else "lo0"


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else repr(error)


def all_reduce_sum(values: torch.Tensor, ranks: Ranks) -> None:
    """Add `values` (any shape, any dtype) over all ranks, in place; alone, do nothing."""
    if ranks.size > 1:
        dist.all_reduce(values)


def broadcast_text(text: str, ranks: Ranks) -> str:
    """The first rank's `text`, on every rank."""
    if ranks.size == 1:
        return text
    box = [text]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def together(ranks: Ranks, prepare: Callable[[], Result]) -> Result:
    """Run `prepare`, which has no collectives in it, on every rank; all fail if one does.

    Raises:
        UserError: on every rank alike, with each different message once and who said it.
    """
    result, problem = None, None
    try:
        result = prepare()
    except UserError as error:
        problem = str(error)
    problems: list[str | None] = [problem]
    if ranks.size > 1:
        problems = [None] * ranks.size
        dist.all_gather_object(problems, problem)
    different = dict.fromkeys(text for text in problems if text is not None)
    if different:
        shared = len(different) == 1 and None not in problems
        lines = [
            text if shared or ranks.size == 1
            else f"rank {', '.join(str(r) for r, t in enumerate(problems) if t == text)}: {text}"
            for text in different
        ]
        raise SharedError("\n".join(lines))
    return cast(Result, result)


def barrier(ranks: Ranks) -> None:
    """Wait for every rank."""
    if ranks.size > 1:
        dist.barrier()
