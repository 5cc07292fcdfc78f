"""`fab train --resume`: which run goes on, with what settings, whatever nodes are left of it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from bootstrap import answers
from bootstrap.errors import UserError
from bootstrap.names import RUN
from bootstrap.node.job import METHOD
from bootstrap.runs import flags
from bootstrap.runs.node_version import check_version
from bootstrap.runs.run_messages import Newest
from bootstrap.runs.run_names import check_name
from bootstrap.ssh.host import Host

NOT_GIVEN_AGAIN = (*flags.RESERVED, "overwrite_output_dir")


def find(hosts: Sequence[Host], asked: str) -> tuple[str, str, dict[str, Any]]:
    """The run to go on with, its method, and the training's keys for it.

    Its settings are read from config.toml on the node with the newest checkpoint. The supervisor
    brings that checkpoint to the head, which may be a new machine.

    Args:
        asked: a run's name; "": the one that was begun last.

    Raises:
        UserError: there is no such run, or no node has a checkpoint of it.
    """
    name = check_name(asked) if asked else _last_begun(hosts)
    with ThreadPoolExecutor(len(hosts)) as pool:
        found = list(pool.map(lambda host: _newest(host, name), hosts))
    known = [there for there in found if there["run"] is not None]
    if not known:
        raise UserError(f"no node holds a run {name}: fab train starts one.")
    best = max(known, key=lambda there: -1 if there["step"] is None else there["step"])
    values = {key: value for key, value in best["config"].items() if key not in NOT_GIVEN_AGAIN}
    # Records of textual inversion do not name it: there was nothing else at first.
    return name, best["run"].get("method", METHOD), values


def _newest(host: Host, name: str) -> dict[str, Any]:
    words = [host.python, "-P", "-m", "bootstrap.node.checkpoints", "newest"]
    finished = host.run([*words, host.layout.run(name)], check=False)
    if finished.exit_code != 0:
        check_version(host, finished.stderr)
        raise UserError(f"{host.name} has no environment yet: fab bootstrap sets it up.")
    said = f"{host.name}: its newest checkpoint of {name}"
    return dict(answers.read(Newest, finished.stdout, said))


def _last_begun(hosts: Sequence[Host]) -> str:
    """The run that was begun last: on the head, or, where that is new, on any other node."""
    for group in (hosts[:1], hosts[1:]):
        begun = [run for host in group for run in _begun(host)]
        if begun:
            return max(begun)[1]
    raise UserError("no node holds a run: fab train starts one.")


def _begun(host: Host) -> list[tuple[float, str]]:
    """When each run of a node was begun, and its name."""
    folder = shlex.quote(host.layout.runs)
    listing = f"find {folder} -mindepth 2 -maxdepth 2 -name config.toml -printf '%T@ %P\\n'"
    here = host.run(f"{listing} 2>/dev/null || :").stdout
    lines = re.findall(r"^(\d+\.\d+) (\S+)/config\.toml$", here, re.MULTILINE)
    return [(float(time), name) for time, name in lines if RUN.fullmatch(name)]
