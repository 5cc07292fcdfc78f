"""What a node says of its runs (`node.run_query`, `node.checkpoints`), as it has to be."""

from __future__ import annotations

from typing import Annotated, Any, NotRequired

from pydantic import NonNegativeInt, ValidationError, WrapValidator
from typing_extensions import TypedDict


def _or_none(value: object, read: Any) -> object:
    """An event that lacks something was not written by the training: there is none."""
    try:
        return read(value)
    except ValidationError:
        return None


class Start(TypedDict):
    """As far as it counts here, as are all others."""

    step: int
    max_train_steps: int
    global_batch: int


class Step(TypedDict):
    """The last one."""

    step: int
    loss: float
    images_per_second: float


class State(TypedDict):
    """The supervisor's; empty where there is none."""

    phase: NotRequired[str | None]
    reason: NotRequired[str | None]
    nodes: NotRequired[list[str] | None]
    ranks: NotRequired[int | None]
    silent: NotRequired[list[str] | None]
    started: NotRequired[float | None]
    ended: NotRequired[float | None]


class Run(TypedDict):
    """See `run_query.summary`."""

    name: str
    state: State
    began: float | None
    first_step: int | None
    run: dict[str, Any] | None
    start: Annotated[Start | None, WrapValidator(_or_none)]
    step: Annotated[Step | None, WrapValidator(_or_none)]
    images_per_second: float | None
    restarts: int
    last_words: str
    checkpoint: int | None
    results_until: NonNegativeInt
    whole_pipeline: bool


class Gathered(TypedDict):
    """See `run_query.gather`."""

    path: str
    name: str
    began: float | None
    first_step: int | None
    run: dict[str, Any] | None
    results_until: NonNegativeInt


class Newest(TypedDict):
    """See `checkpoints.newest`."""

    step: int | None
    run: dict[str, Any] | None
    config: dict[str, Any]


class Followed(TypedDict):
    """A line of `run_query.follow`: one of the two."""

    state: NotRequired[State]
    event: NotRequired[dict[str, Any]]
