"""Aspect-ratio buckets: the few sizes that pictures of all shapes are cropped and resized to.

As NovelAI described them (2022) and kohya's scripts have them: sides are multiples of what the
model divides by, and no bucket has more pixels than the square.
"""

from __future__ import annotations

import math
from functools import cache

LARGEST_RATIO = 2.0
"""Of the longer to the shorter side; what is longer is cropped."""


@cache
def buckets(resolution: int, multiple: int) -> tuple[tuple[int, int], ...]:
    """The sizes (height, width), in pixels, for each height the widest, the square among them.

    Args:
        resolution: side of the square.
        multiple: every other side is a multiple of it.
    """
    area = resolution * resolution
    found = {(resolution, resolution)}
    for height in range(multiple, int(resolution * math.sqrt(LARGEST_RATIO)) + 1, multiple):
        width = area // height // multiple * multiple
        if width and max(height / width, width / height) <= LARGEST_RATIO:
            found |= {(height, width), (width, height)}
    return tuple(sorted(found))


def bucket_of(width: int, height: int, resolution: int, multiple: int) -> tuple[int, int]:
    """The size (height, width) whose shape is nearest to a picture's; of equal ones the largest."""

    def distance(size: tuple[int, int]) -> tuple[float, int]:
        apart = abs(math.log(size[1] / size[0]) - math.log(width / height))
        return (round(apart, 9), -size[0] * size[1])

    return min(buckets(resolution, multiple), key=distance)
