"""LoRA: what diffusers' script learns, whatever the ranks, and files that other programs read."""

from __future__ import annotations

import copy
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig as PeftConfig
from peft.utils import get_peft_model_state_dict
from PIL import Image
from safetensors.torch import load_file

from tests.captioned import CAPTIONS, make_captioned, short_lora
from tests.processes import KillAt, run_ranks
from tests.tensors import assert_same
from tests.training_fixtures import Flags
from training.config.command_line import parse
from training.config.lora import KOHYA_FILE, LORA_NAME, LoraConfig
from training.data.draws import generator_for
from training.data.inputs import read_inputs
from training.loop.build_step import build_step
from training.loop.step import TrainingStep
from training.lora import main
from training.machine.stack import resolve_stack
from training.methods.lora import Lora
from training.models.lora.adapters import find_layers, starting_matrices
from training.models.objective import add_noise, sample_posterior, target
from training.ranks.launcher import Ranks
from training.storage.resume import start_or_resume

MAIN = "training.lora:main"
STEP = "training.loop.step:TrainingStep.__call__"
FILE = f"{LORA_NAME}.safetensors"
ALONE = Ranks("no launcher", 0, 1, 0, 1)
SD15 = Path("training/models/files/stable_diffusion_1/unet")


@pytest.fixture
def lora_flags(tiny_model: Path, captioned: Path, latents: Path, tmp_path: Path) -> Flags:
    """The command line of a short run into a folder of tmp_path."""

    def build(folder: str, **changes: object) -> list[str]:
        return short_lora(tiny_model, captioned, latents, tmp_path / folder, **changes)

    return build


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / FILE)


def apart(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> float:
    """The distance of two sets of matrices, relative to the second."""
    assert found.keys() == wanted.keys()
    away = torch.cat([(found[key] - wanted[key]).flatten() for key in wanted]).norm()
    return float(away / torch.cat([value.flatten() for value in wanted.values()]).norm())


@pytest.mark.parametrize(
    ("ranks", "moment"),
    [(1, KillAt(STEP, 4)), (2, KillAt(STEP, 4)), (2, KillAt("accelerate:Accelerator.backward", 6))],
    ids=["1", "2", "2, amid accumulation"],
)
def test_killed_and_resumed_is_bit_identical(
    lora_flags: Flags, precision: str, ranks: int, moment: KillAt, tmp_path: Path
) -> None:
    changes: dict[str, Any] = {
        "mixed_precision": precision,
        "train_text_encoder": "true",
        "lora_dropout": 0.1,
        "proportion_empty_prompts": 0.2,
        "gradient_accumulation_steps": 2,
    }
    whole = lora_flags("whole", **changes)
    assert {p.code for p in run_ranks(whole, tmp_path / "logs", ranks, main=MAIN)} == {0}
    cut = lora_flags("cut", **changes)
    killed = run_ranks(cut, tmp_path / "logs", ranks, moment, main=MAIN)
    assert killed[0].code < 0
    assert not (tmp_path / "cut" / FILE).exists()
    again = [*cut, "--resume_from_checkpoint=latest"]
    ended = run_ranks(again, tmp_path / "logs", ranks, main=MAIN)
    assert {p.code for p in ended} == {0}, ended[0].output
    assert "resuming from checkpoint-2" in ended[0].output
    assert_same(weights(tmp_path / "cut"), weights(tmp_path / "whole"))


def test_more_steps_go_on_as_if_they_had_been_asked_for_at_first(
    lora_flags: Flags, tmp_path: Path
) -> None:
    assert main(lora_flags("whole")) == 0
    assert main(lora_flags("more", max_train_steps=4)) == 0
    assert main(lora_flags("more", resume_from_checkpoint="latest")) == 0
    assert_same(weights(tmp_path / "more"), weights(tmp_path / "whole"))


def test_ranks_accumulation_and_batch_size_do_not_matter(lora_flags: Flags, tmp_path: Path) -> None:
    changes = {"proportion_empty_prompts": 0.3, "noise_offset": 0.1, "snr_gamma": 5}
    assert main(lora_flags("four", train_batch_size=4, **changes)) == 0
    assert main(lora_flags("one", gradient_accumulation_steps=4, **changes)) == 0
    two = lora_flags("two", train_batch_size=2, **changes)
    assert {p.code for p in run_ranks(two, tmp_path / "logs", 2, main=MAIN)} == {0}
    for folder in ("one", "two"):
        assert apart(weights(tmp_path / folder), weights(tmp_path / "four")) < 1e-4


def test_another_number_of_ranks_carries_the_run_on(lora_flags: Flags, tmp_path: Path) -> None:
    assert main(lora_flags("whole", train_batch_size=2)) == 0
    cut = lora_flags("cut")
    run_ranks(cut, tmp_path / "logs", 2, KillAt(STEP, 4), main=MAIN)
    assert main([*cut, "--resume_from_checkpoint=latest"]) == 0
    assert apart(weights(tmp_path / "cut"), weights(tmp_path / "whole")) < 1e-4


def test_pictures_of_several_shapes_are_learned_alike_by_any_ranks(
    lora_flags: Flags, tmp_path: Path
) -> None:
    mixed = make_captioned(tmp_path / "mixed")
    for number in (1, 3):
        with Image.open(mixed / f"{number}.png") as picture:
            picture.transpose(Image.Transpose.ROTATE_90).save(mixed / f"{number}.png")
    changes = {"train_data_dir": mixed, "aspect_ratio_buckets": "true", "random_flip": "true"}
    four = lora_flags("four", train_batch_size=4, **changes)
    step, _ = built(four)
    shapes = {tuple(posterior.shape[-2:]) for posterior in step.data.posteriors}
    assert shapes == {(14, 18), (18, 14)}
    assert max(len(step.data.batches([step.draws(n, i) for i in range(4)])) for n in range(3)) == 2
    assert main([*four, "--overwrite_output_dir"]) == 0
    two = lora_flags("two", train_batch_size=2, **changes)
    assert {p.code for p in run_ranks(two, tmp_path / "logs", 2, main=MAIN)} == {0}
    assert apart(weights(tmp_path / "two"), weights(tmp_path / "four")) < 1e-4


def built(argv: list[str]) -> tuple[TrainingStep, Any]:
    """The training step of a run, as it is before its first step, and untouched models."""
    config, _ = parse(LoraConfig, argv, "test", "")
    stack = resolve_stack("upstream")
    inputs = read_inputs(Lora, config, lambda text: None)
    models = copy.deepcopy(inputs.models)
    config.output_dir.mkdir(exist_ok=True)
    record, _ = start_or_resume(inputs, stack, ALONE, lambda text: None)
    return build_step(inputs, record, stack, ALONE, lambda text: None), models


class Script:
    """The training step of diffusers' train_text_to_image_lora.py, on our samples."""

    def __init__(self, step: TrainingStep, models: Any) -> None:
        self.ours, self.models = step, models
        for part in (models.unet, models.text_encoder, models.vae):
            part.requires_grad_(False)
        targets = ["to_k", "to_q", "to_v", "to_out.0"]
        models.unet.add_adapter(
            PeftConfig(r=2, lora_alpha=2, init_lora_weights="gaussian", target_modules=targets)
        )
        self.parameters = {
            f"unet.{name.replace('.default', '')}": parameter
            for name, parameter in models.unet.named_parameters()
            if parameter.requires_grad
        }
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(step.parameters[name])
        self.optimizer = torch.optim.AdamW(self.parameters.values(), lr=1e-2)

    def __call__(self, number: int) -> None:
        draw = self.ours.draws(number, 0)
        moments = self.ours.data.posteriors[draw.picture][int(draw.flip)][:, None]
        scheduler = self.models.noise_scheduler
        latents = sample_posterior(
            moments[0], moments[1], draw.posterior_noise, self.models.vae.config.scaling_factor
        )
        timesteps = torch.tensor([draw.timestep])
        alphas = scheduler.alphas_cumprod[timesteps]
        noise = draw.noise[None]
        ids = self.models.tokenizer(
            CAPTIONS[draw.picture], padding="max_length", truncation=True, return_tensors="pt"
        ).input_ids
        text = self.models.text_encoder(ids)[0]
        noisy = add_noise(latents, noise, alphas)
        said = self.models.unet(noisy, timesteps, encoder_hidden_states=text).sample
        wanted = target(scheduler.config.prediction_type, latents, noise, alphas)
        torch.nn.functional.mse_loss(said, wanted).backward()
        torch.nn.utils.clip_grad_norm_(self.parameters.values(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


def test_twenty_steps_learn_what_diffusers_script_learns(lora_flags: Flags) -> None:
    step, models = built(lora_flags("run"))
    assert step.data.text is not None
    script = Script(step, models)
    for number in range(20):
        step(number, 1e-2, lambda: False)
        script(number)
    ours = {name: value.detach() for name, value in step.parameters.items()}
    theirs = {name: value.detach() for name, value in script.parameters.items()}
    assert apart(ours, theirs) < 1e-4
    ups = [value.norm() for name, value in ours.items() if "lora_B" in name]
    assert min(ups) > 0


def test_the_file_is_named_as_diffusers_script_names_it(lora_flags: Flags, tmp_path: Path) -> None:
    argv = lora_flags("run")
    step, models = built(argv)
    Script(step, models)
    StableDiffusionPipeline.save_lora_weights(
        tmp_path / "theirs",
        unet_lora_layers=convert_state_dict_to_diffusers(get_peft_model_state_dict(models.unet)),
    )
    assert main([*argv, "--overwrite_output_dir"]) == 0
    theirs, ours = weights(tmp_path / "theirs"), weights(tmp_path / "run")
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}


def predicted(unet: Any) -> torch.Tensor:
    """What a UNet says of something."""
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(1, 4, 16, 16, generator=generator)
    text = torch.randn(1, 24, 32, generator=generator)
    with torch.no_grad():
        said: torch.Tensor = unet(latents, torch.tensor([500]), encoder_hidden_states=text).sample
    return said


def test_diffusers_loads_every_form_of_what_was_learned(
    lora_flags: Flags, tiny_model: Path, tmp_path: Path
) -> None:
    argv = lora_flags("run", lora_alpha=3, train_text_encoder="true", lora_format="kohya")
    assert main([*argv, "--save_as_full_pipeline"]) == 0
    base = StableDiffusionPipeline.from_pretrained(tiny_model, safety_checker=None)
    before = predicted(base.unet)
    said = []
    encoded = []
    ids = base.tokenizer("a red cat", return_tensors="pt").input_ids
    for name in (FILE, KOHYA_FILE):
        pipeline = StableDiffusionPipeline.from_pretrained(tiny_model, safety_checker=None)
        pipeline.load_lora_weights(tmp_path / "run", weight_name=name)
        said.append(predicted(pipeline.unet))
        encoded.append(pipeline.text_encoder(ids)[0])
    whole = StableDiffusionPipeline.from_pretrained(tmp_path / "run", safety_checker=None)
    said.append(predicted(whole.unet))
    encoded.append(whole.text_encoder(ids)[0])
    assert not torch.allclose(said[0], before, atol=1e-3)
    assert not torch.allclose(encoded[0], base.text_encoder(ids)[0], atol=1e-3)
    for other, text in zip(said[1:], encoded[1:], strict=True):
        assert torch.allclose(other, said[0], atol=1e-5)
        assert torch.allclose(text, encoded[0], atol=1e-5)


def test_what_was_trained_is_what_the_file_holds(
    lora_flags: Flags, tiny_model: Path, tmp_path: Path
) -> None:
    """The scale is in the file once: the model that has trained says what the loaded file says."""
    step, _ = built(lora_flags("run", lora_alpha=3))
    for number in range(3):
        step(number, 1e-2, lambda: False)
    config, _ = parse(LoraConfig, lora_flags("run", lora_alpha=3), "test", "")
    method = step.losses.func.__self__  # type: ignore[attr-defined]
    denoising = step.losses.args[0]  # type: ignore[attr-defined]
    method.write(config.output_dir, step.parameters)
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_model, safety_checker=None)
    pipeline.load_lora_weights(config.output_dir, weight_name=FILE)
    assert torch.allclose(predicted(pipeline.unet), predicted(denoising.models.unet), atol=1e-5)


def test_rank_four_on_stable_diffusion_trains_797184_parameters() -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(SD15))
    layers = find_layers(unet, ["to_k", "to_q", "to_v", "to_out.0"])
    start = starting_matrices(layers, 4, lambda path: generator_for(0, path))
    assert sum(value.numel() for value in start.values()) == 797_184


def test_one_all_reduce_per_step_carries_the_adapters_alone(
    lora_flags: Flags, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, _ = built(lora_flags("run"))
    sent: list[int] = []
    monkeypatch.setattr(
        "training.loop.step.all_reduce_sum", lambda flat, ranks: sent.append(flat.nbytes)
    )
    step(0, 1e-2, lambda: False)
    parameters = sum(value.numel() for value in step.parameters.values())
    assert sent == [4 * (parameters + 2)]


def test_what_is_refused(
    lora_flags: Flags, captioned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(lora_flags("a", rank=64)) == 2
    assert "rank 64: is larger than" in capsys.readouterr().err
    assert main(lora_flags("b", lora_layers="to_qq")) == 2
    found = capsys.readouterr().err
    assert "lora_layers to_qq: no layer of the UNet is called so; near:" in found
    assert "to_q" in found.split("near:")[1]
    assert main(lora_flags("c", max_train_steps=2)) == 0
    capsys.readouterr()
    resumed = lora_flags("c", lora_layers="to_q", resume_from_checkpoint="latest")
    assert main(resumed) == 2
    found = capsys.readouterr().err
    assert "lora_layers: ['to_k', 'to_q', 'to_v', 'to_out.0'] then, ['to_q'] now" in found
    assert found.count("\n  - ") == 1
    record = tomllib.loads((tmp_path / "c" / "config.toml").read_text())["run"]
    assert record["method"] == "lora"
    assert len(record["captions"]) == 64


def test_other_captions_are_another_run(
    lora_flags: Flags, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = make_captioned(tmp_path / "mine")
    assert main(lora_flags("run", train_data_dir=mine, max_train_steps=2)) == 0
    (mine / "0.txt").write_text("a blue cat")
    again = lora_flags("run", train_data_dir=mine, resume_from_checkpoint="latest")
    assert main(again) == 2
    assert "not the same captions as when the run started" in capsys.readouterr().err


def test_no_clipping_by_word_survives_the_record(lora_flags: Flags, tmp_path: Path) -> None:
    argv = lora_flags("run", max_grad_norm="none", max_train_steps=2)
    assert main(argv) == 0
    assert main([*argv, "--resume_from_checkpoint=latest", "--max_train_steps=3"]) == 0
