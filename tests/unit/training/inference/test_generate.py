"""Which rows pictures are drawn with, and what they are called."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from training.errors import UserError
from training.inference.generate import _slug, learned


def write(folder: Path, *names: str, done: int | None = None) -> None:
    for name in names:
        (folder / f"learned_embeds{name}.safetensors").write_text(name)
    if done is not None:
        line = json.dumps({"event": "done", "time": 1.0, "step": done})
        (folder / "events.jsonl").write_text(f"{line}\n")


def test_the_newest_rows_win(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none yet"):
        learned(tmp_path, None)
    with pytest.raises(UserError, match=f"textual_inversion --resume {tmp_path}"):
        learned(tmp_path, None)
    write(tmp_path, "-steps-4", "-steps-10")
    assert learned(tmp_path, None).stem == "learned_embeds-steps-10"
    write(tmp_path, "", done=10)
    assert learned(tmp_path, None).stem == "learned_embeds"
    write(tmp_path, "-steps-12")  # resumed, and not at its end yet
    assert learned(tmp_path, None).stem == "learned_embeds-steps-12"
    assert learned(tmp_path, 4).stem == "learned_embeds-steps-4"
    write(tmp_path, done=14)
    assert learned(tmp_path, None).stem == "learned_embeds"


def test_final_rows_alone_are_enough(tmp_path: Path) -> None:
    write(tmp_path, "")
    assert learned(tmp_path, None).stem == "learned_embeds"


def test_of_two_formats_the_newer_is_taken(tmp_path: Path) -> None:
    for number, name in enumerate(("learned_embeds", "learned_embeds-steps-4")):
        for age, suffix in enumerate((".bin", ".safetensors")):
            (tmp_path / f"{name}{suffix}").write_text("")
            os.utime(tmp_path / f"{name}{suffix}", (1000 - age, 1000 - age))
        assert learned(tmp_path, [None, 4][number]) == tmp_path / f"{name}.bin"
    line = {"event": "done", "time": 1.0, "step": 4, "paths": ["learned_embeds.safetensors"]}
    (tmp_path / "events.jsonl").write_text(json.dumps(line) + "\n")
    assert learned(tmp_path, None).suffix == ".safetensors"  # as the run itself says


def test_each_prompt_has_a_name_of_its_own() -> None:
    prompts = ["a <x>!", "a <x>?", "ä", "ö", "a" * 70, "a" * 71]
    assert len({_slug(prompt) for prompt in prompts}) == len(prompts)
    assert _slug("A photo").startswith("a-photo-")
