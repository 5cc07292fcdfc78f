"""A node may say what it likes: nothing is written but below the folder that is meant for it.

What it says here names no place outside a test's own folder: where a test fails, it may be obeyed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bootstrap import answers, names
from bootstrap.commands.drawing import generate
from bootstrap.errors import UserError
from bootstrap.inventory.inventory import Inventory, Node
from bootstrap.node import checkpoints, run_query, run_state, worker_nodes
from bootstrap.node.job import Job, JobNode
from bootstrap.runs import attach, results, results_owner, resume, runs_on_head
from bootstrap.runs.run_messages import Run
from bootstrap.setup import broadcast
from bootstrap.setup.broadcast import Tree
from bootstrap.ssh.host import Host, local_host

CLUSTER = Inventory("c", "file", (Node("n0", "127.0.0.1"),))
OUT = ("../evil", "a/../../evil", "/evil", "a//b", "./a", "..", "", "a/", "a\0b")
SHA256 = "5feceb66ffc86f38d952786c6d696c79c2dbc239dd4e91b46729d73a27fb57e9"  # of "0"
Answer = Callable[..., None]


@pytest.fixture
def head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """This machine, whose environment's Python is a script of the test's; and a person's folder."""
    home = tmp_path / "person" / "here"
    home.mkdir(parents=True)
    monkeypatch.chdir(home)
    return local_host(Node("n0", "127.0.0.1"), str(tmp_path / "root"))


@pytest.fixture
def answer(head: Host) -> Answer:
    """answer(list=..., gather=...): what `bootstrap.runs` says there, as JSON or as it is."""

    def make(**said: Any) -> None:
        python = Path(head.python)
        python.parent.mkdir(parents=True, exist_ok=True)
        cases = []
        for what, value in said.items():
            text = value if isinstance(value, str) else json.dumps(value)
            (python.parent / what).write_text(text)
            cases.append(f'*" {what} "*) cat {python.parent / what} ;;')
        python.write_text(f'#!/bin/sh\ncase " $* " in {" ".join(cases)} *) exit 9 ;; esac\n')
        python.chmod(0o755)

    return make


def a_run(**changes: Any) -> dict[str, Any]:
    return {
        "name": "x", "state": {"phase": "done"}, "began": 1.0, "first_step": 0, "run": None,
        "start": None, "step": None, "images_per_second": None, "restarts": 0, "last_words": "",
        "checkpoint": None, "results_until": 0, "whole_pipeline": False, **changes,
    }  # fmt: skip


def written(tmp_path: Path) -> set[str]:
    """What lies in the person's folders, but the records of what was fetched."""
    person = tmp_path / "person"
    return {
        str(path.relative_to(person)) for path in person.rglob("*")
        if path.is_file() and ".cluster" not in path.parts
    }  # fmt: skip


@pytest.mark.parametrize("name", OUT)
def test_names_that_lead_out(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="n0: lists a file"):
        names.under(tmp_path, name, "n0")


def test_names_that_stay(tmp_path: Path) -> None:
    for name in ("a", "a/b c", "..a", "a/..b..", "größe\n"):
        assert names.under(tmp_path, name, "n0") == tmp_path / name
    (tmp_path / "folder").mkdir()
    (tmp_path / "here").symlink_to(tmp_path / "folder")
    assert names.under(tmp_path / "here", "a", "n0") == tmp_path / "here" / "a"
    (tmp_path / "folder" / "link").symlink_to(tmp_path)
    with pytest.raises(UserError, match="a link leads out of"):
        names.under(tmp_path / "here", "link/a", "n0")


@pytest.mark.parametrize("name", ["../../evil", "/evil", "sub/../../evil"])
def test_a_listing_that_leads_out_writes_nothing(
    head: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    there = tmp_path / "there"
    there.mkdir()
    (there / "good").write_text("0")
    name = name.replace("/evil", f"{tmp_path}/person/evil") if name.startswith("/") else name
    monkeypatch.setattr(
        "bootstrap.ssh.transfer.listing.LIST",
        f"printf '{SHA256} 1 ./good\\0{SHA256} 1 ./%s\\0' {name}",
    )
    with pytest.raises(UserError, match="n0: lists a file"):
        head.fetch(str(there), Path("runs/x"))
    assert written(tmp_path) == set()


def test_records_of_ours_do_not_come_from_a_node(head: Host, tmp_path: Path) -> None:
    there = tmp_path / "there"
    (there / ".hidden").mkdir(parents=True)
    for name in ("good", ".origin", ".hidden/a"):
        (there / name).write_text("0")
    head.fetch(str(there), Path("runs/x"))
    assert written(tmp_path) == {"here/runs/x/good"}


@pytest.mark.parametrize("name", ["../x", "/x", "a b", "", ".x", "x" * 65])
def test_a_runs_name_from_the_head(head: Host, answer: Answer, name: str) -> None:
    answer(list=[a_run(name=name)])
    with pytest.raises(UserError, match="n0: lists a run"):
        runs_on_head.the_run(head, "")


@pytest.mark.parametrize(
    "gathered",
    [
        {"name": "../../evil"}, {"path": "{runs}/elsewhere"}, {"path": "{runs}/.gathered/../x"},
        {"path": "{runs}/.gathered/"}, {"began": "../../evil"}, {"results_until": "many"},
    ],
)  # fmt: skip
def test_what_was_gathered(
    head: Host, answer: Answer, tmp_path: Path, gathered: dict[str, Any]
) -> None:
    place = Path(head.layout.runs) / run_query.GATHERED / "x.1"
    place.mkdir(parents=True)
    (place / "rows").write_text("0")
    good = {"path": str(place), "name": "x", "began": 1.0, "first_step": 0, "run": None,
            "results_until": 5}  # fmt: skip
    wrong = {
        key: value.format(runs=head.layout.runs) if isinstance(value, str) else value
        for key, value in gathered.items()
    }
    answer(gather={**good, **wrong})
    with pytest.raises(UserError, match=r"^n0: "):
        results.fetch_results(head, "c", "x")
    assert written(tmp_path) == set()
    assert (place / "rows").exists()
    answer(gather=good)
    results.fetch_results(head, "c", "x")
    assert written(tmp_path) == {"here/runs/x/rows", "here/runs/x/.origin"}


def test_a_beginning_that_is_no_time_names_no_file(head: Host) -> None:
    folder = Path("runs/x")
    folder.mkdir(parents=True)
    (folder / ".origin").write_text(json.dumps({"cluster": "c", "began": "../../evil"}))
    (folder / "events.jsonl").write_text("")
    with pytest.raises(UserError, match="another run"):
        results_owner.folder_of("c", {"name": "x", "began": 2.0, "first_step": 4, "run": None})
    assert (folder / "events.jsonl").exists()


@pytest.mark.parametrize("path", ["/a/..", "/a/", "/a/\0"])
def test_pictures_that_were_drawn(head: Host, answer: Answer, tmp_path: Path, path: str) -> None:
    answer(list=[a_run()], **{"training.generate": [f"{tmp_path}{path}"]})
    chosen = generate.parser().parse_args(["--prompt", "p"])
    with pytest.raises(UserError, match="n0: lists a file"):
        generate.act(chosen, CLUSTER, [head])


def test_the_run_to_go_on_with(head: Host) -> None:
    for name in ("good", "b ad", "-worse"):
        folder = Path(head.layout.runs) / name
        folder.mkdir(parents=True)
        (folder / "config.toml").write_text("")
    assert [name for _, name in resume._begun(head)] == ["good"]


def test_a_manifest_and_what_is_asked_of_it(
    head: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "tree"
    folder.mkdir()
    (folder / "a").write_text("0")
    good = broadcast.seal(head, str(folder)).manifest
    for name in ("./../../evil", "/evil", "evil", "./a/../b"):
        (tmp_path / "tree.sha256").write_text(f"{SHA256}  {name}\n")
        with pytest.raises(UserError, match="n0: "):
            broadcast.seal(head, str(folder))
    said = handout_of("./a\n--checkpoint-action=exec=evil\n")
    monkeypatch.setattr(Host, "run", lambda *_, **__: said)
    with pytest.raises(UserError, match="asks for '--checkpoint-action"):
        broadcast.missing(head, Tree(str(folder), good))


def handout_of(text: str) -> Any:
    return argparse.Namespace(exit_code=0, stdout=text, stderr="")


@pytest.mark.parametrize(
    "name",
    ["../evil", "/evil", "job.json", "checkpoint-4/../x", "checkpoint-4/a/b", "checkpoint-4",
     "checkpoint-x/a", "checkpoint-4/.x", "learned_embeds-steps-4.x/y",
     "learned_embeds./../x-steps-4.y", "learned_embeds..-steps-4.x"],
)  # fmt: skip
def test_a_neighbours_checkpoint(tmp_path: Path, name: str) -> None:
    name = f"{tmp_path}{name}" if name.startswith("/") else name
    with pytest.raises(UserError, match="is not a file of a checkpoint"):
        checkpoints.import_files(tmp_path / "run", {name: ""})
    assert not (tmp_path / "evil").exists()


def test_a_neighbour_that_talks_nonsense_has_no_checkpoint(tmp_path: Path) -> None:
    ssh = tmp_path / "ssh"
    ssh.write_text('#!/bin/sh\ncat "$(dirname "$0")/said"\n')
    ssh.chmod(0o755)
    nodes = (JobNode("n0", "a", 1), JobNode("n1", "b", 1))
    job = Job("x", str(tmp_path / "root"), nodes, (), ssh=str(ssh))
    for said in ("", "nonsense", "[]", '{"step": "7"}', '{"step": 7}', '{"step": "7", "run": {}}'):
        (tmp_path / "said").write_text(said)
        assert worker_nodes.WorkerNodes(job).newest_on(nodes[1]) is None
        assert worker_nodes.WorkerNodes(job).fetch_newest(nodes) is None


def test_answers_that_are_none(head: Host, answer: Answer) -> None:
    for said in ("nonsense", "{}", "[1]", "", "[" * 10_000, [a_run(results_until="x")]):
        answer(list=said)
        with pytest.raises(UserError, match="n0: its runs: the answer cannot be read"):
            runs_on_head.all_runs(head)
    answer(list=[a_run(step={"step": 1}, start=7)])
    assert runs_on_head.all_runs(head)[0]["step"] is None
    nan = json.dumps([a_run(step={"step": 1, "loss": float("nan"), "images_per_second": 1})])
    assert answers.read(list[Run], nan, "n0")[0]["step"] is not None


def test_results_that_do_not_come_are_told_and_the_code_says_so(head: Host, answer: Answer) -> None:
    follow = "\n".join(
        json.dumps(line)
        for line in (
            {"until": 1, "event": {"event": "step"}}, {"event": 7}, ["state"],
            {"until": 2, "event": {"event": "checkpoint", "step": 4}},
            {"state": {"phase": "done", "reason": ""}},
        )
    )  # fmt: skip
    for gathered in ("nonsense", "[]", "{}"):
        answer(follow=f"{follow}\nnonsense\n", gather=gathered)
        console = Console(record=True, width=300, force_terminal=False)
        assert attach.attach(head, "c", "x", console) == 1
        said = console.export_text()
        assert "not fetched yet: n0: the results of x: the answer cannot be read" in said
        assert "x: done; its results are still on the head: fab fetch" in said
        assert "its results are in" not in said


def test_of_a_long_past_its_end_is_shown(head: Host, answer: Answer) -> None:
    past: list[dict[str, Any]] = [
        {"event": "start", "step": 0, "max_train_steps": 90, "ranks": 2},
        *({"event": "sample", "step": step, "path": "x.png"} for step in range(1, 51)),
    ]
    lines = [{"event": event} for event in past] + [
        {"state": {"phase": "training"}},
        {"event": {"event": "sample", "step": 51, "path": "x.png"}},
        {"state": {"phase": "done"}},
    ]
    answer(follow="\n".join(json.dumps(line) for line in lines), gather="nonsense")
    console = Console(record=True, width=300, force_terminal=False)
    attach.attach(head, "c", "x", console)
    said = console.export_text()
    assert "31 earlier events are not shown: fab logs --all prints everything" in said
    assert "step 0 of 90, 2 ranks" in said
    shown = [step for step in range(1, 52) if f"step {step}: sample" in said]
    assert shown == list(range(31, 52))


def test_whatever_stops_the_thread_that_brings_results_is_told(
    head: Host, answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("out of everything")

    monkeypatch.setattr(results, "fetch_results", broken)
    for phase in ("done", "stopped"):
        answer(follow={"state": {"phase": phase}})
        console = Console(record=True, width=300, force_terminal=False)
        assert attach.attach(head, "c", "x", console) == 1
        said = console.export_text()
        assert "not fetched yet: RuntimeError('out of everything')" in said
        assert "still on the head: fab fetch" in said
    assert run_state.ENDED == ("done", "stopped", "failed")
