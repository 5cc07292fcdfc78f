"""The task list: `fab --list`. Each task is one call into `infra` or `bootstrap`.

The words after a task's name are the task's own, so `fab TASK --help` is its own help: Fabric's
parser knows no -ppn, and no flags that are read from a schema.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from fabric import Connection, task

Command = Callable[[list[str]], int]
COMMANDS: dict[str, Command] = {}


def command(body: Command) -> Any:
    """A task that is given its words as they were typed; it returns the exit status."""
    COMMANDS[body.__name__.replace("_", "-")] = body

    def listed(connection: Connection) -> None:
        sys.exit(body([]))

    listed.__name__, listed.__doc__ = body.__name__, body.__doc__
    return task(listed)


@command
def preflight(words: list[str]) -> int:
    """Check everything that would stop `pulumi up`, before money is spent."""
    from infra.azure import preflight

    return preflight.main(words)


@command
def bootstrap(words: list[str]) -> int:
    """Set up every node, from bare machines to ones that train; can be repeated at any time."""
    from bootstrap.commands import bootstrap

    return bootstrap.main(words, boot_log=_boot_log)


@command
def check(words: list[str]) -> int:
    """Check that every node is as it was set up, and that the nodes reach each other."""
    from bootstrap.commands import check

    return check.main(words)


@command
def tune(words: list[str]) -> int:
    """Find out how the nodes train fastest, in some minutes; fab train takes it from then on."""
    from bootstrap.commands.tuning import tune

    return tune.main(words)


@command
def train(words: list[str]) -> int:
    """Start a training on all nodes and watch it; it continues when you detach."""
    from bootstrap.commands import train

    return train.main(words)


@command
def logs(words: list[str]) -> int:
    """Attach to the running training; its results are copied here as they appear."""
    from bootstrap.commands import logs

    return logs.main(words)


@command
def status(words: list[str]) -> int:
    """Loss, speed, time left, what each node does, money spent, what was not fetched."""
    from bootstrap.commands import status

    return status.main(words, in_azure=_in_azure)


@command
def runs(words: list[str]) -> int:
    """Every run on the head, and what of it is here."""
    from bootstrap.commands import runs

    return runs.main(words)


@command
def ssh(words: list[str]) -> int:
    """Log in to a node with your own ssh, as fab reaches it; default: the head."""
    from bootstrap.commands import ssh

    return ssh.main(words)


@command
def stay_awake(words: list[str]) -> int:
    """Keep the VMs on for some hours although nothing runs, where idle_minutes is set."""
    from bootstrap.commands import stay_awake

    return stay_awake.main(words)


@command
def stop(words: list[str]) -> int:
    """End the run with a checkpoint."""
    from bootstrap.commands import stop

    return stop.main(words)


@command
def fetch(words: list[str]) -> int:
    """Copy a run's results here; --full copies the whole pipeline too."""
    from bootstrap.commands import fetch

    return fetch.main(words)


@command
def generate(words: list[str]) -> int:
    """Draw on the head with what was learned, and copy the pictures here."""
    from bootstrap.commands.drawing import generate

    return generate.main(words)


@command
def export(words: list[str]) -> int:
    """Export a run's result to OpenVINO on the head, and copy the files here."""
    from bootstrap.commands.drawing import export

    return export.main(words)


@command
def playground(words: list[str]) -> int:
    """A page in your browser to try a run's word in, drawn on the head."""
    from bootstrap.commands.drawing import playground

    return playground.main(words)


@command
def pause(words: list[str]) -> int:
    """Deallocate the VMs: the disks stay, the charge for cores stops."""
    from infra.azure import power

    return power.main(["pause", *words])


@command
def resume(words: list[str]) -> int:
    """Start the VMs again and wait until they answer."""
    from infra.azure import power

    return power.main(["resume", *words])


@command
def destroy(words: list[str]) -> int:
    """`pulumi destroy`, after asking about results that were not fetched."""
    from bootstrap.commands import destroy

    return destroy.main(words)


@command
def clean(words: list[str]) -> int:
    """Remove from the nodes what bootstrap and train put there, results included."""
    from bootstrap.commands import clean

    return clean.main(words)


@command
def forget_host(words: list[str]) -> int:
    """Forget a replaced node's host key; the next command shows the new one and asks."""
    from bootstrap.commands import forget_host

    return forget_host.main(words)


def _in_azure(names: Sequence[str]) -> Mapping[str, str]:
    from infra.azure import power_state

    return power_state.of_stack(names)


def _boot_log(names: Sequence[str]) -> Mapping[str, Collection[str]]:
    from infra.azure import boot_log

    return boot_log.of_stack(names)


if Path(sys.argv[0]).name == "fab" and sys.argv[1:2] and sys.argv[1] in COMMANDS:
    sys.exit(COMMANDS[sys.argv[1]](sys.argv[2:]))
