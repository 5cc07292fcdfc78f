"""What a run reads: brought for it alone, and handed on to a node that has been replaced."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bootstrap.errors import UserError
from bootstrap.runs.flags import TrainOptions
from bootstrap.runs.training_inputs import inputs_of, inputs_of_resumed
from bootstrap.setup import model_and_data
from bootstrap.ssh.host import Host
from tests.integration.bootstrap.setup.test_broadcast import ROOT, folder_host, place

QUIET = Console(quiet=True)
DATA, EMBEDS = f"{ROOT}/data", f"{ROOT}/data/.embeds/rows.safetensors"


@pytest.fixture
def hosts(tmp_path: Path) -> list[Host]:
    (tmp_path / "nodes").mkdir()
    made = [folder_host(f"n{number}", tmp_path / "nodes") for number in range(3)]
    inputs_at(made[0], "models/base")
    return made


def inputs_at(host: Host, name: str, content: str = "x") -> None:
    path = place(host) / name / "0.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def begun(**changes: Any) -> dict[str, Any]:
    model = f"{ROOT}/models/base"
    return {"pretrained_model_name_or_path": model, "train_data_dir": f"{DATA}/mine", **changes}


def test_a_new_head_gets_what_a_worker_has(hosts: list[Host]) -> None:
    inputs_at(hosts[2], "data/mine", "cat")
    embeds = place(hosts[1]) / "data/.embeds/rows.safetensors"
    embeds.parent.mkdir(parents=True)
    embeds.write_text("rows")
    run = begun(initial_embeds=EMBEDS)
    asked = TrainOptions(training={"max_train_steps": 9})
    assert (
        inputs_of_resumed(asked, run, hosts, QUIET, send=False)["train_data_dir"] == f"{DATA}/mine"
    )
    assert not (place(hosts[0]) / "data/mine").exists()
    values = inputs_of_resumed(asked, run, hosts, QUIET)
    assert values == {**run, "max_train_steps": 9}
    for host in hosts:
        assert (place(host) / "data/mine/0.jpg").read_text() == "cat"
        assert (place(host) / "data/.embeds/rows.safetensors").read_text() == "rows"
        assert (place(host) / "models/base/0.jpg").exists()


def test_what_no_node_has_is_asked_for(hosts: list[Host]) -> None:
    with pytest.raises(UserError, match=r"fab bootstrap --train-data-dir mine"):
        inputs_of_resumed(TrainOptions(), begun(), hosts, QUIET)


def test_pictures_given_again_are_sent(hosts: list[Host], tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "0.jpg").write_text("cat")
    asked = TrainOptions(training={"train_data_dir": str(mine)})
    values = inputs_of_resumed(asked, begun(), hosts, QUIET)
    assert values["train_data_dir"] == f"{DATA}/mine"
    assert (place(hosts[2]) / "data/mine/0.jpg").read_text() == "cat"


def test_the_subfolders_of_several_words_reach_every_node(
    hosts: list[Host], tmp_path: Path
) -> None:  # fmt: skip
    for name in ("rex", "10_teapot"):
        (tmp_path / "ours" / name).mkdir(parents=True)
        (tmp_path / "ours" / name / "0.jpg").write_text(name)
        (tmp_path / "ours" / name / "0.txt").write_text(f"a <{name}>")
    record = place(hosts[0]) / "cluster" / "model.json"
    record.write_text(json.dumps({"path": f"{ROOT}/models/base", "source": "a/b", "name": "base"}))
    given = {"train_data_dir": str(tmp_path / "ours"), "placeholder_token": "auto"}
    assert inputs_of(TrainOptions(training=given), hosts, QUIET)["placeholder_token"] == "auto"
    for host in hosts:
        for name in ("rex", "10_teapot"):
            assert (place(host) / "data/ours" / name / "0.jpg").read_text() == name
            assert (place(host) / "data/ours" / name / "0.txt").exists()


def test_pictures_for_one_run_do_not_become_everybodys(
    hosts: list[Host], tmp_path: Path
) -> None:  # fmt: skip
    for name, content in (("of/dicoo", "dicoo"), ("my/dicoo", "mine"), ("my/cat", "cat")):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "0.jpg").write_text(content)
    record = place(hosts[0]) / "cluster" / "model.json"
    record.write_text(json.dumps({"path": f"{ROOT}/models/base", "source": "a/b", "name": "base"}))
    model_and_data.fetch_to_head(
        hosts[0], model_and_data.read_input("pictures", str(tmp_path / "of/dicoo")), print
    )
    known = (place(hosts[0]) / "cluster" / "data.json").read_text()
    for folder, content in (("my/cat", "cat"), ("my/dicoo", "mine"), ("of/dicoo", "dicoo")):
        asked = TrainOptions(training={"train_data_dir": str(tmp_path / folder)})
        there = inputs_of(asked, hosts, QUIET)["train_data_dir"].removeprefix(ROOT)
        for host in hosts:
            assert (Path(f"{place(host)}{there}") / "0.jpg").read_text() == content
        assert (place(hosts[0]) / "cluster" / "data.json").read_text() == known
    shutil.rmtree(tmp_path / "of")
    assert inputs_of(TrainOptions(), hosts, QUIET)["train_data_dir"] == f"{DATA}/dicoo"
    assert (place(hosts[0]) / "data/dicoo/0.jpg").read_text() == "dicoo"
