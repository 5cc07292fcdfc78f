"""A new word and a LoRA in one run: the word alone at first, then both."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig as PeftConfig
from safetensors.torch import load_file

from tests.captioned import make_captioned, short_lora
from tests.processes import KillAt, run_ranks
from tests.tensors import assert_same
from tests.training_fixtures import Flags
from training.config.command_line import parse
from training.config.lora import KOHYA_FILE, LORA_NAME, LoraConfig
from training.data.inputs import read_inputs
from training.generate import main as generate
from training.loop.build_step import build_step
from training.loop.step import TrainingStep
from training.lora import main
from training.machine.stack import resolve_stack
from training.methods.lora import Lora
from training.models.denoising import Batch
from training.models.objective import add_noise, sample_posterior, target
from training.ranks.launcher import Ranks
from training.storage.resume import start_or_resume

MAIN = "training.lora:main"
STEP = "training.loop.step:TrainingStep.__call__"
LORA, WORD = f"{LORA_NAME}.safetensors", "learned_embeds.safetensors"
ALONE = Ranks("no launcher", 0, 1, 0, 1)
CAPTIONS = ("a red <new>", "<new>", "the toy", "a red <new>", "a dog in the style of <new>")
RATE, WORDS_RATE = 1e-2, 3e-2


@pytest.fixture(scope="session")
def of_the_word(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_captioned(tmp_path_factory.mktemp("word") / "five", CAPTIONS)


@pytest.fixture
def both(tiny_model: Path, of_the_word: Path, latents: Path, tmp_path: Path) -> Flags:
    """The command line of six steps, the first three of them for the word alone."""

    def build(folder: str, **changes: object) -> list[str]:
        values: dict[str, object] = {
            "train_text_encoder_ti": "true",
            "placeholder_token": "<new>",
            "initializer_token": "toy",
            "num_vectors": 2,
            "max_train_steps_ti": 3,
            "learning_rate_ti": WORDS_RATE,
            **changes,
        }
        return short_lora(tiny_model, of_the_word, latents, tmp_path / folder, **values)

    return build


def learned(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / LORA) | load_file(folder / WORD)


def apart(found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> float:
    """The largest distance of two tensors of one name, relative to the second."""
    assert found.keys() == wanted.keys()
    return max(
        float((found[key] - wanted[key]).detach().norm() / wanted[key].detach().norm())
        for key in wanted
    )


@pytest.mark.parametrize(
    ("ranks", "moment", "newest"),
    [(1, KillAt(STEP, 4), 2), (2, KillAt(STEP, 6), 4),
     (2, KillAt("accelerate:Accelerator.backward", 10), 4)],
    ids=["1, before", "2, after", "2, after, amid accumulation"],
)  # fmt: skip
def test_killed_before_and_after_the_adapters_begin_and_resumed_is_bit_identical(
    both: Flags, precision: str, ranks: int, moment: KillAt, newest: int, tmp_path: Path
) -> None:
    changes = {"mixed_precision": precision, "train_text_encoder": "true", "lora_dropout": 0.1,
               "gradient_accumulation_steps": 2}  # fmt: skip
    whole = both("whole", **changes)
    assert {p.code for p in run_ranks(whole, tmp_path / "logs", ranks, main=MAIN)} == {0}
    cut = both("cut", **changes)
    killed = run_ranks(cut, tmp_path / "logs", ranks, moment, main=MAIN)
    assert killed[0].code < 0
    again = [*cut, "--resume_from_checkpoint=latest"]
    ended = run_ranks(again, tmp_path / "logs", ranks, main=MAIN)
    assert {p.code for p in ended} == {0}, ended[0].output
    assert f"resuming from checkpoint-{newest}" in ended[0].output
    assert_same(learned(tmp_path / "cut"), learned(tmp_path / "whole"))


def test_more_steps_go_on_as_if_they_had_been_asked_for_at_first(
    both: Flags, tmp_path: Path
) -> None:
    assert main(both("whole")) == 0
    assert main(both("more", max_train_steps=4)) == 0
    assert main(both("more", resume_from_checkpoint="latest")) == 0
    assert_same(learned(tmp_path / "more"), learned(tmp_path / "whole"))


def test_ranks_accumulation_and_batch_size_do_not_matter(both: Flags, tmp_path: Path) -> None:
    assert main(both("four", train_batch_size=4)) == 0
    assert main(both("one", gradient_accumulation_steps=4)) == 0
    two = both("two", train_batch_size=2)
    assert {p.code for p in run_ranks(two, tmp_path / "logs", 2, main=MAIN)} == {0}
    for folder in ("one", "two"):
        assert apart(learned(tmp_path / folder), learned(tmp_path / "four")) < 1e-3


def test_another_number_of_ranks_carries_the_run_on(both: Flags, tmp_path: Path) -> None:
    assert main(both("whole", train_batch_size=2)) == 0
    cut = both("cut")
    run_ranks(cut, tmp_path / "logs", 2, KillAt(STEP, 4), main=MAIN)
    assert main([*cut, "--resume_from_checkpoint=latest"]) == 0
    assert apart(learned(tmp_path / "cut"), learned(tmp_path / "whole")) < 1e-3


def built(argv: list[str]) -> tuple[TrainingStep, Any, Any]:
    """The training step of a run, untouched models, and the run's inputs."""
    config, _ = parse(LoraConfig, argv, "test", "")
    stack = resolve_stack("upstream")
    inputs = read_inputs(Lora, config, lambda text: None)
    models = copy.deepcopy(inputs.models)
    config.output_dir.mkdir(exist_ok=True)
    record, _ = start_or_resume(inputs, stack, ALONE, lambda text: None)
    return build_step(inputs, record, stack, ALONE, lambda text: None), models, inputs


def test_the_word_alone_is_trained_first_and_one_all_reduce_carries_what_is_trained(
    both: Flags, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, _, inputs = built(both("run"))
    sent: list[int] = []
    monkeypatch.setattr(
        "training.loop.step.all_reduce_sum", lambda flat, ranks: sent.append(flat.nbytes)
    )
    start = inputs.method.start
    rows = start["rows"].numel()
    for number in range(4):
        step(number, RATE, lambda: False)
        moved = {name for name in start if not torch.equal(start[name], step.parameters[name])}
        if number < 3:
            assert moved == {"rows"}
    assert len(moved) > len(start) // 2
    every = sum(value.numel() for value in start.values())
    assert sent == [4 * (rows + 2)] * 3 + [4 * (every + 2)]


def test_of_gradients_that_come_compiled_only_those_of_what_is_trained_are_taken(
    both: Flags,
) -> None:
    step, *_ = built(both("native"))
    other, *_ = built(both("compiled"))

    def compiled(batch: Batch) -> tuple[torch.Tensor, list[torch.Tensor]]:
        values = {name: v.detach().requires_grad_() for name, v in other.parameters.items()}
        losses = other.losses(values, batch)
        return losses.detach(), list(torch.autograd.grad(losses.sum(), list(values.values())))

    other.compiled = compiled  # type: ignore[assignment]
    for number in range(5):
        step(number, RATE, lambda: False)
        other(number, RATE, lambda: False)
    assert apart(other.parameters, step.parameters) < 1e-5


class Script:
    """Pivotal tuning as scripts have it: PEFT, and the whole table restored after each step."""

    def __init__(self, step: TrainingStep, models: Any, ids: list[int]) -> None:
        self.ours, self.models, self.ids = step, models, ids
        encoder = models.text_encoder
        encoder.resize_token_embeddings(len(models.tokenizer), mean_resizing=False)
        for part in (models.unet, encoder, models.vae):
            part.requires_grad_(False)
        targets = ["to_k", "to_q", "to_v", "to_out.0"]
        models.unet.add_adapter(
            PeftConfig(r=2, lora_alpha=2, init_lora_weights="gaussian", target_modules=targets)
        )
        self.table = encoder.get_input_embeddings().weight.requires_grad_()
        self.adapters = {
            f"unet.{name.replace('.default', '')}": parameter
            for name, parameter in models.unet.named_parameters()
            if parameter.requires_grad
        }
        with torch.no_grad():
            for name, parameter in self.adapters.items():
                parameter.copy_(step.parameters[name])
            self.table[ids] = step.parameters["rows"]
        self.frozen = self.table.detach().clone()
        self.of_words = torch.optim.AdamW([self.table], lr=WORDS_RATE)
        self.of_adapters = torch.optim.AdamW(self.adapters.values(), lr=RATE)

    @property
    def learned(self) -> dict[str, torch.Tensor]:
        return {**self.adapters, "rows": self.table[self.ids]}

    def __call__(self, number: int) -> None:
        draw = self.ours.draws(number, 0)
        moments = self.ours.data.posteriors[draw.picture][int(draw.flip)][:, None]
        scheduler, tokenizer = self.models.noise_scheduler, self.models.tokenizer
        scaling = self.models.vae.config.scaling_factor
        latents = sample_posterior(moments[0], moments[1], draw.posterior_noise, scaling)
        timesteps = torch.tensor([draw.timestep])
        alphas = scheduler.alphas_cumprod[timesteps]
        noise = draw.noise[None]
        caption = CAPTIONS[draw.picture].replace("<new>", "<new> <new>_1")
        ids = tokenizer(
            caption, padding="max_length", truncation=True, return_tensors="pt"
        ).input_ids
        text = self.models.text_encoder(ids)[0]
        noisy = add_noise(latents, noise, alphas)
        said = self.models.unet(noisy, timesteps, encoder_hidden_states=text).sample
        wanted = target(scheduler.config.prediction_type, latents, noise, alphas)
        torch.nn.functional.mse_loss(said, wanted).backward()
        used = [self.of_words, *([self.of_adapters] if number >= 3 else [])]
        for optimizer in used:
            optimizer.step()
        for optimizer in (self.of_words, self.of_adapters):
            optimizer.zero_grad()
        others = torch.ones(len(self.table), dtype=torch.bool)
        others[self.ids] = False
        with torch.no_grad():
            self.table[others] = self.frozen[others]


def test_ten_steps_learn_what_the_whole_table_and_peft_learn(both: Flags) -> None:
    step, models, inputs = built(both("run", max_grad_norm="none", max_train_steps=10))
    script = Script(step, models, inputs.method.words.token_ids)
    for number in range(10):
        step(number, RATE, lambda: False)
        script(number)
    assert apart(step.parameters, script.learned) < 1e-3


def test_both_files_load_and_are_drawn_with_together(
    both: Flags, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    drawing = {"validation_prompt": "a <new>", "num_validation_images": 1, "num_inference_steps": 1}
    forms = {"lora_format": "kohya", "embeds_format": "a1111", "save_as_full_pipeline": "true"}
    assert main(both("run", **forms, **drawing)) == 0
    files = {path.name for path in run.iterdir()}
    assert {LORA, WORD, KOHYA_FILE, "new.safetensors"} <= files
    assert {f"{name}-steps-{step}.safetensors" for name in (LORA_NAME, "learned_embeds")
            for step in (2, 4, 6)} <= files  # fmt: skip
    assert (run / "samples" / "comparison.png").is_file()
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_model, safety_checker=None)
    pipeline.load_lora_weights(run)
    pipeline.load_textual_inversion(run)
    whole = StableDiffusionPipeline.from_pretrained(run, safety_checker=None)
    rows = load_file(run / WORD)["<new>"]
    for each in (pipeline, whole):
        ids = each.tokenizer.convert_tokens_to_ids(["<new>", "<new>_1"])
        assert torch.equal(each.text_encoder.get_input_embeddings().weight[ids], rows)
    pictures = []
    for words in (["--prompt=a <new>"], ["--prompt=a <new>", "--step=2"], ["--prompt=a toy"]):
        capsys.readouterr()
        assert generate([str(run), "--num_inference_steps=2", "--seed=1", *words]) == 0
        out = capsys.readouterr()
        pictures.append(Path(json.loads(out.out)[0]).read_bytes())
        assert ("is drawn without the new word" in out.err) == (words == ["--prompt=a toy"])
    assert len(set(pictures)) == 3


def test_rows_keep_their_length_where_it_is_asked_for(both: Flags, tmp_path: Path) -> None:
    for folder, changes in (("kept", {"keep_embedding_norm": "true"}), ("free", {})):
        assert main(both(folder, **changes)) == 0
    kept, free = (load_file(tmp_path / folder / WORD)["<new>"] for folder in ("kept", "free"))
    lengths = kept.norm(dim=-1)
    torch.testing.assert_close(lengths[0], lengths[1])  # both began as that of "toy"
    assert (free.norm(dim=-1) - lengths).abs().min() > 1e-3


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"placeholder_token": None, "initializer_token": None, "train_text_encoder_ti": None,
          "keep_embedding_norm": "true"}, "keep_embedding_norm is for the rows of a new word"),
        ({"placeholder_token": None}, "train_text_encoder_ti = 'true': needs placeholder_token"),
        ({"initializer_token": None}, "give initializer_token (a word) or initial_embeds (a file)"),
        ({"train_text_encoder_ti": None}, "placeholder_token <new> is learned with it alone"),
        ({"placeholder_token": "<nwe>"}, "placeholder_token <nwe>: no caption has it among"),
        ({"placeholder_token": "toy"}, "placeholder_token 'toy' is already a token of this model"),
        ({"num_vectors": 30},
         "placeholder_token <new>: no caption has it among the tokens that the model reads (24), "
         "so that it cannot be learned. Put it nearer to the beginning of "
         "captions. It stands for 30 tokens: fewer (--num_vectors) may fit."),
        ({"max_train_steps_ti": 6}, "max_train_steps_ti 6: the new words alone would be learned"),
        ({"validation_prompt": "a <nwe>"}, "<nwe> is no word that this model knows; did you mean"),
    ],
)  # fmt: skip
def test_what_is_refused(
    both: Flags,
    changes: dict[str, object],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(both("run", **changes)) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run" / "config.toml").exists()


def test_a_resumed_run_keeps_the_steps_of_the_word_alone(
    both: Flags, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(both("run", max_train_steps=4)) == 0
    again = both("run", max_train_steps_ti=2, resume_from_checkpoint="latest")
    assert main(again) == 2
    assert "max_train_steps_ti: 3 then, 2 now" in capsys.readouterr().err


def test_captions_without_the_word_are_counted(
    both: Flags, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(both("run", max_train_steps=4)) == 0
    assert "1 of 5 captions have no new word in them." in capsys.readouterr().err


def test_a_caption_is_as_long_as_it_is_read(
    both: Flags, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(both("run", num_vectors=20, max_train_steps=4)) == 0
    # "a dog in the style of <new>": 7 words as they are written, and 20 tokens for the last.
    assert "1 of 5 captions have more tokens than the model reads (24)" in capsys.readouterr().err
