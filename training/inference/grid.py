"""Pictures beside each other in one."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image

GAP = 4


def grid_of(pictures: Sequence[Image.Image], columns: int | None) -> Image.Image:
    """All pictures, of one size, row by row.

    Args:
        columns: in a row; None: as many as make the grid about square.
    """
    columns = columns or math.ceil(math.sqrt(len(pictures)))
    rows = -(-len(pictures) // columns)
    width, height = pictures[0].size
    grid = Image.new("RGB", (columns * (width + GAP) - GAP, rows * (height + GAP) - GAP), "white")
    for number, picture in enumerate(pictures):
        row, column = divmod(number, columns)
        grid.paste(picture, (column * (width + GAP), row * (height + GAP)))
    return grid
