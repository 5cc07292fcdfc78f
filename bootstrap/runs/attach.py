"""Attached to a run: its progress bar, its events, and results as they appear."""

from __future__ import annotations

import json
import threading
from typing import Any

from rich.console import Console

from bootstrap.errors import ConnectionLost, UserError
from bootstrap.runs import results, runs_on_head
from bootstrap.runs.run_names import local_folder
from bootstrap.runs.run_progress import RunProgress
from bootstrap.ssh.host import Host
from bootstrap.terminal import say_on

GOES_ON = "detached: the training goes on. fab logs attaches again, fab stop ends it."


class Bringer:
    """Brings results home in a thread of its own: while the bar moves, and never twice at once.

    Attributes:
        problem: why the last time failed; "": it did not.
    """

    def __init__(self, head: Host, cluster: str, name: str, progress: RunProgress) -> None:
        self._head, self._cluster, self._name, self._progress = head, cluster, name, progress
        self.problem = ""
        self._wanted = threading.Event()
        self._over = False
        self._thread = threading.Thread(target=self._bring, daemon=True)

    def __enter__(self) -> Bringer:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over = True
        self._wanted.set()
        if error[0] is None:
            self._thread.join()

    def more(self) -> None:
        """There is something new."""
        self._wanted.set()

    def _bring(self) -> None:
        over = False
        while not over:
            self._wanted.wait()
            self._wanted.clear()
            over = self._over
            try:
                results.bring_home(self._head, self._cluster, self._name)
                self.problem = ""
            except UserError as error:
                before, self.problem = self.problem, str(error).splitlines()[0]
                if self.problem != before:  # a full disk is full at the next checkpoint too
                    self._progress.note(f"not fetched yet: {self.problem}")


def attach(head: Host, cluster: str, name: str, console: Console) -> int:
    """Show a run until it ends; returns 0 where it ended well.

    Raises:
        UserError: the connection broke; the run goes on.
    """
    end: dict[str, Any] = {}
    with RunProgress(name, console) as progress, Bringer(head, cluster, name, progress) as bringer:

        def take(line: str) -> None:
            try:
                said = json.loads(line)
            except ValueError:
                return
            if "state" in said:
                end.clear()
                end.update(said["state"])
                progress.state(said["state"])
            elif "event" in said:
                progress.event(said["event"])
                if said["event"]["event"] in ("checkpoint", "sample", "done", "stopped"):
                    bringer.more()

        try:
            runs_on_head.ask_head(head, "follow", name, "0", on_line=take)
        except ConnectionLost as error:
            raise UserError(f"The connection is lost, and the training goes on without it: "
                            f"fab logs attaches again. ({error})") from error  # fmt: skip
        bringer.more()
    return ended(end, name, console, fetched=not bringer.problem)


def ended(state: dict[str, Any], name: str, console: Console, fetched: bool = True) -> int:
    """A last word on a run that has ended."""
    phase, reason = state.get("phase"), state.get("reason") or ""
    if phase == "done":
        where = f"are in {local_folder(name)}/" if fetched else "are still on the head: fab fetch"
        say_on(console, f"{name}: done; its results {where}")
        return 0
    if phase == "stopped":
        say_on(console, f"{name}: stopped. {reason} fab train --resume --run {name} goes on.")
        return 0
    why = reason or "its supervisor is gone (was the head restarted?)"
    say_on(console, f"{name}: {phase}: {why}")
    say_on(
        console,
        f"What it printed: fab logs --all. fab train --resume --run {name} goes on from the newest "
        "checkpoint.",
    )
    return 1
