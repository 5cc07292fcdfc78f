"""What `fab tune` found on the head, and what of it a training takes."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bootstrap.setup.node_facts import NodeFacts
from bootstrap.ssh.host import Host

SAME = ("pretrained_model_name_or_path", "resolution", "train_batch_size")
"""Keys of the training that decide what is fastest."""
BATCH = 16
"""The training's own, where none is given."""


@dataclass(frozen=True)
class Tuned:
    """The fastest setting.

    Attributes:
        frozen, mixed_precision: the training's flags.
        ranks: per node.
        threads: of each rank.
        tried_with: what it holds for: keys of the training, "cpu" and "cores".
    """

    frozen: str
    mixed_precision: str
    ranks: int
    threads: int
    when: float
    tried_with: Mapping[str, Any]

    def __str__(self) -> str:
        precision = {"no": "fp32"}.get(self.mixed_precision, self.mixed_precision)
        day = time.strftime("%Y-%m-%d", time.localtime(self.when))
        return (
            f"{self.frozen}, {precision}, {self.ranks} ranks per node of {self.threads} threads "
            f"({day})"
        )


def path(head: Host, method: str) -> str:
    """Where the result for a method lies on the head."""
    return f"{head.layout.tuned}/{method}.json"


def read(head: Host, method: str) -> Tuned | None:
    """The result for a method; None: there is none that can be read."""
    try:
        found = json.loads(head.text_of(path(head, method)) or "null")
        return Tuned(
            str(found["frozen"]), str(found["mixed_precision"]), int(found["ranks"]),
            int(found["threads"]), float(found["time"]), found,
        )  # fmt: skip
    except (ValueError, KeyError, TypeError):
        return None


def unlike(tuned: Tuned, values: Mapping[str, Any], facts: Sequence[NodeFacts]) -> str:
    """In what a training on these nodes differs from what was tried; "" if in nothing."""
    for key in SAME:
        mine = values.get(key, BATCH if key == "train_batch_size" else None)
        if mine != tuned.tried_with.get(key):
            return f"{key} {tuned.tried_with.get(key)}, not {mine}"
    for node in facts:
        if (node.processor.name, node.cores) != (
            tuned.tried_with.get("cpu"), tuned.tried_with.get("cores"),
        ):  # fmt: skip
            return f"other processors than {node.hostname}'s"
    return ""


def take(
    tuned: Tuned, given: Mapping[str, Any], values: Mapping[str, Any]
) -> dict[str, Any]:  # fmt: skip
    """The training's keys with engine and precision from the result, where none is given."""
    found = {"frozen": tuned.frozen, "mixed_precision": tuned.mixed_precision}
    return {**values, **{key: value for key, value in found.items() if key not in given}}
