"""`fab train --resume`: which run goes on, with what settings, whatever nodes are left of it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from bootstrap import flags
from bootstrap.errors import UserError
from bootstrap.hosts import Host
from bootstrap.run_names import check_name

NOT_GIVEN_AGAIN = (*flags.DECIDED, "overwrite_output_dir")


def find(hosts: Sequence[Host], asked: str) -> tuple[str, dict[str, Any]]:
    """The run to go on with and the training's keys for it.

    Its settings are read from config.toml on the node with the newest checkpoint. The supervisor
    brings that checkpoint to the head, which may be a new machine.

    Args:
        asked: a run's name; "": the one that was begun last on the head, or the only one left.

    Raises:
        UserError: there is no such run, or no node has a checkpoint of it.
    """
    name = check_name(asked) if asked else _only_name(hosts)
    with ThreadPoolExecutor(len(hosts)) as pool:
        found = list(pool.map(lambda host: _newest(host, name), hosts))
    known = [there for there in found if there["run"] is not None]
    if not known:
        raise UserError(f"no node holds a run {name}: fab train starts one.")
    best = max(known, key=lambda there: -1 if there["step"] is None else there["step"])
    values = {key: value for key, value in best["config"].items() if key not in NOT_GIVEN_AGAIN}
    return name, values


def _newest(host: Host, name: str) -> dict[str, Any]:
    words = [host.python, "-P", "-m", "bootstrap.checkpoints", "newest"]
    finished = host.run([*words, f"{host.layout.runs}/{name}"], check=False)
    if finished.exit_code != 0:
        raise UserError(f"{host.name} has no environment yet: fab bootstrap sets it up.")
    there: dict[str, Any] = json.loads(finished.stdout)
    return there


def _only_name(hosts: Sequence[Host]) -> str:
    everywhere: list[str] = []
    for host in hosts:
        folder = shlex.quote(host.layout.runs)
        here = host.run(f"cd {folder} 2>/dev/null && ls -1t -d */config.toml || :")
        names = [line.partition("/")[0] for line in here.stdout.splitlines()]
        if names and host is hosts[0]:
            return names[0]
        everywhere += [name for name in names if name not in everywhere]
    if len(everywhere) == 1:
        return everywhere[0]
    if not everywhere:
        raise UserError("no node holds a run: fab train starts one.")
    raise UserError(f"which run? --run one of {', '.join(everywhere)}.")
