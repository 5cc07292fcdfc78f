"""Attached to a run: its progress bar, its events, and results as they appear."""

from __future__ import annotations

import threading
from typing import Any

from rich.console import Console

from bootstrap import answers
from bootstrap.errors import ConnectionLost, UserError
from bootstrap.node import run_query
from bootstrap.runs import results, runs_on_head
from bootstrap.runs.run_messages import Followed
from bootstrap.runs.run_names import local_folder
from bootstrap.runs.run_progress import RunProgress
from bootstrap.ssh.host import Host
from bootstrap.terminal import say_on

PAST_SHOWN = 20
"""Events of before one attached that are shown; the bar needs the last start too."""
NOT_YET = "nothing was asked for yet"
GOES_ON = "detached: the training goes on. fab logs attaches again, fab stop ends it."


class ResultsFetcher:
    """Brings results home in a thread of its own: while the bar moves, and never twice at once.

    Attributes:
        problem: why not all is here: the last time failed, or there was none; "": all is.
    """

    def __init__(self, head: Host, cluster: str, name: str, progress: RunProgress) -> None:
        self._head, self._cluster, self._name, self._progress = head, cluster, name, progress
        self.problem = NOT_YET
        self._wanted = threading.Event()
        self._over = False
        self._thread = threading.Thread(target=self._fetch, daemon=True)

    def __enter__(self) -> ResultsFetcher:
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

    def _fetch(self) -> None:
        over = False
        while not over:
            self._wanted.wait()
            self._wanted.clear()
            over = self._over
            try:
                results.fetch_results(self._head, self._cluster, self._name)
                self.problem = ""
            except Exception as error:  # whatever it is, this thread goes on and says so
                said = str(error) if isinstance(error, UserError) else repr(error)
                before, self.problem = self.problem, said.partition("\n")[0]
                if self.problem != before:  # a full disk is full at the next checkpoint too
                    self._progress.note(f"not fetched yet: {self.problem}")


def attach(head: Host, cluster: str, name: str, console: Console) -> int:
    """Show a run until it ends; returns 0 where it ended well and its results came home.

    Raises:
        UserError: the connection broke; the run goes on.
    """
    end: dict[str, Any] = {}
    # What is said before the first state is the past: its end is shown, when it is all there.
    past: list[dict[str, Any]] | None = []
    with (
        RunProgress(name, console) as progress,
        ResultsFetcher(head, cluster, name, progress) as fetcher,
    ):

        def take(line: str) -> None:
            nonlocal past
            try:
                said = answers.read(Followed, line, head.name)
            except UserError:  # something that Python or its packages print there
                return
            if "state" in said:
                if past is not None:
                    for event in _end_of(past, progress):
                        progress.event(event)
                    if any(event.get("event") in run_query.RESULTS for event in past):
                        fetcher.more()
                past = None
                end.clear()
                end.update(said["state"])
                progress.state(dict(said["state"]))
            elif past is not None:
                past.append(said.get("event", {}))
            elif progress.event(said.get("event", {})) in run_query.RESULTS:
                fetcher.more()

        try:
            runs_on_head.ask_head(head, "follow", name, "0", on_line=take)
        except ConnectionLost as error:
            raise UserError(f"The connection is lost, and the training goes on without it: "
                            f"fab logs attaches again. ({error})") from error  # fmt: skip
        fetcher.more()
    return ended(end, name, console, fetched=not fetcher.problem)


def _end_of(past: list[dict[str, Any]], progress: RunProgress) -> list[dict[str, Any]]:
    """The last events, after the last start, and a word on those that are left out."""
    shown, before = past[-PAST_SHOWN:], past[:-PAST_SHOWN]
    if not before:
        return shown
    progress.note(f"{len(before)} earlier events are not shown: fab logs --all prints everything")
    starts = [event for event in before if event.get("event") == "start"]
    return starts[-1:] + shown


def ended(state: dict[str, Any], name: str, console: Console, fetched: bool = True) -> int:
    """A last word on a run that has ended; 0 where it ended well, and its results are here."""
    phase, reason = state.get("phase"), state.get("reason") or ""
    if phase == "done":
        where = f"are in {local_folder(name)}/" if fetched else "are still on the head: fab fetch"
        say_on(console, f"{name}: done; its results {where}")
        return 0 if fetched else 1
    if phase == "stopped":
        where = "" if fetched else " Its results are still on the head: fab fetch."
        say_on(
            console, f"{name}: stopped. {reason} fab train --resume --run {name} goes on.{where}"
        )
        return 0 if fetched else 1
    why = reason or "its supervisor is gone (was the head restarted?)"
    say_on(console, f"{name}: {phase}: {why}")
    say_on(
        console,
        f"What it printed: fab logs --all. fab train --resume --run {name} goes on from the newest "
        "checkpoint.",
    )
    return 1
