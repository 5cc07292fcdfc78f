"""What the head says of its runs, and which of them is meant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bootstrap import answers
from bootstrap.errors import UserError
from bootstrap.names import run_name
from bootstrap.runs.node_version import check_version
from bootstrap.runs.run_messages import Run
from bootstrap.ssh.host import Host


def ask_head(head: Host, *words: str, on_line: Callable[[str], None] | None = None) -> str:
    """What `bootstrap.node.run_query` says on the head; nothing where `on_line` was told it.

    Raises:
        UserError: there is no environment there yet, or one of another version.
    """
    what, *rest = words
    command = [head.python, "-P", "-m", "bootstrap.node.run_query", what, head.layout.root, *rest]
    finished = head.run(command, on_line=on_line, keep=on_line is None, check=False)
    if finished.exit_code == 127:  # the shell's: no such program
        raise UserError(f"{head.name} has no environment yet: fab bootstrap sets it up.")
    if finished.exit_code != 0:
        check_version(head, finished.stderr)
        raise UserError(f"{head.name}: {finished.stderr.strip()[-500:]}")
    return finished.stdout


def all_runs(head: Host) -> list[dict[str, Any]]:
    """See `run_messages.Run`; the run started last at the end.

    Raises:
        UserError: there is no environment there yet, or the answer is none.
    """
    found = answers.read(list[Run], ask_head(head, "list"), f"{head.name}: its runs")
    for run in found:
        run_name(run["name"], head.name)
    return [dict(run) for run in found]


def the_run(head: Host, name: str) -> dict[str, Any]:
    """The run that is meant: by its name, or the last one started.

    Raises:
        UserError: there is no such run.
    """
    found = all_runs(head)
    if not found:
        raise UserError(f"{head.name} has no run yet: fab train starts one.")
    if not name:
        return found[-1]
    for run in found:
        if run["name"] == name:
            return run
    raise UserError(f"there is no run {name} on {head.name}; there is: "
                    f"{', '.join(run['name'] for run in found)}.")  # fmt: skip
