"""What a run leaves in its folder, and that the tools people use can read it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import CLIPTokenizer

from tests.tiny_model import make_tiny_model
from tests.training_fixtures import Flags
from training.config.groups import LrScheduler
from training.generate import main as generate_main
from training.inference.generate import learned
from training.loop import train
from training.storage.events import read_events
from training.storage.run_directory import read_config
from training.textual_inversion import main


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


def rows(folder: Path, name: str = "learned_embeds.safetensors") -> torch.Tensor:
    (found,) = load_file(folder / name).values()
    return found


def listing(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [event for event in read_events(folder) if event["event"] == kind]


def ran(argv: list[str]) -> None:
    assert main(argv) == 0


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def test_a_short_run_leaves_exactly_this(flags: Flags, folder: Path) -> None:
    ran(flags(validation_prompt="a <new>", num_validation_images=2, num_inference_steps=2,
              validation_steps=5, save_steps=3, evaluation_steps=3))  # fmt: skip
    assert listing(folder) == sorted(
        [
            ".lock", "config.toml", "events.jsonl", "learned_embeds.safetensors", "loss.png",
            "report.html", "samples/comparison.png",
            *(f"learned_embeds-steps-{n}.safetensors" for n in (2, 3, 4, 5, 6)),
            *(f"checkpoint-{n}/{name}" for n in (2, 4, 6)
              for name in ("state.json", "state.safetensors")),
            *(f"samples/step-{n:06d}/prompt-0-seed-{seed}.png" for n in (0, 2, 4, 5, 6)
              for seed in (3, 4)),
        ]
    )  # fmt: skip
    final = load_file(folder / "learned_embeds.safetensors")
    assert list(final) == ["<new>"]
    assert final["<new>"].shape == (1, 32)
    assert torch.equal(final["<new>"], rows(folder, "learned_embeds-steps-6.safetensors"))
    assert not torch.equal(final["<new>"], rows(folder, "learned_embeds-steps-4.safetensors"))
    assert [event["step"] for event in events(folder, "step")] == [1, 2, 3, 4, 5, 6]
    assert [event["step"] for event in events(folder, "evaluation")] == [0, 3, 6]
    assert [event["step"] for event in events(folder, "checkpoint")] == [2, 4, 6]
    assert events(folder, "done")[0]["paths"] == ["learned_embeds.safetensors"]
    config, record = read_config(folder)
    assert config.validation_prompt == ["a <new>"]
    assert (record.seed, record.global_batch, record.dtype) == (3, 1, "float32")


def test_a_comparison_that_cannot_be_made_fails_no_finished_run(
    flags: Flags, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise OSError("the disk is away")

    monkeypatch.setattr("training.outputs.results.write_comparison", broken)
    ran(flags(max_train_steps=2))
    assert "no samples/comparison.png: the disk is away" in capsys.readouterr().err
    assert (folder / "report.html").exists()
    assert [event["event"] for event in read_events(folder)][-1] == "done"


def test_latents_are_kept_in_the_run_folder_by_default(
    flags: Flags, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran(flags(latents_cache_dir=None, max_train_steps=1))
    said = [line for line in capsys.readouterr().err.splitlines() if "encoding" in line]
    assert said == [f"encoding pictures: {n} of 5" for n in range(6)]  # once with its mirror image
    assert len(list((folder / "latents").glob("*.safetensors"))) == 10
    before = {path: path.stat().st_mtime_ns for path in (folder / "latents").iterdir()}
    ran([*flags(latents_cache_dir=None, max_train_steps=2), "--overwrite_output_dir"])
    assert {path: path.stat().st_mtime_ns for path in (folder / "latents").iterdir()} == before


def test_pictures_are_drawn_with_the_same_seeds_and_change(flags: Flags, folder: Path) -> None:
    prompts = ["--validation_prompt", "a <new>", "a dog"]
    ran([*flags(num_validation_images=1, num_inference_steps=2,
                checkpointing_steps=6, learning_rate=1.0), *prompts])  # fmt: skip
    drawn = {
        (event["prompt"], event["step"]): np.asarray(Image.open(folder / event["path"]))
        for event in events(folder, "sample")
    }
    assert set(drawn) == {(prompt, step) for prompt in ("a <new>", "a dog") for step in (0, 6)}
    assert all(picture.shape == (32, 32, 3) for picture in drawn.values())
    assert np.array_equal(drawn["a dog", 0], drawn["a dog", 6])
    assert not np.array_equal(drawn["a <new>", 0], drawn["a <new>", 6])


def test_only_so_many_checkpoints_are_kept_and_all_rows_are(flags: Flags, folder: Path) -> None:
    ran(flags(checkpoints_total_limit=1))
    assert [path.name for path in folder.glob("checkpoint-*")] == ["checkpoint-6"]
    assert len(list(folder.glob("learned_embeds-steps-*"))) == 3


def test_a_limit_given_at_the_runs_end_is_kept_to(flags: Flags, folder: Path) -> None:
    ran(flags())
    ran(flags(resume_from_checkpoint="latest", checkpoints_total_limit=2))
    assert sorted(p.name for p in folder.glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-6"]


@pytest.mark.parametrize("vectors", [1, 2])
def test_the_whole_pipeline_has_the_learned_rows_and_the_base_models_others(
    vectors: int, flags: Flags, folder: Path, tiny_model: Path
) -> None:
    ran([*flags(num_vectors=vectors), "--save_as_full_pipeline"])
    saved = StableDiffusionPipeline.from_pretrained(folder)
    base = StableDiffusionPipeline.from_pretrained(tiny_model)
    words = len(base.tokenizer)
    tokens = ["<new>", "<new>_1"][:vectors]
    assert saved.tokenizer.convert_tokens_to_ids(tokens) == [words, words + 1][:vectors]
    table = saved.text_encoder.get_input_embeddings().weight.detach()
    assert len(table) == words + vectors
    assert torch.equal(table[words:], rows(folder))
    assert torch.equal(table[:words], base.text_encoder.get_input_embeddings().weight)
    for part in ("unet", "vae"):
        for (name, found), wanted in zip(
            getattr(saved, part).state_dict().items(),
            getattr(base, part).state_dict().values(),
            strict=True,
        ):
            assert torch.equal(found, wanted), name
    picture = saved("a <new>", height=32, width=32, num_inference_steps=1, output_type="np").images
    assert np.isfinite(picture).all()
    assert not list(folder.glob(".*.partial"))
    assert not (folder / ".pipeline").exists()


def test_the_saved_pipeline_refuses_the_same_word_again(
    flags: Flags, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran([*flags(max_train_steps=1), "--save_as_full_pipeline"])
    capsys.readouterr()
    again = {"pretrained_model_name_or_path": folder, "output_dir": tmp_path / "again"}
    assert main(flags(**again)) == 2
    assert "'<new>' is already a token" in capsys.readouterr().err
    ran(flags(**again, placeholder_token="<other>", max_train_steps=1))


def test_tensorboard_reads_the_logs(flags: Flags, folder: Path) -> None:
    ran(flags(report_to="tensorboard", validation_prompt="a <new>", num_validation_images=1,
              num_inference_steps=1, evaluation_steps=3))  # fmt: skip
    (log,) = {path.parent for path in (folder / "logs").rglob("events.out.*")
              if path.parent.name == "textual_inversion"}  # fmt: skip
    found = EventAccumulator(str(log)).Reload()
    losses = found.Scalars("loss")
    assert [scalar.step for scalar in losses] == [1, 2, 3, 4, 5, 6]
    assert [scalar.value for scalar in losses] == pytest.approx(
        [event["loss"] for event in events(folder, "step")]
    )
    assert [scalar.step for scalar in found.Scalars("evaluation_loss")][-1] == 6
    assert [image.step for image in found.Images("validation")] == [0, 2, 4, 6]
    captions = found.Tensors("validation/text_summary")[0].tensor_proto.string_val
    assert captions == [b"0: a <new>"]


TRACKER = """
import json, types

__version__ = "3.50"


def note(*what):
    with open({log!r}, "a") as file:
        file.write(json.dumps(what) + "\\n")


class Image:
    def __init__(self, picture, caption):
        self.shown = [picture.size, caption]


class Run:
    last = 0

    def log(self, values, step=None):
        if step is not None and step < self.last:
            return  # as wandb does
        self.last = step or self.last
        if "evaluation_loss" in values:
            note("wandb", "evaluation_loss", step)
        for key in values.keys() & {{"validation"}}:
            note("wandb", key, step, [image.shown for image in values[key]])

    def log_image(self, picture, name, step):
        note("comet_ml", name, step, picture.size)

    def __getattr__(self, name):
        return lambda *arguments, **named: None


init = start = lambda **named: Run()
config = Run()
"""
"""Stands for wandb and for comet_ml, which log to services that are not at hand."""


@pytest.mark.parametrize("tracker", ["wandb", "comet_ml"])
def test_pictures_reach_the_tracker_with_their_captions(
    tracker: str, flags: Flags, tmp_path: Path
) -> None:
    """In a process of its own: accelerate looks for trackers when it is imported."""
    log = tmp_path / "log.jsonl"
    package = tmp_path / "packages" / tracker
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(TRACKER.format(log=str(log)))
    (tmp_path / "packages" / f"{tracker}-3.50.dist-info").mkdir()
    (tmp_path / "packages" / f"{tracker}-3.50.dist-info" / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {tracker}\nVersion: 3.50\n"
    )
    argv = flags(report_to=tracker, num_validation_images=1, num_inference_steps=1,
                 max_train_steps=1)  # fmt: skip
    finished = subprocess.run(
        [sys.executable, "-m", "training.textual_inversion", *argv, "--validation_prompt",
         "a <new>", "a dog"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path / 'packages'}:{Path.cwd()}"},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    found = [json.loads(line) for line in log.read_text().splitlines()]
    if tracker == "wandb":
        shown = [[[32, 32], "0: a <new>"], [[32, 32], "1: a dog"]]
        assert found == [
            each
            for step in (0, 1)
            for each in (["wandb", "evaluation_loss", step], ["wandb", "validation", step, shown])
        ]
    else:
        assert found == [
            ["comet_ml", f"validation {caption}", step, [32, 32]]
            for step in (0, 1) for caption in ("0: a <new>", "1: a dog")
        ]  # fmt: skip


def test_a_tracker_that_is_not_installed_is_named(
    flags: Flags, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags(report_to="wandb")) == 2
    found = capsys.readouterr().err
    assert found.count("error:") == 1
    assert "report_to wandb: " in found


def test_several_vectors_are_all_learned(flags: Flags, folder: Path) -> None:
    ran(flags(num_vectors=3))
    found = rows(folder)
    assert found.shape == (3, 32)
    assert not torch.equal(found[0], found[1])
    assert not torch.equal(found[1], found[2])


@pytest.mark.parametrize("word", ["<new>", "<New>", "new"])
def test_every_picture_is_drawn_with_all_rows_of_the_word_once(
    word: str, flags: Flags, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ids that the text encoder is given, in training's samples and by `generate`."""
    given: list[list[int]] = []
    encode = StableDiffusionPipeline.encode_prompt

    def watched(pipeline: Any, *arguments: Any, **named: Any) -> Any:
        def note(module: Any, positional: Any, keywords: Any) -> None:
            given.extend((positional[0] if positional else keywords["input_ids"]).tolist())

        hook = pipeline.text_encoder.register_forward_pre_hook(note, with_kwargs=True)
        try:
            return encode(pipeline, *arguments, **named)
        finally:
            hook.remove()

    monkeypatch.setattr(StableDiffusionPipeline, "encode_prompt", watched)
    drawn = {"num_validation_images": 1, "num_inference_steps": 1, "max_train_steps": 1}
    ran(flags(placeholder_token=word, num_vectors=3, validation_prompt=f"a red {word}, toy",
              **drawn))  # fmt: skip
    in_training = len(given)
    assert generate_main([str(folder), "--prompt", f"a red {word}, toy"]) == 0
    tokenizer = CLIPTokenizer.from_pretrained(read_config(folder)[0].model_name + "/tokenizer")
    words = len(tokenizer)
    before, after = (
        tokenizer.encode(text, add_special_tokens=False) for text in ("a red", ", toy")
    )
    ids = [tokenizer.bos_token_id, *before, words, words + 1, words + 2, *after]
    wanted = ids + [tokenizer.pad_token_id] * (tokenizer.model_max_length - len(ids))
    with_word = [sequence for sequence in given if max(sequence) >= words]
    assert with_word == [wanted] * 3  # before step 1, after it, and by generate
    assert in_training < len(given)


def test_generate_draws_long_prompts_whole_and_refuses_unknown_words(
    flags: Flags, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran(flags(num_vectors=2, max_train_steps=1))
    ask = [str(folder), "--num_inference_steps=1", "--prompt"]
    for number, prompt in enumerate((f"a <new>{' red' * 30} cat", f"{'red ' * 30}<new>"), 1):
        assert generate_main([*ask, prompt]) == 0
        assert "prompt " not in capsys.readouterr().err
        assert len(list((folder / "generated").iterdir())) == number
    assert generate_main([*ask, "a <nwe>"]) == 2
    printed = capsys.readouterr().err
    assert printed.count("error: ") == 1
    assert "error: prompt 'a <nwe>': <nwe> is no word that this model knows" in printed
    assert "did you mean <new>?" in printed
    assert len(list((folder / "generated").iterdir())) == 2


def test_as_many_initializer_tokens_as_vectors_start_the_rows(
    flags: Flags, folder: Path, tiny_model: Path
) -> None:
    ran(flags(num_vectors=2, initializer_token="toy dog", learning_rate=1e-12, max_train_steps=1))
    base = StableDiffusionPipeline.from_pretrained(tiny_model)
    ids = base.tokenizer.encode("toy dog", add_special_tokens=False)
    table = base.text_encoder.get_input_embeddings().weight.detach()
    assert relative(rows(folder), table[ids]) < 1e-6


def test_a_style_is_learned_from_other_sentences(
    flags: Flags, folder: Path, tmp_path: Path
) -> None:
    ran(flags(learnable_property="style"))
    ran(flags(output_dir=tmp_path / "object"))
    assert not torch.equal(rows(folder), rows(tmp_path / "object"))


def test_a1111s_file_has_the_same_rows(flags: Flags, folder: Path) -> None:
    ran(flags(embeds_format="a1111", max_train_steps=2))
    assert torch.equal(load_file(folder / "new.safetensors")["emb_params"], rows(folder))
    assert events(folder, "done")[0]["paths"] == ["learned_embeds.safetensors", "new.safetensors"]


def test_without_safetensors_rows_are_pickled(flags: Flags, folder: Path) -> None:
    ran([*flags(max_train_steps=2, save_steps=1), "--no_safe_serialization"])
    assert sorted(path.name for path in folder.glob("learned*")) == [
        "learned_embeds-steps-1.bin", "learned_embeds-steps-2.bin", "learned_embeds.bin",
    ]  # fmt: skip
    found = torch.load(folder / "learned_embeds.bin", weights_only=True)
    assert found["<new>"].shape == (1, 32)


def test_the_newest_end_is_the_only_one_whatever_its_format(flags: Flags, folder: Path) -> None:
    ran(flags(max_train_steps=2))
    longer = flags(max_train_steps=4, resume_from_checkpoint="latest")
    ran([*longer, "--no_safe_serialization"])
    assert [path.name for path in folder.glob("learned_embeds.*")] == ["learned_embeds.bin"]
    assert learned(folder, None) == folder / "learned_embeds.bin"
    ran(flags(max_train_steps=6, resume_from_checkpoint="latest"))
    assert learned(folder, None) == folder / "learned_embeds.safetensors"
    assert not (folder / "learned_embeds.bin").exists()


def test_v_prediction_models_train(flags: Flags, folder: Path, tmp_path: Path) -> None:
    model = make_tiny_model(tmp_path / "v", "v_prediction")
    ran(flags(pretrained_model_name_or_path=model, num_evaluation_samples=8))
    losses = [event["loss"] for event in events(folder, "evaluation")]
    assert losses[-1] < losses[0]
    ran(flags(output_dir=tmp_path / "epsilon"))
    assert not torch.equal(rows(folder), rows(tmp_path / "epsilon"))


def test_the_loss_on_fixed_samples_falls(flags: Flags, folder: Path) -> None:
    ran(
        flags(
            max_train_steps=12, train_batch_size=4, evaluation_steps=6, checkpointing_steps=12,
            num_evaluation_samples=8,
        )
    )  # fmt: skip
    losses = [event["loss"] for event in events(folder, "evaluation")]
    assert losses == sorted(losses, reverse=True)
    assert len(losses) == 3


def test_accumulation_is_a_larger_batch(flags: Flags, folder: Path, tmp_path: Path) -> None:
    ran(flags(train_batch_size=1, gradient_accumulation_steps=4))
    ran(flags(train_batch_size=4, output_dir=tmp_path / "batch"))
    assert relative(rows(folder), rows(tmp_path / "batch")) < 1e-4
    assert read_config(folder)[1].global_batch == 4


def test_scale_lr_is_by_the_global_batch(flags: Flags, folder: Path, tmp_path: Path) -> None:
    scaled = {"train_batch_size": 2, "gradient_accumulation_steps": 3, "learning_rate": 1e-3}
    ran([*flags(**scaled), "--scale_lr"])
    assert [event["lr"] for event in events(folder, "step")] == pytest.approx([6e-3] * 6)
    ran(flags(**{**scaled, "learning_rate": 6e-3}, output_dir=tmp_path / "by hand"))
    assert relative(rows(folder), rows(tmp_path / "by hand")) < 1e-6


def test_clipping_changes_the_rows_only_where_it_clips(
    flags: Flags, folder: Path, tmp_path: Path
) -> None:
    adam = {"adam_epsilon": 1.0}  # otherwise Adam undoes what the gradient is scaled by
    ran(flags(max_grad_norm=1e6, **adam))
    ran(flags(output_dir=tmp_path / "unclipped", **adam))
    ran(flags(output_dir=tmp_path / "clipped", max_grad_norm=1e-6, **adam))
    assert torch.equal(rows(folder), rows(tmp_path / "unclipped"))
    assert not torch.equal(rows(folder), rows(tmp_path / "clipped"))


def test_gradient_checkpointing_learns_the_same_rows(
    flags: Flags, folder: Path, tmp_path: Path
) -> None:
    ran([*flags(), "--gradient_checkpointing"])
    ran(flags(output_dir=tmp_path / "plain"))
    assert relative(rows(folder), rows(tmp_path / "plain")) < 1e-5


def test_bf16_trains(flags: Flags, folder: Path, tmp_path: Path) -> None:
    ran(flags(mixed_precision="bf16", validation_prompt="a <new>", num_inference_steps=1,
              num_validation_images=1, max_train_steps=2))  # fmt: skip
    assert read_config(folder)[1].dtype == "bfloat16"
    ran(flags(output_dir=tmp_path / "fp32", max_train_steps=2))
    assert rows(folder).dtype == torch.float32
    assert relative(rows(folder), rows(tmp_path / "fp32")) < 0.1


@pytest.mark.parametrize("form", ["diffusers", "a1111", "bin"])
def test_a_run_starts_from_earlier_rows(
    form: str, flags: Flags, folder: Path, tmp_path: Path
) -> None:
    first = flags(max_train_steps=2, embeds_format="a1111" if form == "a1111" else "diffusers",
                  no_safe_serialization=str(form == "bin"))  # fmt: skip
    ran(first)
    name = {"diffusers": "learned_embeds.safetensors", "a1111": "new.safetensors"}.get(
        form, "learned_embeds.bin"
    )
    start = folder / name
    ran(flags(initial_embeds=start, initializer_token=None, learning_rate=1e-12,
              output_dir=tmp_path / "second", max_train_steps=1))  # fmt: skip
    wanted = torch.load(start)["<new>"] if form == "bin" else rows(folder, name)
    assert relative(rows(tmp_path / "second"), wanted) < 1e-6


def test_a_finished_run_goes_on_when_more_steps_are_asked_for(
    flags: Flags, folder: Path, tmp_path: Path
) -> None:
    ran(flags(max_train_steps=4))
    ran(flags(max_train_steps=7, resume_from_checkpoint="latest"))
    ran(flags(max_train_steps=7, output_dir=tmp_path / "at once"))
    assert torch.equal(rows(folder), rows(tmp_path / "at once"))
    assert [event["step"] for event in events(folder, "step")] == [1, 2, 3, 4, 5, 6, 7]


def test_a_finished_run_asked_to_go_on_says_that_it_is_finished(
    flags: Flags, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran(flags())
    before = rows(folder)
    ran(flags(resume_from_checkpoint="latest"))
    assert "step 6 is the last one already: raise --max_train_steps" in capsys.readouterr().err
    assert torch.equal(rows(folder), before)


def test_epochs_count_where_steps_are_none(flags: Flags, folder: Path) -> None:
    ran(flags(max_train_steps="none", num_train_epochs=2, repeats=1, train_batch_size=2))
    assert len(events(folder, "step")) == 6  # 5 pictures in batches of 2, twice
    assert read_config(folder)[0].max_train_steps is None


def test_kohyas_folders_are_epochs_of_so_many_repeats(
    flags: Flags, folder: Path, pictures: Path, tmp_path: Path
) -> None:
    for name, count in (("2_toy", 2), ("1_toy in the rain", 1)):
        (tmp_path / "kohya" / name).mkdir(parents=True)
        for number in range(count):
            shutil.copy(pictures / f"{number}.png", tmp_path / "kohya" / name)
    ran(flags(train_data_dir=tmp_path / "kohya", max_train_steps="none", num_train_epochs=2))
    assert len(events(folder, "step")) == 2 * (2 * 2 + 1 * 1)


@pytest.mark.parametrize("name", get_args(LrScheduler))
def test_every_schedule_runs(name: str, flags: Flags, folder: Path) -> None:
    ran(flags(lr_scheduler=name, lr_warmup_steps=2, lr_step_rules="1:2,0.5:4,0.1",
              checkpointing_steps=6))  # fmt: skip
    rates = [event["lr"] for event in events(folder, "step")]
    assert len(rates) == 6
    assert max(rates) == pytest.approx(1e-2)
    if name == "piecewise_constant":
        assert rates == pytest.approx([1e-2, 1e-2, 5e-3, 5e-3, 1e-3, 1e-3])


def test_the_record_of_a_run_starts_the_same_run_again(
    flags: Flags, folder: Path, tmp_path: Path
) -> None:
    ran(flags(seed=None, num_vectors=2))
    seed = read_config(folder)[1].seed
    again = ["--config", str(folder / "config.toml"), f"--output_dir={tmp_path / 'again'}"]
    ran([*again, f"--seed={seed}"])
    assert torch.equal(rows(folder), rows(tmp_path / "again"))


def test_where_training_starts_is_looked_at_after_the_first_step_and_is_what_it_was_before(
    flags: Flags, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is trained is copied for it, unless it is too large for that."""
    picture = folder / "samples" / "step-000000" / "prompt-0-seed-3.png"
    drawing = {"validation_prompt": "a <new>", "num_validation_images": 1, "num_inference_steps": 1}
    seen = []
    for most, first in ((2**28, "step"), (0, "evaluation")):
        monkeypatch.setattr(train, "COPIED_BYTES", most)
        ran(flags(max_train_steps=1, overwrite_output_dir=True, **drawing))
        found = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
        assert found[1]["event"] == first
        seen.append(([e["loss"] for e in events(folder, "evaluation")], picture.read_bytes()))
    assert seen[0] == seen[1]
    before, after = seen[0][0]
    assert before != after


def test_every_event_is_a_line_of_json_with_its_time(flags: Flags, folder: Path) -> None:
    ran(flags(max_train_steps=2))
    found = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    assert [event["event"] for event in found] == [
        "start", "step", "evaluation", "step", "evaluation", "checkpoint", "done",
    ]  # fmt: skip
    assert all(event["time"] > 0 for event in found)
