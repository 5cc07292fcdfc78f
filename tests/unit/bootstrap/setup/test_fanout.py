"""Who sends to whom: simulated in rounds that all last equally long."""

from __future__ import annotations

import math

import pytest

from bootstrap.setup.fanout import TRIES, Waves


def names(count: int) -> list[str]:
    return [f"n{number}" for number in range(1, count)]


def rounds(waves: Waves, broken: frozenset[tuple[str, str]] = frozenset()) -> list[set[str]]:
    """The receivers of each round; pairs in `broken` (sender or receiver "*": any) fail."""
    done = []
    while not waves.over:
        begun = waves.start()
        assert begun, "nobody sends and somebody waits"
        assert len({sender for sender, _ in begun}) == len(begun)
        received = set()
        for sender, receiver in begun:
            pairs = {(sender, receiver), (sender, "*"), ("*", receiver)}
            if pairs & broken:
                waves.failed(sender, receiver)
            else:
                waves.finished(sender, receiver)
                received.add(receiver)
        done.append(received)
    return done


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8, 9, 16, 33, 64])
def test_every_node_gets_it_once_after_log2_rounds(count: int) -> None:
    received = rounds(Waves(["head"], names(count)))
    assert len(received) == math.ceil(math.log2(count))
    flat = [name for names_ in received for name in names_]
    assert sorted(flat) == sorted(names(count))


def test_a_node_that_nobody_reaches_is_left_out_and_the_others_finish() -> None:
    waves = Waves(["head"], names(8))
    received = rounds(waves, frozenset({("*", "n3")}))
    assert waves.left_out == ["n3"]
    assert set().union(*received) == set(names(8)) - {"n3"}


def test_a_sender_that_fails_is_replaced() -> None:
    waves = Waves(["head"], names(8))
    received = rounds(waves, frozenset({("n1", "*")}))
    assert waves.left_out == []
    assert set().union(*received) == set(names(8))


def test_the_head_alone_tries_again() -> None:
    waves = Waves(["head"], ["n1"])
    assert rounds(waves, frozenset({("*", "n1")})) == [set()] * TRIES
    assert waves.left_out == ["n1"]


def test_one_that_has_it_already_sends_from_the_start() -> None:
    waves = Waves(["head", "n1"], ["n2", "n3"])
    assert waves.start() == [("head", "n2"), ("n1", "n3")]
