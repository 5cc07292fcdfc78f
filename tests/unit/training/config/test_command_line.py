"""From flags and a TOML file to a configuration, or one message with every error."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from training.config.command_line import GPU_ONLY, SUPERSEDED, build_parser, parse
from training.config.quantize import QuantizeConfig
from training.config.textual_inversion import TextualInversionConfig
from training.errors import UserError
from training.method import Method
from training.program import run_program
from training.textual_inversion import main

REQUIRED = [
    "--pretrained_model_name_or_path=model", "--train_data_dir=pictures",
    "--placeholder_token=<new>", "--initializer_token=toy",
]  # fmt: skip


def read(*flags: str) -> TextualInversionConfig:
    return parse(TextualInversionConfig, [*REQUIRED, *flags], "prog", "")[0]


def complaint(*flags: str) -> str:
    with pytest.raises(UserError) as raised:
        read(*flags)
    return str(raised.value)


def test_flags_take_a_space_or_an_equals_sign() -> None:
    assert read("--max_train_steps", "7", "--seed=5").max_train_steps == 7


def test_a_switch_is_on_alone_and_takes_true_and_false() -> None:
    assert read("--center_crop").center_crop
    assert read("--center_crop", "true").center_crop
    assert not read("--center_crop", "false").center_crop
    assert read("--center_crop", "--scale_lr").scale_lr


def test_several_prompts_follow_one_flag() -> None:
    prompts = read("--validation_prompt", "a <new>", "a red <new>").validation_prompt
    assert prompts == ["a <new>", "a red <new>"]


def test_none_counts_epochs_instead_of_steps() -> None:
    assert read("--max_train_steps", "none").max_train_steps is None


def test_every_error_is_in_one_message_with_the_nearest_name() -> None:
    found = complaint("--learning_rat=1", "--seed=-4", "--resolution=12", "--train-batch-size=2")
    assert found.startswith("4 errors in the configuration:\n")
    assert "--learning_rat: no such flag; did you mean --learning_rate?" in found
    assert "--train-batch-size: no such flag; did you mean --train_batch_size?" in found
    assert "seed = '-4': input should be greater than or equal to 0" in found
    assert "resolution = '12': must be a multiple of 8; the nearest is 16" in found
    assert "prog --help lists every key." in found


def test_an_error_of_several_keys_is_told_without_their_values() -> None:
    flags = [*REQUIRED[:2], "--task_loss_weight=0", "--distillation_loss_weight=0"]
    with pytest.raises(UserError) as raised:
        parse(QuantizeConfig, flags, "prog", "")
    assert "\n  - task_loss_weight and distillation_loss_weight are both 0: " in str(raised.value)


def test_a_key_without_a_value_is_told_without_one() -> None:
    with pytest.raises(UserError) as raised:
        parse(TextualInversionConfig, REQUIRED[:3], "prog", "")
    assert "\n  - initial_embeds: give initializer_token (a word) or" in str(raised.value)


def test_an_abbreviation_is_not_a_flag() -> None:
    assert "--max_train: no such flag; did you mean --max_train_steps?" in complaint(
        "--max_train=1"
    )


def test_a_word_that_belongs_to_no_flag_is_named() -> None:
    assert "pictures2: not a flag and not the value of one" in complaint("--seed", "1", "pictures2")


def test_missing_keys_are_explained() -> None:
    with pytest.raises(UserError) as raised:
        parse(TextualInversionConfig, [], "prog", "")
    for name in ("pretrained_model_name_or_path", "placeholder_token", "train_data_dir"):
        assert f"{name}: is required. " in str(raised.value)


@pytest.mark.parametrize("flags", [["--learning_rate"], ["--seed", "--center_crop"], ["--config"]])
def test_a_flag_without_its_value_is_one_message(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*REQUIRED, *flags]) == 2
    found = capsys.readouterr().err
    assert found.startswith("error: ")
    assert flags[0] in found
    assert "expected one argument" in found


@pytest.mark.parametrize("name", GPU_ONLY | SUPERSEDED)
def test_flags_for_gpus_and_superseded_ones_get_one_line(name: str) -> None:
    _, notices = parse(TextualInversionConfig, [*REQUIRED, f"--{name}"], "prog", "")
    (notice,) = notices
    assert notice.startswith(f"--{name} is ignored: ")
    assert "\n" not in notice


def test_a_gpu_flag_does_not_swallow_the_next() -> None:
    assert read("--allow_tf32", "--seed", "4").seed == 4


def test_fp16_is_refused_with_the_reason() -> None:
    found = complaint("--mixed_precision=fp16")
    assert "mixed_precision = 'fp16': fp16 is for GPUs; use bf16, no (fp32) or auto" in found


def test_a_file_gives_keys_and_flags_win(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('seed = 4\nresolution = 64\nvalidation_prompt = ["a <new>", "my <new>"]\n')
    found = read("--config", str(file), "--seed", "5")
    assert (found.seed, found.resolution) == (5, 64)
    assert found.validation_prompt == ["a <new>", "my <new>"]


def test_the_record_of_a_run_is_a_file_of_keys(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("seed = 4\n[run]\nseed = 9\n")
    assert read("--config", str(file)).seed == 4


def test_a_run_is_resumed_with_its_own_record_and_flags_win(tmp_path: Path) -> None:
    record = tmp_path / "config.toml"
    record.write_text(
        'pretrained_model_name_or_path = "model"\ntrain_data_dir = "pictures"\nseed = 4\n'
        'placeholder_token = "<new>"\ninitializer_token = "toy"\nmax_train_steps = 6\n'
        'output_dir = "where it was"\n[run]\nseed = 9\n'
    )
    resume = ["--resume", str(tmp_path)]
    found, _ = parse(TextualInversionConfig, [*resume, "--max_train_steps=9"], "prog", "")
    as_by_hand = [
        f"--config={record}", "--resume_from_checkpoint=latest", f"--output_dir={tmp_path}",
        "--max_train_steps=9",
    ]  # fmt: skip
    assert found == parse(TextualInversionConfig, as_by_hand, "prog", "")[0]
    for other in ("--config", "--output_dir"):
        with pytest.raises(UserError, match=f"--resume .*no {other}"):
            parse(TextualInversionConfig, [*resume, f"{other}=there"], "prog", "")
    with pytest.raises(UserError, match=r"--resume .*: holds no run"):
        parse(TextualInversionConfig, ["--resume", str(tmp_path / "absent")], "prog", "")


def test_errors_in_flags_and_file_are_told_together(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('learning_rte = 1\nseed = "many"\n[tables]\nseed = 4\n')
    found = complaint("--config", str(file), "--lr_scheduler=linaer")
    assert found.startswith(f"4 errors in the configuration (flags and {file}):")
    assert "learning_rte: no such key; did you mean learning_rate?" in found
    assert "tables: no such key" in found
    assert "seed = 'many': input should be a valid integer" in found
    assert "lr_scheduler = 'linaer': input should be 'linear', 'cosine'" in found


@pytest.mark.parametrize(
    "content", [b"seed = \n", b"seed: 4\n", b"\xff\xfe\x00", b"seed = 1\nseed = 2"]
)
def test_a_file_that_is_not_toml_is_named(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_bytes(content)
    assert f"--config {file}: is not valid TOML" in complaint("--config", str(file))


@pytest.mark.parametrize("where", ["", "absent.toml"])
def test_a_file_that_cannot_be_read_is_named(where: str, tmp_path: Path) -> None:
    found = complaint("--config", str(tmp_path / where))
    assert found.startswith(f"--config {tmp_path / where}: cannot be read (")


def test_help_lists_every_key_with_its_default_and_its_choices() -> None:
    parser = build_parser(TextualInversionConfig, "prog", "What it does.")
    text = " ".join(parser.format_help().split())
    for name, field in TextualInversionConfig.model_fields.items():
        assert f"--{name} " in text
        if field.is_required():
            assert f"{field.description} [required]" in text
        elif field.default is None or field.default is False:
            assert f"{field.description} " in text
        else:
            assert f"{field.description} [default: {field.default}]" in text
    assert "auto|no|bf16" in text
    assert "{}" not in text
    assert "default: None" not in text
    assert "default: False" not in text
    assert "true|false" not in text


def test_help_and_config_errors_do_not_import_torch() -> None:
    code = (
        "import sys; from training.textual_inversion import main\n"
        "assert main(['--sed=1']) == 2\n"
        "try: main(['--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "assert 'torch' not in sys.modules and 'diffusers' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("error:") == 1
    assert "--learning_rate" in done.stdout


@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_line_is_shown_before_the_seconds_of_importing(
    rank: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"RANK": rank, "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    shown: list[str] = []

    def imports() -> type[Method]:
        shown.append(capsys.readouterr().err)
        raise UserError("that is enough")

    with pytest.raises(UserError, match="that is enough"):
        run_program(TextualInversionConfig, imports, REQUIRED, "prog", "")
    assert shown == ["loading PyTorch and diffusers\n" if rank == "0" else ""]


def test_only_the_first_rank_complains(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert main(["--sed=1"]) == 2
    assert capsys.readouterr().err == ""
