"""The ranks of a run: how they meet, what travels between them, and who died."""

from __future__ import annotations

import contextlib
import datetime
import gc
import json
import os
import socket
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import FileStore, Store, TCPStore

from training.errors import LostRanks, PeerError, SharedError, UserError
from training.ranks.launcher import Ranks, read_environment

Result = TypeVar("Result")

MEETING_SECONDS = 300
"""How long the first rank to start waits for the last."""
JOB_NAMES = ("I_MPI_HYDRA_UUID", "PMIX_NAMESPACE", "TORCHELASTIC_RUN_ID")
"""What launchers call one job, the same for all of its ranks."""
ROLL_CALL_SECONDS = 10.0
"""How long the survivors of a lost rank wait for each other before they name the missing."""
FAILED = "failed"
"""Where a rank that ends with an error leaves word of it."""


def _meeting_place(ranks: Ranks, environment: Mapping[str, str]) -> str:
    """The launcher's master address as host:port, or a file on a single machine.

    Raises:
        UserError: the ranks are on several machines and MASTER_ADDR is not set.
    """
    if "MASTER_ADDR" in environment:
        return f"{environment['MASTER_ADDR']}:{environment.get('MASTER_PORT', '29500')}"
    if ranks.local_size != ranks.size:
        raise UserError(
            f"{ranks.size} ranks on several machines, but MASTER_ADDR is not set: "
            "export it as the first node's address (and MASTER_PORT if 29500 is taken)."
        )
    job = next((environment[key] for key in JOB_NAMES if key in environment), None)
    return str(Path(tempfile.gettempdir()) / f"ranks-{os.getuid()}-{job or _parent()}")


def _parent() -> str:
    """Ranks of one launcher share a parent; its start time tells it from an earlier namesake."""
    stat = Path(f"/proc/{os.getppid()}/stat")
    started = stat.read_text().rsplit(")", 1)[1].split()[19] if stat.exists() else "0"
    return f"{os.getppid()}-{started}"


def _meet(place: str, ranks: Ranks, environment: Mapping[str, str]) -> Store:
    """The store at `place`, which the first rank keeps, or torchrun's own agent."""
    kept_by_agent = environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if place.startswith("/"):
        return FileStore(place, ranks.size)
    host, port = place.rsplit(":", 1)
    return TCPStore(
        host,
        int(port),
        ranks.size,
        ranks.is_first and not kept_by_agent,
        timeout=datetime.timedelta(seconds=MEETING_SECONDS),
        use_libuv=False,
    )


@contextmanager
def joined(
    backend: str, timeout: int, environment: Mapping[str, str], problem: str = ""
) -> Iterator[Ranks]:
    """Join the other ranks for the length of the block, and leave them.

    The ranks agree on a backend before they use one: where one of them has no "ccl", all use gloo.

    Args:
        backend: "ccl" or "gloo": what this rank would use.
        timeout: seconds after which a collective gives up on a hanging rank.
        environment: usually os.environ.
        problem: why this rank's is not "ccl".

    Raises:
        LostRanks: the ranks cannot meet, or one of them died (it is named).
        PeerError: another rank ends with an error of its own; this one ends with its code.
        UserError: the environment does not say where they meet.
    """
    alone = read_environment(environment)
    if alone.size == 1:
        yield alone
        return
    place = _meeting_place(alone, environment)
    if alone.local_size == alone.size:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", _loopback())
    try:
        store = _meet(place, alone, environment)
        store.set_timeout(datetime.timedelta(seconds=MEETING_SECONDS))
        store.set(f"place/{alone.rank}", f"{socket.gethostname()} pid {os.getpid()}")
        places = {rank: store.get(f"place/{rank}").decode() for rank in range(alone.size)}
        backend, notice = _agreed(store, alone, places, backend, problem)
        dist.init_process_group(
            backend,
            store=store,
            rank=alone.rank,
            world_size=alone.size,
            timeout=datetime.timedelta(seconds=timeout),
        )
    except (RuntimeError, ValueError) as error:
        raise LostRanks(
            f"rank {alone.rank} of {alone.size} could not meet the others at {place} within "
            f"{MEETING_SECONDS} s: {_first_line(error)}. Did every rank start, and is the port "
            "free (MASTER_PORT)?"
        ) from error
    try:
        yield Ranks(
            alone.launcher, alone.rank, alone.size, alone.local_rank, alone.local_size, backend,
            notice,
        )  # fmt: skip
    except RuntimeError as error:
        _hang_up(error)
        _end_as_others_do(store, alone, places, timeout)
        missing = _roll_call(store, alone, places)
        if not missing:
            raise
        raise LostRanks(
            f"rank {alone.rank} stops: lost {', '.join(missing)} ({_first_line(error)}). "
            "Resume with --resume_from_checkpoint latest."
        ) from error
    except Exception as error:
        _say_that_it_fails(store, alone, error, timeout)
        raise
    finally:
        if place.startswith("/") and alone.is_first:
            Path(place).unlink(missing_ok=True)
    dist.destroy_process_group()


def _agreed(
    store: Store, me: Ranks, places: Mapping[int, str], backend: str, problem: str
) -> tuple[str, str]:
    """The backend that every rank has, and why it is not what others would have used."""
    store.set(f"backend/{me.rank}", f"{backend} {problem}")
    said = [store.get(f"backend/{rank}").decode().partition(" ") for rank in range(me.size)]
    without = [
        f"rank {rank} ({places[rank]}): {reason or 'its environment has none'}"
        for rank, (name, _, reason) in enumerate(said)
        if name != "ccl"
    ]
    if not without:
        return "ccl", ""
    if len(without) == me.size and not any(reason for _, _, reason in said):
        return "gloo", ""
    return "gloo", f"gloo on every rank, as oneCCL is not to be had on {'; '.join(without)}"


def _say_that_it_fails(store: Store, me: Ranks, error: Exception, seconds: float) -> None:
    """Leave word that this rank ends with an error, wake the others, and let them hear it.

    They hear it at their next collective: until then the first rank has to keep the store. Where
    all have the same error, one may yet be in the collective that told the others of it.
    """
    shared = isinstance(error, SharedError)
    word = {
        "rank": me.rank,
        "code": 2 if isinstance(error, UserError) else 1,
        "shared": str(error) if shared else None,
    }
    with contextlib.suppress(RuntimeError):
        store.set(FAILED, json.dumps(word))
        _hang_up(error)
        _all_have(store, "heard", me, ROLL_CALL_SECONDS if shared else seconds)


def _end_as_others_do(store: Store, me: Ranks, places: dict[int, str], seconds: float) -> None:
    """After a failed collective: where another rank has said that it ends with an error, raise.

    Raises:
        PeerError: it prints its error itself.
        SharedError: it is of all ranks.
    """
    try:
        if not store.check([FAILED]):
            return
        word = json.loads(store.get(FAILED))
        if me.is_first:
            _all_have(store, "heard", me, seconds)
        else:
            store.set(f"heard/{me.rank}", "yes")
    except RuntimeError:  # the store is gone, and the first rank with it
        return
    if word["shared"] is not None:
        raise SharedError(word["shared"])
    raise PeerError(f"rank {word['rank']} ({places[word['rank']]}) failed.", word["code"])


def _all_have(store: Store, what: str, me: Ranks, seconds: float) -> None:
    store.set(f"{what}/{me.rank}", "yes")
    _wait_for(store, what, [rank for rank in range(me.size) if rank != me.rank], seconds)


def _hang_up(error: Exception) -> None:
    """Close this rank's connections: a survivor that waits for it, not for the dead, wakes up."""
    traceback.clear_frames(error.__traceback__)  # they hold on to the process group
    with contextlib.suppress(RuntimeError, AssertionError, ValueError):
        dist.destroy_process_group()
    gc.collect()


def _roll_call(store: Store, me: Ranks, places: dict[int, str]) -> list[str]:
    """After a failed collective: which ranks do not answer within `ROLL_CALL_SECONDS`."""
    others = [rank for rank in places if rank != me.rank]
    try:
        store.set(f"alive/{me.rank}", "yes")
        missing = _wait_for(store, "alive", others, ROLL_CALL_SECONDS)
        store.set(f"counted/{me.rank}", "yes")
        if me.is_first:  # it keeps the store that the other survivors still read
            still = [rank for rank in others if rank not in missing]
            _wait_for(store, "counted", still, ROLL_CALL_SECONDS)
    except RuntimeError:
        missing = [0]  # the first rank keeps the store: unreachable, it is the one that died
    return [f"rank {rank} ({places[rank]})" for rank in missing]


def _wait_for(store: Store, what: str, ranks: list[int], seconds: float) -> list[int]:
    """Wait until each of `ranks` has said `what`; returns those that have not in time."""
    end = time.monotonic() + seconds
    while ranks and time.monotonic() < end:
        ranks = [rank for rank in ranks if not store.check([f"{what}/{rank}"])]
        time.sleep(0.05)
    return ranks


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
            text
            if shared or ranks.size == 1
            else f"rank {', '.join(str(r) for r, t in enumerate(problems) if t == text)}: {text}"
            for text in different
        ]
        raise SharedError("\n".join(lines))
    return cast(Result, result)


def barrier(ranks: Ranks) -> None:
    """Wait for every rank."""
    if ranks.size > 1:
        dist.barrier()
