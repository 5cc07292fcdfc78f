"""A prompt without the run's word is refused before a model is loaded, or anybody is asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from bootstrap.commands.drawing import generate
from bootstrap.errors import UserError
from bootstrap.runs.prompt_check import placeholder_token_of, require_placeholder_token


def test_the_word_of_a_run() -> None:
    assert placeholder_token_of('placeholder_token = "<buddy>"\n[run]\nid = "a"\n') == "<buddy>"
    assert placeholder_token_of("seed = 1") is None
    assert placeholder_token_of("") is None
    assert placeholder_token_of('placeholder_token = "<bu') is None


def test_a_slip_of_the_word_is_named() -> None:
    require_placeholder_token(["a <buddy>", "two <buddy>s and a <other>"], "<buddy>", "x")
    for prompt, said in (
        ("a photo of a <budy>", "is written <buddy>: <budy> is not it."),
        ("a photo of Buddy", "is written <buddy>: Buddy is not it."),
        ("a photo of a cat", "is written <buddy>. Nothing"),
    ):
        with pytest.raises(UserError) as raised:
            require_placeholder_token(["a <buddy>", prompt], "<buddy>", "x")
        assert said in str(raised.value)
        assert prompt in str(raised.value)


def test_one_of_several_words_is_enough_and_a_lora_draws_without_its_word() -> None:
    words = placeholder_token_of('placeholder_token = "<rex>,<teapot>"\n')
    assert words is not None
    require_placeholder_token(["a <rex>", "a <teapot>"], words, "x")
    with pytest.raises(UserError) as raised:
        require_placeholder_token(["a photo of Rex"], words, "x")
    assert "is written <rex> or <teapot>: Rex is not it." in str(raised.value)
    assert placeholder_token_of('placeholder_token = "<rex>"\n[run]\nmethod = "lora"\n') is None


def test_a_fetched_run_is_enough_to_refuse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The cluster is one that nobody could reach."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "x").mkdir(parents=True)
    (tmp_path / "runs" / "x" / "config.toml").write_text('placeholder_token = "<buddy>"\n')
    words = ["--inventory", "nowhere.json", "--run", "x", "--prompt"]
    assert generate.main([*words, "a <budy>"]) == 1
    assert "which is written <buddy>" in capsys.readouterr().err
    assert generate.main([*words, "a <buddy>"]) == 1
    assert "nowhere.json cannot be read" in capsys.readouterr().err
