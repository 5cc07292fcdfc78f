"""Who sends to whom: simulated in rounds that all last equally long."""

from __future__ import annotations

import math

import pytest

from bootstrap.setup.fanout import TRIES, FanOut


def names(count: int) -> list[str]:
    return [f"n{number}" for number in range(1, count)]


def rounds(fan_out: FanOut, broken: frozenset[tuple[str, str]] = frozenset()) -> list[set[str]]:
    """The receivers of each round; pairs in `broken` (sender or receiver "*": any) fail."""
    done = []
    while not fan_out.over:
        begun = fan_out.start()
        assert begun, "nobody sends and somebody waits"
        assert len({sender for sender, _ in begun}) == len(begun)
        received = set()
        for sender, receiver in begun:
            pairs = {(sender, receiver), (sender, "*"), ("*", receiver)}
            if pairs & broken:
                fan_out.failed(sender, receiver)
            else:
                fan_out.finished(sender, receiver)
                received.add(receiver)
        done.append(received)
    return done


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8, 9, 16, 33, 64])
def test_every_node_gets_it_once_after_log2_rounds(count: int) -> None:
    received = rounds(FanOut(["head"], names(count)))
    assert len(received) == math.ceil(math.log2(count))
    flat = [name for names_ in received for name in names_]
    assert sorted(flat) == sorted(names(count))


def test_a_node_that_nobody_reaches_is_left_out_and_the_others_finish() -> None:
    fan_out = FanOut(["head"], names(8))
    received = rounds(fan_out, frozenset({("*", "n3")}))
    assert fan_out.left_out == ["n3"]
    assert set().union(*received) == set(names(8)) - {"n3"}


def test_a_sender_that_fails_is_replaced() -> None:
    fan_out = FanOut(["head"], names(8))
    received = rounds(fan_out, frozenset({("n1", "*")}))
    assert fan_out.left_out == []
    assert set().union(*received) == set(names(8))


def test_the_head_alone_tries_again() -> None:
    fan_out = FanOut(["head"], ["n1"])
    assert rounds(fan_out, frozenset({("*", "n1")})) == [set()] * TRIES
    assert fan_out.left_out == ["n1"]


def test_one_that_has_it_already_sends_from_the_start() -> None:
    fan_out = FanOut(["head", "n1"], ["n2", "n3"])
    assert fan_out.start() == [("head", "n2"), ("n1", "n3")]
