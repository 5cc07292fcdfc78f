"""What is tried, in which order: one thing after the other, each from the best found so far."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

CORES_PER_RANK = 32
"""At batch 1 the layers of a UNet do not keep more cores busy."""


@dataclass(frozen=True)
class Setting:
    """How a training runs on a machine.

    Attributes:
        frozen, mixed_precision: the training's flags.
        ranks: of this machine.
        threads: of each rank.
    """

    frozen: str
    mixed_precision: str
    ranks: int
    threads: int

    def __str__(self) -> str:
        precision = {"no": "fp32"}.get(self.mixed_precision, self.mixed_precision)
        ranks = f"{self.ranks} rank{'s' if self.ranks > 1 else ''}"
        return f"{self.frozen}, {precision}, {ranks} of {self.threads}"


@dataclass(frozen=True)
class Measured:
    """What a setting came to.

    Attributes:
        images_per_second: of all ranks together; 0: it was not measured.
        peak: bytes of the largest rank.
        problem: why it was not measured.
    """

    setting: Setting
    images_per_second: float = 0.0
    peak: int = 0
    problem: str = ""


@dataclass(frozen=True)
class Space:
    """What may be tried.

    Attributes:
        cores: physical cores of this machine.
        engines: in the order in which they are tried; "compiled" is always the last.
        ranks, threads: the only ones; (): any.
    """

    cores: int
    engines: Sequence[str]
    precisions: Sequence[str]
    ranks: Sequence[int] = ()
    threads: Sequence[int] = ()

    def setting(self, engine: str, precision: str, ranks: int) -> Setting:
        """With as many threads as there are cores for a rank, or the first that are allowed."""
        share = max(1, self.cores // ranks)
        threads = max((each for each in self.threads if each <= share), default=share)
        return Setting(engine, precision, ranks, threads)

    @property
    def first_ranks(self) -> int:
        """Where the search begins."""
        return self.ranks[0] if self.ranks else -(-self.cores // CORES_PER_RANK)


def search(space: Space, measure: Callable[[Setting], Measured]) -> list[Measured]:
    """Measure one setting after the other; returns all of them, in their order.

    Precisions and engines first; then, with the best of them, more ranks while that gains, and
    fewer; then fewer threads per rank; and at the end the compiled engine, which takes longest.
    """
    tried: dict[Setting, Measured] = {}

    def gains(setting: Setting) -> bool:
        """Whether a setting is the best so far."""
        if setting in tried:
            return False
        before = best(tried.values())
        tried[setting] = measure(setting)
        return before is None or tried[setting].images_per_second > before.images_per_second

    at_once = [engine for engine in space.engines if engine != "compiled"] or ["compiled"]
    for precision in space.precisions:
        for engine in at_once:
            gains(space.setting(engine, precision, space.first_ranks))
    found = best(tried.values())
    if found is None:
        return list(tried.values())
    engine, precision = found.setting.frozen, found.setting.mixed_precision
    for direction in _ranks(space):
        for ranks in direction:
            if not gains(space.setting(engine, precision, ranks)) and not space.ranks:
                break
    found = best(tried.values())
    assert found is not None
    for threads in _threads(space, found.setting):
        gains(replace(found.setting, threads=threads))
    found = best(tried.values())
    assert found is not None
    if "compiled" in space.engines:
        gains(replace(found.setting, frozen="compiled"))
    return list(tried.values())


def best(tried: Iterable[Measured]) -> Measured | None:
    """The fastest; None: nothing was measured."""
    measured = [each for each in tried if each.images_per_second > 0]
    return max(measured, key=lambda each: each.images_per_second, default=None)


def _ranks(space: Space) -> list[list[int]]:
    """Other numbers of ranks: upwards, then downwards, as long as each gains."""
    if space.ranks:
        return [list(space.ranks[1:])]
    up, down = [], []
    ranks = 2 * space.first_ranks
    while ranks <= space.cores:
        up.append(ranks)
        ranks *= 2
    ranks = space.first_ranks // 2
    while ranks >= 1:
        down.append(ranks)
        ranks //= 2
    return [up, down]


def _threads(space: Space, setting: Setting) -> list[int]:
    """Fewer threads than a rank has cores, which leave some of them to what else runs."""
    share = max(1, space.cores // setting.ranks)
    if space.threads:
        return [each for each in space.threads if each <= share and each != setting.threads]
    fewer = dict.fromkeys(number for number in (share - 1, share // 2) if 1 <= number < share)
    return list(fewer)
