"""The ranks of a run: how they meet, what travels between them, and who died."""

from __future__ import annotations

import contextlib
import datetime
import gc
import json
import os
import socket
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import Store

from training.errors import LostRanks, PeerError, SharedError, UserError
from training.ranks.launcher import Ranks, read_environment
from training.ranks.rendezvous import (
    RENDEZVOUS_SECONDS,
    interface_to,
    open_store,
    rendezvous_endpoint,
)

Result = TypeVar("Result")

ROLL_CALL_SECONDS = 10.0
"""How long the survivors of a lost rank wait for each other before they name the missing."""
FAILED = "failed"
"""Where a rank that ends with an error leaves word of it."""


@contextmanager
def joined_process_group(
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
    place = rendezvous_endpoint(alone, environment)
    try:
        _choose_interface(alone, place)
        store = open_store(place, alone, environment)
        store.set_timeout(datetime.timedelta(seconds=RENDEZVOUS_SECONDS))
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
    except (RuntimeError, ValueError, OSError) as error:
        _leave(place, alone)
        raise LostRanks(
            f"rank {alone.rank} of {alone.size} could not meet the others at {place} within "
            f"{RENDEZVOUS_SECONDS} s: {_first_line(error)}. Did every rank start, and is the port "
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
        _leave(place, alone)
    dist.destroy_process_group()


def _leave(place: str, me: Ranks) -> None:
    if place.startswith("/") and me.is_main_process:
        Path(place).unlink(missing_ok=True)


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
    return "gloo", f"gloo on every rank, as oneCCL is not available on {'; '.join(without)}"


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
        if me.is_main_process:
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
        if me.is_main_process:  # it keeps the store that the other survivors still read
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


def _choose_interface(me: Ranks, place: str) -> None:
    """Where gloo listens: on this machine alone, or on the interface on the way to the first rank.

    Left to itself it takes what this machine's name stands for.
    """
    if "GLOO_SOCKET_IFNAME" in os.environ:
        return
    here = me.local_size == me.size
    found = interface_to("127.0.0.1" if here else place.rsplit(":", 1)[0])
    if found is not None:
        os.environ["GLOO_SOCKET_IFNAME"] = found


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else repr(error)


def all_reduce_sum(values: torch.Tensor, ranks: Ranks) -> None:
    """Add `values` (any shape, any dtype) over all ranks, in place; alone, do nothing."""
    if ranks.size > 1:
        dist.all_reduce(values)


def broadcast_text(text: str, ranks: Ranks) -> str:
    """The first rank's `text`, on every rank."""
    return cast(str, _of_every_rank(text if ranks.is_main_process else None, ranks)[0])


def every_rank(text: str, ranks: Ranks) -> list[str]:
    """Each rank's `text`, in the order of the ranks, on every rank."""
    return cast(list[str], _of_every_rank(text, ranks))


PART = 2**30
"""Bytes that are broadcast at a time."""


def broadcast_tensors(tensors: Mapping[str, torch.Tensor], ranks: Ranks) -> dict[str, torch.Tensor]:
    """The first rank's `tensors` (contiguous; any shapes and dtypes), by name, on every rank.

    They may be gigabytes: each is sent from where it lies to where it stays, and nothing is copied.
    """
    if ranks.size == 1:
        return dict(tensors)
    shapes = [
        (name, list(value.shape), str(value.dtype).removeprefix("torch."))
        for name, value in tensors.items()
    ]
    received = {}
    for name, shape, dtype in json.loads(broadcast_text(json.dumps(shapes), ranks)):
        first = ranks.is_main_process
        value = tensors[name] if first else torch.empty(shape, dtype=getattr(torch, dtype))
        for part in value.view(-1).view(torch.uint8).split(PART) if value.numel() else ():
            dist.broadcast(part, 0)
        received[name] = value
    return received


def _of_every_rank(value: str | None, ranks: Ranks) -> list[str | None]:
    """What each rank says, in order, as JSON: what unpickles a neighbour's words runs its code."""
    if ranks.size == 1:
        return [value]
    encoded = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(ranks.size)]
    dist.all_gather(lengths, torch.tensor([len(encoded)]))
    longest = max(int(length) for length in lengths)
    padded = torch.zeros(longest, dtype=torch.uint8)
    padded[: len(encoded)] = encoded
    received = [torch.zeros_like(padded) for _ in range(ranks.size)]
    dist.all_gather(received, padded)
    return [
        json.loads(bytes(each[: int(length)].tolist()))
        for each, length in zip(received, lengths, strict=True)
    ]


def on_all_ranks(ranks: Ranks, prepare: Callable[[], Result]) -> Result:
    """Run `prepare`, which has no collectives in it, on every rank; all fail if one does.

    Raises:
        UserError: on every rank alike, with each different message once and who said it.
    """
    result, problem = None, None
    try:
        result = prepare()
    except UserError as error:
        problem = str(error)
    problems = _of_every_rank(problem, ranks)
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
