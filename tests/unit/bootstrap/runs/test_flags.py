"""`fab train`'s flags: all of the training's, checked against its schema before anything starts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bootstrap.errors import UserError
from bootstrap.paths import CHECKOUT
from bootstrap.runs import flags
from training.config.command_line import parse as training_parses
from training.config.lora import ATTENTION, LoraConfig
from training.config.quantize import QuantizeConfig
from training.config.textual_inversion import TextualInversionConfig

PROG = ("prog", "text")


def test_every_key_of_the_training_is_a_flag() -> None:
    assert set(flags.schema()) == set(TextualInversionConfig.model_fields)
    described = flags.described()
    for key in set(flags.schema()) - set(flags.RESERVED):
        assert f"--{key.replace('_', '-')} " in described


def test_no_flags_are_the_reference_run() -> None:
    asked = flags.parse([])
    words = flags.arguments(asked.complete("/models/sd", "/data/dicoo"))
    config, notices = training_parses(TextualInversionConfig, words, *PROG)
    assert notices == []
    found = config.model_dump()
    assert found | {
        "placeholder_token": "<dicoo>", "initializer_token": "toy", "max_train_steps": 200,
        "learning_rate": 2e-3, "scale_lr": True, "lr_scheduler": "constant", "seed": 7,
        "save_as_full_pipeline": True, "resolution": None, "train_batch_size": 1,
        "gradient_accumulation_steps": 1, "lr_warmup_steps": 0, "mixed_precision": "auto",
        "pretrained_model_name_or_path": "/models/sd", "train_data_dir": Path("/data/dicoo"),
    } == found  # fmt: skip


def test_no_flags_of_lora_are_its_reference_run() -> None:
    asked = flags.parse(["--method", "lora", "--rank", "8"])
    words = flags.arguments(asked.complete("/models/sd", "/data/castles"))
    config, notices = training_parses(LoraConfig, words, *PROG)
    assert notices == []
    found = config.model_dump()
    assert found | {
        "rank": 8, "max_train_steps": 800, "learning_rate": 1e-4, "scale_lr": False, "seed": 7,
        "train_batch_size": 1, "lr_warmup_steps": 0, "lora_layers": ATTENTION,
        "pretrained_model_name_or_path": "/models/sd", "train_data_dir": Path("/data/castles"),
    } == found  # fmt: skip
    assert "[800]" in flags.described("lora")


def test_no_flags_of_quantize_are_its_reference_run() -> None:
    asked = flags.parse(["--method", "quantize", "--merge-tokens", "0.4"])
    words = flags.arguments(asked.complete("/models/sd", "/data/castles"))
    config, notices = training_parses(QuantizeConfig, words, *PROG)
    assert notices == []
    found = config.model_dump()
    assert found | {
        "merge_tokens": 0.4, "max_train_steps": 4096, "learning_rate": 1e-5, "use_ema": True,
        "gradient_checkpointing": True, "checkpoints_total_limit": 2, "mixed_precision": "no",
        "pretrained_model_name_or_path": "/models/sd", "train_data_dir": Path("/data/castles"),
    } == found  # fmt: skip
    assert "[4096]" in flags.described("quantize")


@pytest.mark.parametrize("words", ["auto", "<rex>,<teapot>"])
def test_several_words_each_start_from_their_own_name(words: str) -> None:
    asked = flags.parse(["--placeholder-token", words])
    given = flags.arguments(asked.complete("/models/sd", "/data/ours"))
    config, _ = training_parses(TextualInversionConfig, given, *PROG)
    assert (config.placeholder_token, config.initializer_token) == (words, None)
    asked = flags.parse(["--placeholder-token", words, "--initializer-token", "toy"])
    assert asked.complete("/models/sd", "/data/ours")["initializer_token"] == "toy"


def test_a_word_and_a_lora_in_one_run_are_two_flags_more() -> None:
    words = ["--method", "lora", "--train-text-encoder-ti", "--placeholder-token", "<rex>",
             "--initializer-token", "dog", "--max-train-steps-ti", "100"]  # fmt: skip
    given = flags.arguments(flags.parse(words).complete("/models/sd", "/data/rex"))
    config, notices = training_parses(LoraConfig, given, *PROG)
    assert notices == []
    assert config.train_text_encoder_ti
    assert [concept.placeholder_token for concept in config.concepts] == ["<rex>"]
    assert (config.max_train_steps_ti, config.max_train_steps) == (100, 800)


def test_dashes_underscores_equals_and_repetition() -> None:
    asked = flags.parse(
        ["--max-train-steps", "50", "--learning_rate=1e-3", "--scale-lr", "--seed", "3", "-n", "4",
         "-ppn", "2", "--validation-prompt", "a <x>", "--validation-prompt=b", "--dry-run",
         "--max-grad-norm", "none", "--center-crop", "false"]
    )  # fmt: skip
    assert asked.own == {"n": 4, "ppn": 2, "dry_run": True}
    assert asked.training == {
        "max_train_steps": 50, "learning_rate": 1e-3, "scale_lr": True, "seed": 3,
        "validation_prompt": ["a <x>", "b"], "max_grad_norm": "none", "center_crop": False,
    }  # fmt: skip
    words = flags.arguments(asked.complete("/m", "/d"))
    config, _ = training_parses(TextualInversionConfig, words, *PROG)
    assert config.validation_prompt == ["a <x>", "b"]
    assert config.max_grad_norm is None


def test_all_errors_at_once_with_the_nearest_name() -> None:
    with pytest.raises(UserError) as caught:
        flags.parse(
            ["--max-trian-steps", "5", "--learning-rate", "-1", "--lr-scheduler", "cosin", "foo",
             "--seed", "x", "--output-dir", "/x", "--hub-token", "hf_secret", "--tries"]
        )  # fmt: skip
    text = str(caught.value)
    assert text.startswith("8 errors in the flags:")
    for line in (
        "--max-trian-steps: no such flag; did you mean --max-train-steps?",
        "--learning-rate -1: must be more than 0",
        "did you mean cosine?",
        "foo: not a flag and not the value of one",
        "--seed x: must be a whole number",
        "--output-dir: the run's folder is runs/NAME: use --run NAME",
        "--tries: its value is missing",
    ):
        assert f"- {line}" in text or line in text
    assert "hf_secret" not in text


def test_a_file_replaces_the_reference_run(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'placeholder_token = "<mine>"\ninitializer_token = "cat"\nmax_train_steps = 9\n'
    )
    asked = flags.parse(["--config", str(path), "--max-train-steps", "10"])
    values = asked.complete("/m", "/d")
    assert values == {
        "placeholder_token": "<mine>", "initializer_token": "cat", "max_train_steps": 10,
        "pretrained_model_name_or_path": "/m", "train_data_dir": "/d",
    }  # fmt: skip


def test_a_files_errors_are_told_with_the_flags(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('max_train_step = 9\nseed = -1\nlr_scheduler = "cosine"\n')
    with pytest.raises(UserError) as caught:
        flags.parse(["--config", str(path), "--nn", "3"])
    text = str(caught.value)
    assert "max_train_step: no such key; did you mean max_train_steps?" in text
    assert "seed = -1: must be at least 0" in text
    assert "--nn: no such flag" in text
    with pytest.raises(UserError, match="cannot be read"):
        flags.parse(["--config", str(tmp_path / "absent.toml")])
    path.write_text("a = [")
    with pytest.raises(UserError, match="not valid TOML"):
        flags.parse(["--config", str(path)])


def test_bootstrap_does_not_import_training() -> None:
    import ast

    for path in sorted((CHECKOUT / "bootstrap").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.partition(".")[0] not in ("training", "torch", "infra"), path.name


def test_a_method_has_the_flags_of_its_schema(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for method, key in (("textual_inversion", "placeholder_token"), ("lora", "rank")):
        text = json.dumps({"properties": {key: {"type": "string", "description": "x"}}})
        (tmp_path / f"{method}.schema.json").write_text(text)
    monkeypatch.setattr(flags, "TRAINING", tmp_path)
    asked = flags.parse(["--method", "lora", "--rank=4"])
    assert asked.method == "lora"
    assert asked.training == {"rank": "4"}
    assert set(asked.complete("/m", "/d")) == {
        "rank", "pretrained_model_name_or_path", "train_data_dir",
    }  # fmt: skip
    assert "--rank " in flags.described("lora")
    with pytest.raises(UserError, match="--placeholder-token: no such flag"):
        flags.parse(["--method=lora", "--placeholder-token=<x>"])
    with pytest.raises(UserError, match="--method loar: must be one of lora, textual_inversion"):
        flags.parse(["--method", "loar"])


def test_textual_inversion_is_trained_when_nobody_says_otherwise() -> None:
    assert flags.parse([]).method == "textual_inversion"
    assert flags.parse(["--method", "textual_inversion"]).complete("/m", "/d") == flags.parse(
        []
    ).complete("/m", "/d")


def test_an_unknown_flag_takes_its_value_along_and_a_method_is_read_in_either_way() -> None:
    with pytest.raises(UserError) as caught:
        flags.parse(["-x", "3", "--metod=x", "--validation-prompt", "--n", "0", "--dry_run=maybe"])
    assert str(caught.value).splitlines()[1:-1] == [
        "  - -x: no such flag",
        "  - --metod: no such flag; did you mean --method?",
        "  - --validation-prompt: its value is missing",
        "  - --n 0: must be at least 1",
        "  - --dry-run maybe: must be true or false",
    ]
    for words in (["--method", "lora"], ["--seed", "1", "--method=lora"]):
        assert flags.method_in(words) == "lora"


def test_help_has_every_flag_once_with_its_default() -> None:
    text = flags.described()
    assert text.startswith("fab train takes:\n  --inventory  ")
    assert "\n  -n  " in text
    assert text.count("--max-train-steps  ") == 1
    assert "[200]" in text
    assert "--output-dir" not in text
