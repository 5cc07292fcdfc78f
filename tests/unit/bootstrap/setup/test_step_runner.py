"""Steps on all nodes at once, on hosts that are folders of this machine."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path

import pytest

from bootstrap.errors import UserError
from bootstrap.inventory.inventory import Node
from bootstrap.setup.step_runner import ClusterStep, Say, Step, run_steps
from bootstrap.ssh.host import Host, local_host


class Seen:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, str]] = []

    def began(self, host: Host, step: str) -> None:
        """See `StepListener`."""

    def said(self, host: Host, text: str) -> None:
        """See `StepListener`."""
        self.events.append((host.name, "said", text))

    def ended(self, host: Host, step: str, seconds: float, error: UserError | None) -> None:
        """See `StepListener`."""
        self.events.append((host.name, step, "failed" if error else "done"))


@pytest.fixture
def hosts(tmp_path: Path) -> list[Host]:
    return [local_host(Node(name, "127.0.0.1"), str(tmp_path / name)) for name in ("a", "b", "c")]


def nothing(host: Host, say: Say) -> None:
    """A step that does nothing."""


def test_all_nodes_run_at_once(hosts: list[Host]) -> None:
    # Each waits for the others: one after another would never end.
    meeting = threading.Barrier(len(hosts), timeout=30)
    assert run_steps(hosts, [Step("meet", lambda host, say: _meet(meeting))], Seen()) == {}


def _meet(meeting: threading.Barrier) -> None:
    meeting.wait()


def test_one_fails_and_the_others_finish(hosts: list[Host]) -> None:
    def work(host: Host, say: Say) -> None:
        host.run("echo before; echo wrong >&2; exit 7" if host.name == "b" else "true")

    seen = Seen()
    failed = run_steps(hosts, [Step("compile", work), Step("after", nothing)], seen)
    assert list(failed) == ["b"]
    said = str(failed["b"])
    assert said.startswith("b: compile failed with exit code 7:")
    assert "wrong" in said
    assert ("a", "after", "done") in seen.events
    assert ("c", "after", "done") in seen.events
    assert ("b", "after", "done") not in seen.events


def test_a_step_after_all_waits_for_the_slowest(hosts: list[Host]) -> None:
    order: list[str] = []
    steps = [
        Step("one", lambda host, say: order.append("one")),
        Step("two", lambda host, say: order.append("two"), after_all=True),
    ]
    run_steps(hosts, steps, Seen())
    assert order == ["one"] * 3 + ["two"] * 3


def test_together_gets_those_that_are_left_and_says_who_failed(hosts: list[Host]) -> None:
    def early(host: Host, say: Say) -> None:
        if host.name == "b":
            raise UserError("early")

    got: list[str] = []

    def copy(left: object, say: object) -> dict[str, UserError]:
        assert isinstance(left, list)
        got.extend(host.name for host in left)
        return {"c": UserError("late")}

    failed = run_steps(hosts, [Step("x", early), ClusterStep("broadcast", copy)], Seen())
    assert got == ["a", "c"]
    assert {name: str(error) for name, error in failed.items()} == {"b": "early", "c": "late"}


def test_what_needs_the_head_does_not_start_without_it(hosts: list[Host]) -> None:
    def early(host: Host, say: Say) -> None:
        if host.name == "a":
            raise UserError("head is ill")

    failed = run_steps(
        hosts, [Step("x", early), ClusterStep("broadcast", lambda h, s: None)], Seen()
    )
    assert sorted(failed) == ["a", "b", "c"]
    assert "waits for a" in str(failed["b"])


def test_an_unreachable_node_is_among_the_failed(hosts: list[Host]) -> None:
    hosts[1] = dataclasses.replace(hosts[1], unreachable=UserError("b does not answer"))
    seen = Seen()
    failed = run_steps(hosts, [Step("x", nothing)], seen)
    assert str(failed["b"]) == "b does not answer"
    assert [event for event in seen.events if event[0] == "b"] == []


def test_a_mistake_of_ours_is_logged_whole_and_said_in_one_line(hosts: list[Host]) -> None:
    lines: list[str] = []
    hosts[0] = dataclasses.replace(hosts[0], log=lines.append)

    def wrong(host: Host, say: Say) -> None:
        if host.name == "a":
            raise KeyError("typo")

    failed = run_steps(hosts, [Step("x", wrong)], Seen())
    assert "a: x failed unexpectedly (KeyError" in str(failed["a"])
    assert any("Traceback" in line for line in lines)


def test_nodes_with_one_home_leave_it_to_the_first(hosts: list[Host]) -> None:
    ran: list[str] = []
    step = Step("x", lambda host, say: ran.append(host.name), each_home=True)
    run_steps(hosts, [step], Seen(), homes={"c": "a"})
    assert sorted(ran) == ["a", "b"]


def test_a_step_is_given_its_own_view_of_a_host(hosts: list[Host]) -> None:
    seen: dict[str, str] = {}

    def look(host: Host, say: Say) -> None:
        seen[f"{host.name} {host.step}"] = host.run("echo here").stdout
        host.hide(["s3cret"])

    run_steps(hosts, [Step("one", look), Step("two", look)], Seen())
    assert set(seen) == {f"{name} {step}" for name in "abc" for step in ("one", "two")}
    assert [host.step for host in hosts] == ["", "", ""]
    assert "***" in hosts[0].run("echo s3cret >&2").stderr
    with pytest.raises(dataclasses.FrozenInstanceError):
        hosts[0].step = "mine"  # type: ignore[misc]
