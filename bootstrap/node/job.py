"""job.json: everything that the supervisor on the head needs to know of a run.

Nodes read it with the standard library alone. It holds no secret: a hub token stays in its file.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bootstrap.errors import UserError
from bootstrap.paths import Layout

FILE_NAME = "job.json"
METHOD, LORA, QUANTIZE = "textual_inversion", "lora", "quantize"
"""Methods; the first is what is trained where nobody says otherwise."""


@dataclass(frozen=True)
class JobNode:
    """One node's part.

    Attributes:
        name, address: as in the inventory.
        ranks: how many it runs.
        environment: what its ranks have beside the job's own environment.
    """

    name: str
    address: str
    ranks: int
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """A run to be started, and started again when something dies.

    Attributes:
        name: of the run; its folder's name.
        root: see `bootstrap.paths`.
        nodes: the head first.
        arguments: the training's, without resume_from_checkpoint.
        environment: of every rank.
        ssh: the program that reaches other nodes as `ssh <address> <command>`; None: there are
            none.
        resume: go on from the newest checkpoint at the first start already.
        minimum_nodes: with fewer that answer, nothing is started.
        tries: failures in a row without a new checkpoint until it gives up.
        watch_seconds: between two health checks of the nodes.
        misses: checks in a row that a node may miss.
        stop_seconds: how long ranks may take to end with a checkpoint.
        method: what is trained: `training.<method>` is started.
        afterwards: a command to run at the very end, such as one that deallocates the VMs.
    """

    name: str
    root: str
    nodes: tuple[JobNode, ...]
    arguments: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)
    ssh: str | None = None
    resume: bool = False
    minimum_nodes: int = 1
    tries: int = 3
    watch_seconds: float = 30.0
    misses: int = 3
    stop_seconds: float = 600.0
    afterwards: tuple[str, ...] = ()
    method: str = METHOD

    @property
    def layout(self) -> Layout:
        """Where things lie on every node."""
        return Layout(self.root)

    @property
    def folder(self) -> Path:
        """The run's own."""
        return Path(self.layout.runs) / self.name

    @property
    def python(self) -> str:
        """The environment's interpreter, at the same place on every node."""
        return self.layout.python

    @property
    def ranks(self) -> int:
        """Over all nodes."""
        return sum(node.ranks for node in self.nodes)

    def text(self) -> str:
        """The file's content."""
        values = asdict(self)
        if self.method == METHOD:
            del values["method"]  # so that nodes of before there were others can read it
        return json.dumps(values, indent=1) + "\n"


def read_job(path: Path) -> Job:
    """Read what `Job.text` wrote.

    Raises:
        UserError: it cannot be read.
    """
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        nodes = tuple(JobNode(**node) for node in values.pop("nodes"))
        arguments, afterwards = tuple(values.pop("arguments")), tuple(values.pop("afterwards"))
        return Job(nodes=nodes, arguments=arguments, afterwards=afterwards, **values)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: is not a job ({error}). fab train writes a new one.") from error
