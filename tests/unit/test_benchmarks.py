"""What the pages say was measured is what the committed figures say."""

from __future__ import annotations

import json
import math
import random
import re
import statistics

import pytest

from benchmarks.inference_ladder.chart import ladder_table
from benchmarks.plot import (
    FIGURES,
    LADDER,
    LADDER_PAGE,
    PAGE,
    STEP_PAGE,
    put,
    step_tables,
    tables,
)
from benchmarks.results import interval_of_median
from benchmarks.train_step.breakdown import REST, by_kind


def test_the_page_shows_the_figures_as_they_are() -> None:
    text = PAGE.read_text()
    found = tables()
    assert set(re.findall(r"<!-- ([\w-]+) -->", text)) - {"end"} == set(found)
    for name, table in found.items():
        assert put(text, name, table) == text, "stale: .venv/bin/python -m benchmarks.plot"


def test_the_page_of_openvino_shows_the_ladder_as_it_was_measured() -> None:
    text = LADDER_PAGE.read_text()
    table = ladder_table(json.loads((FIGURES / f"{LADDER}.json").read_text()))
    assert put(text, LADDER, table) == text, "stale: .venv/bin/python -m benchmarks.plot"


def test_the_page_of_a_step_shows_the_figures_as_they_are() -> None:
    text = STEP_PAGE.read_text()
    found = step_tables()
    assert set(re.findall(r"<!-- ([\w-]+) -->", text)) - {"end"} == set(found)
    for name, table in found.items():
        assert put(text, name, table) == text, "stale: .venv/bin/python -m benchmarks.plot"


def test_operations_are_added_up_by_kind() -> None:
    seconds = by_kind(
        [
            ("aten::mkldnn_convolution", 1.0),
            ("mkldnn::_convolution_pointwise", 2.0),
            ("xeon_diffusion::convolution_backward", 32.0),
            ("aten::bmm", 64.0),
            ("aten::_scaled_dot_product_flash_attention_for_cpu_backward", 4.0),
            ("aten::addmm", 8.0),
            ("aten::mul", 16.0),
        ]
    )
    assert seconds == {"convolution": 99.0, "attention": 4.0, "linear layers": 8.0, REST: 16.0}


def test_a_page_without_a_place_for_a_table_is_refused() -> None:
    with pytest.raises(ValueError, match="<!-- steps -->"):
        put("no place here", "steps", "| |\n")


@pytest.mark.parametrize("count", [10, 60, 121])
def test_the_interval_of_a_median_holds_it_as_often_as_it_says(count: int) -> None:
    draws = random.Random(0)
    held = []
    for _ in range(4000):
        low, high = interval_of_median([draws.expovariate(1) for _ in range(count)])
        held.append(low <= math.log(2) <= high)
    assert statistics.mean(held) >= 0.94
