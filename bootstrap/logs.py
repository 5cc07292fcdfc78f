"""`fab logs`: attach to a run: its progress bar, its events, and results as they appear.

The training does not notice whether anybody is attached. Ctrl-C detaches; `fab stop` ends the
run. `--all` prints what the ranks print (supervisor.log) in place of the bar.
"""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from bootstrap import answers, asking, fetch, run_state, runs
from bootstrap.errors import ConnectionLost, UserError
from bootstrap.foreign import say, say_on
from bootstrap.hosts import Host
from bootstrap.inventory import Inventory
from bootstrap.progress import RunProgress
from bootstrap.run_answers import Followed

NOT_YET = "nothing was asked for yet"
GOES_ON = "detached: the training goes on. fab logs attaches again, fab stop ends it."


class Bringer:
    """Brings results home in a thread of its own: while the bar moves, and never twice at once.

    Attributes:
        problem: why not all is here: the last time failed, or there was none; "": all is.
    """

    def __init__(self, head: Host, cluster: str, name: str, progress: RunProgress) -> None:
        self._head, self._cluster, self._name, self._progress = head, cluster, name, progress
        self.problem = NOT_YET
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
                fetch.bring_home(self._head, self._cluster, self._name)
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
    with RunProgress(name, console) as progress, Bringer(head, cluster, name, progress) as bringer:

        def take(line: str) -> None:
            try:
                said = answers.read(Followed, line, head.name)
            except UserError:  # something that Python or its packages print there
                return
            if "state" in said:
                end.clear()
                end.update(said["state"])
                progress.state(dict(said["state"]))
            elif progress.event(said.get("event", {})) in runs.RESULTS:
                bringer.more()

        try:
            asking.ask_head(head, "follow", name, "0", on_line=take)
        except ConnectionLost as error:
            raise UserError(f"The connection is lost, and the training goes on without it: "
                            f"fab logs attaches again. ({error})") from error  # fmt: skip
        bringer.more()
    return ended(end, name, console, fetched=not bringer.problem)


def ended(state: dict[str, Any], name: str, console: Console, fetched: bool = True) -> int:
    """A last word on a run that has ended; 0 where it ended well, and its results are here."""
    phase, reason = state.get("phase"), state.get("reason") or ""
    if phase == "done":
        where = f"are in {fetch.target(name)}/" if fetched else "are still on the head: fab fetch"
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


def act(chosen: argparse.Namespace, inventory: Inventory, hosts: list[Host]) -> int:
    """Attach, or print the whole log."""
    head = hosts[0]
    name = asking.the_run(head, chosen.run)["name"]
    if chosen.all:
        log = f"{head.layout.runs}/{name}/{run_state.LOG}"
        printed = head.read(log).decode("utf-8", "replace")
        say(printed.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n"))
        return 0
    return attach(head, inventory.name, name, Console(stderr=True))


def main(argv: Sequence[str] | None = None) -> int:
    """`fab logs`."""
    parser = asking.parser("logs", __doc__)
    parser.add_argument("--all", action="store_true", help="print everything that ranks printed")
    return asking.run_command(parser.parse_args(argv), act, interrupted=GOES_ON)


if __name__ == "__main__":
    sys.exit(main())
