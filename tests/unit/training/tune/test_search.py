"""What is tried, in which order, and which is the best."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from training.tune.search import Measured, Setting, Space, best, search
from training.tune.trial import Trials, pinning


def tried(space: Space, speed: Callable[[Setting], float]) -> list[tuple[str, str, int, int]]:
    def measure(setting: Setting) -> Measured:
        found = speed(setting)
        return Measured(setting, found, problem="" if found else "too large")

    return [
        (each.setting.frozen, each.setting.mixed_precision, each.setting.ranks,
         each.setting.threads)
        for each in search(space, measure)
    ]  # fmt: skip


def test_engines_and_precisions_then_ranks_then_threads_then_compiled() -> None:
    def speed(setting: Setting) -> float:
        by_precision = 2.0 if setting.mixed_precision == "bf16" else 1.0
        by_engine = {"native": 1.0, "ipex": 1.2, "compiled": 1.5}[setting.frozen]
        by_ranks = {1: 1.0, 2: 1.3, 4: 1.2}[setting.ranks]
        return by_precision * by_engine * by_ranks * (1.1 if setting.threads == 3 else 1.0)

    space = Space(8, ("native", "ipex", "compiled"), ("bf16", "no"))
    assert tried(space, speed) == [
        ("native", "bf16", 1, 8),
        ("ipex", "bf16", 1, 8),
        ("native", "no", 1, 8),
        ("ipex", "no", 1, 8),
        ("ipex", "bf16", 2, 4),
        ("ipex", "bf16", 4, 2),  # slower: no more
        ("ipex", "bf16", 2, 3),
        ("ipex", "bf16", 2, 2),
        ("compiled", "bf16", 2, 3),
    ]


def test_large_machines_begin_with_a_rank_per_32_cores_and_go_both_ways() -> None:
    space = Space(112, ("native",), ("no",))
    found = tried(space, lambda setting: 1 / setting.ranks)
    assert [each[2] for each in found] == [4, 8, 2, 1, 1, 1]
    assert [each[3] for each in found] == [28, 14, 56, 112, 111, 56]


def test_what_is_asked_for_is_tried_and_nothing_else() -> None:
    space = Space(4, ("native",), ("no",), ranks=(2, 1), threads=(1, 2))
    assert tried(space, lambda setting: 1 / setting.ranks) == [
        ("native", "no", 2, 2), ("native", "no", 1, 2), ("native", "no", 1, 1),
    ]  # fmt: skip
    assert tried(Space(1, ("compiled",), ("no",)), lambda setting: 1.0) == [
        ("compiled", "no", 1, 1)
    ]


def test_where_nothing_can_be_measured_the_search_ends() -> None:
    space = Space(2, ("native", "compiled"), ("no",))
    assert tried(space, lambda setting: 0.0) == [("native", "no", 1, 2)]
    assert best([Measured(Setting("native", "no", 1, 2), problem="too large")]) is None


def test_each_rank_gets_its_share_of_the_cores() -> None:
    setting = Setting("native", "no", 2, 1)
    assert pinning(setting, [0, 1, 2, 3, 4]) == {"I_MPI_PIN_DOMAIN": "[0x3,0xc]"}


def test_ranks_have_what_fab_train_would_give_them(tmp_path: Path) -> None:
    placement = {"2": {"OMP_NUM_THREADS": "3", "CCL_WORKER_AFFINITY": "3,7"}}
    trials = Trials([], tmp_path, "mpirun", range(8), 0.0, print, placement)
    kept = ["-genv", "CCL_WORKER_AFFINITY", "3,7", "-n", "2"]
    for threads, wanted in ((4, "3"), (2, "2")):
        words = trials.launcher(Setting("native", "no", 2, threads))
        assert words == ["mpirun", "-genv", "OMP_NUM_THREADS", wanted, *kept]
    assert trials.launcher(Setting("native", "no", 1, 8)) == [
        "mpirun", "-genv", "I_MPI_PIN_DOMAIN", "[0xff]", "-genv", "OMP_NUM_THREADS", "8", "-n", "1",
    ]  # fmt: skip
