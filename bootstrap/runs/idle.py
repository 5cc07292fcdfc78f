"""`idle_minutes`: the head's cron looks each minute whether anything runs, and switches all off."""

from __future__ import annotations

import json
from typing import NotRequired

from typing_extensions import TypedDict

from bootstrap import answers
from bootstrap.errors import UserError
from bootstrap.inventory.inventory import Inventory
from bootstrap.runs import deallocation
from bootstrap.ssh import transfer
from bootstrap.ssh.command import script
from bootstrap.ssh.host import Host

MODULE = "bootstrap.node.azure.idle_watch"
# $1: what marks our line of this account's crontab, $2: the line; none: it goes.
SCHEDULE = """
set -e
if ! command -v crontab >/dev/null; then
    [ -z "$2" ] || { echo "there is no crontab on it: sudo apt-get install cron" >&2; exit 1; }
    exit 0
fi
others=$(crontab -l 2>/dev/null | grep -vF -- "$1" || :)
lines=$(printf '%s\n%s' "$others" "$2" | sed '/^$/d')
[ "$lines" = "$(crontab -l 2>/dev/null | sed '/^$/d' || :)" ] || printf '%s\n' "$lines" | crontab -
"""


class Idle(TypedDict):
    """What the head says (`bootstrap.node.azure.idle_watch`); times in seconds from now."""

    minutes: int
    busy: NotRequired[bool]
    due_in: NotRequired[float]
    awake_for: NotRequired[float]
    refused: NotRequired[str | None]


def _mark(head: Host) -> str:
    return f"{MODULE} check {head.layout.root} "


def _settings(head: Host) -> str:
    return f"{head.layout.idle}/settings.json"


def follow_config(head: Host, inventory: Inventory) -> None:
    """Have the head watch, or no longer, as the stack's config says.

    Raises:
        UserError: the head may not deallocate the VMs, or has no cron.
    """
    if inventory.resource_group is None:
        return
    settings = _settings(head)
    if not inventory.idle_minutes:
        if head.exists(settings):
            stop(head)
            head.run(["rm", "-f", "--", settings])
        return
    vms = deallocation.command(head, inventory, asked_by="idle_minutes")[-len(inventory.nodes) :]
    values = {"minutes": inventory.idle_minutes, "vms": list(vms)}
    transfer.put(head, {settings: (json.dumps(values).encode(), 0o644)})
    log = f"{head.layout.idle}/log"
    line = f"* * * * * {head.python} -P -m {_mark(head)}>{log} 2>&1"
    head.run(script(SCHEDULE, _mark(head), line))


def stop(host: Host) -> None:
    """Take our line out of the account's crontab; nothing else is touched."""
    host.run(script(SCHEDULE, _mark(host), ""))


def told(head: Host) -> Idle:
    """What the head is about to do; one that was never told to watch is not asked."""
    return _ask(head, "tell") if head.exists(_settings(head)) else {"minutes": 0}


def stay_awake(head: Host, hours: float) -> Idle:
    """Let it deallocate nothing before `hours` from now; returns what it is then about to do."""
    return _ask(head, "awake", f"{hours:g}")


def _ask(head: Host, what: str, *more: str) -> Idle:
    command = [head.python, "-P", "-m", MODULE, what, head.layout.root, *more]
    finished = head.run(command, check=False)
    if finished.exit_code:
        raise UserError(f"{head.name}: {finished.stderr.strip()[-500:]} (fab bootstrap again?)")
    return answers.read(Idle, finished.stdout, f"{head.name}: idle_minutes")
