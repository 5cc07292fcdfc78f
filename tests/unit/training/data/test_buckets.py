"""Aspect-ratio buckets: few sizes, none larger than the square, the nearest shape chosen."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from training.data.buckets import LARGEST_RATIO, bucket_of, buckets

SIDES = st.integers(16, 6000)


def test_the_buckets_of_stable_diffusion() -> None:
    wanted = ((384, 640), (448, 576), (512, 512), (576, 448), (640, 384))
    assert buckets(512, 64) == wanted


@given(st.sampled_from([64, 256, 512, 768]), st.sampled_from([8, 32, 64]))
def test_none_is_larger_than_the_square_or_longer_than_allowed(side: int, multiple: int) -> None:
    for height, width in buckets(side, multiple):
        assert height * width <= side * side
        assert max(height / width, width / height) <= LARGEST_RATIO
        assert (height, width) == (side, side) or height % multiple == width % multiple == 0


@given(SIDES, SIDES)
def test_a_turned_picture_gets_the_turned_bucket(width: int, height: int) -> None:
    found = bucket_of(width, height, 512, 64)
    assert found in buckets(512, 64)
    assert bucket_of(height, width, 512, 64) == found[::-1]


def test_shapes_of_cameras() -> None:
    assert bucket_of(3000, 3000, 512, 64) == (512, 512)
    assert bucket_of(4000, 3000, 512, 64) == (448, 576)
    assert bucket_of(1080, 1920, 512, 64) == (640, 384)
