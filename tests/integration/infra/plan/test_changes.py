"""What a second `pulumi up` does: the real program before and after each change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from infra.config.config import ClusterConfig
from infra.plan import difference, living, matrix, plan
from tests.infra_plans import BASE, planned

CHECKOUT = Path(__file__).parents[4]


def alive(**before: str) -> dict[str, dict[str, Any]]:
    """The resources of a cluster that was made with some keys."""
    made = planned(head_may_deallocate=before.pop("head_may_deallocate", "false"), **before)
    return {one["name"]: one for one in made["resources"] if one["custom"]}


def after(old: dict[str, dict[str, Any]], **values: str) -> list[difference.Step]:
    made = plan.make({**BASE, **values}, living=old)
    return difference.between(old, made)


@pytest.mark.parametrize("row", matrix.ROWS, ids=lambda row: f"{row.key}: {row.change}")
def test_a_change_of_each_key_does_what_the_matrix_says(row: matrix.Row, tmp_path: Path) -> None:
    other = tmp_path / "other.pub"
    other.write_text(matrix.OTHER_KEY)
    values = {key: text.format(other_key=other) for key, text in row.after.items()}
    old = alive(**row.before)
    assert difference.summary(after(old, **{**row.before, **values})) == row.plain
    if row.key == "replace_nodes":
        return
    replacing = {**row.before, "replace_nodes": "true", **values}
    assert difference.summary(after(old, **replacing)) == row.replacing


def test_the_matrix_has_every_key() -> None:
    assert {row.key for row in matrix.ROWS} == set(ClusterConfig.model_fields)
