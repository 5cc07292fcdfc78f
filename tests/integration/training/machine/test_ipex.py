"""The intel stack, in the environment that has torch 2.8 and IPEX 2.8 (`make test-ipex`)."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.captioned import make_captioned, short_lora
from tests.processes import run_ranks
from tests.training_fixtures import Flags
from training.config.command_line import parse
from training.config.lora import LoraConfig
from training.config.textual_inversion import TextualInversionConfig
from training.data.draws import Draws
from training.data.encoded_data import EncodedData
from training.data.inputs import read_inputs
from training.data.latents import LatentCache, encode_missing, read_all
from training.data.prompts import prompts_for
from training.loop.build_step import build_step
from training.machine.attention.library import ATTENTION
from training.machine.attention.processor import use_fused
from training.machine.cpu import this_cpu
from training.machine.precision import resolve_dtype
from training.machine.stack import resolve_stack
from training.methods.lora import Lora
from training.methods.textual_inversion import TextualInversion
from training.models import frozen
from training.models.denoising import Denoising
from training.models.loading import tokenize
from training.ranks.launcher import Ranks
from training.storage.resume import start_or_resume

pytestmark = pytest.mark.ipex

ALONE = Ranks("no launcher", 0, 1, 0, 1)
DTYPE = resolve_dtype("auto", this_cpu())
TOLERANCE = {torch.bfloat16: 2e-2, torch.float32: 1e-5}[DTYPE]
"""bf16 where this CPU computes in it: IPEX refuses bf16 elsewhere."""

NOISE = re.compile(r"^\[?W\d{4} |_logger\.py|Warning|operator|dispatch key|kernel", re.IGNORECASE)
"""What the extension prints of itself, and PyTorch of it."""


Problem = tuple[Denoising, dict[str, torch.nn.Parameter], EncodedData, Draws]


@pytest.fixture
def denoisings(flags: Flags, latents: Path) -> dict[str, Problem]:
    """The same tiny problem over native and over IPEX's modules."""
    config, _ = parse(TextualInversionConfig, flags(stack="intel"), "test", "")
    stack = resolve_stack("intel")
    inputs = read_inputs(TextualInversion, config, lambda text: None)
    cache = LatentCache(latents, inputs.models.vae, 32, False, torch.float32)
    encode_missing(cache, inputs.pictures, inputs.models.vae, 0, 1, lambda done, of: None)
    posteriors = read_all(cache, inputs.pictures, inputs.models.vae)
    prompts = prompts_for("object", config.placeholder_tokens)
    ids = tokenize(inputs.models.tokenizer, prompts)
    channels, height, width = posteriors.shape[-3:]
    draws = Draws(3, 4, len(inputs.pictures), len(prompts), 1000, (channels, height, width))
    built = {}
    for how in ("native", "ipex"):
        fresh = copy.deepcopy(inputs.models)
        models = frozen.prepare(fresh, how, stack, DTYPE)
        parameters = copy.copy(inputs.method).inject(models)
        built[how] = (
            Denoising(models, DTYPE, parameters),
            parameters,
            EncodedData(posteriors, ids),
            draws,
        )
    return built


def test_auto_finds_the_intel_stack() -> None:
    stack = resolve_stack("auto")
    assert stack.name == "intel"
    assert stack.versions["intel_extension_for_pytorch"].startswith("2.8")
    assert stack.versions["torch"].startswith("2.8")


def test_losses_and_gradients_are_those_of_native(
    denoisings: dict[str, Problem],
) -> None:
    found = {}
    for how, (denoising, parameters, data, draws) in denoisings.items():
        rows = parameters["rows"]
        batch = data.batch([draws(0, index) for index in range(4)])
        losses = denoising.losses(parameters, batch)
        losses.sum().backward()
        found[how] = (losses.detach(), rows.grad)
    losses, gradient = found["native"]
    ipex_losses, ipex_gradient = found["ipex"]
    assert float(((ipex_losses - losses) / losses).abs().max()) < TOLERANCE
    assert gradient is not None
    assert ipex_gradient is not None
    assert float((ipex_gradient - gradient).norm() / gradient.norm()) < 10 * TOLERANCE


NORMS: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], int]] = {
    "group_norm": (lambda x: torch.nn.functional.group_norm(x, 4), 4),
    "layer_norm": (lambda x: torch.nn.functional.layer_norm(x, x.shape[1:]), 1),
}
"""The two that PyTorch warns of, and into how many groups they divide each sample."""


def by_definition(x: torch.Tensor, groups: int) -> torch.Tensor:
    """Each group less its mean, over its standard deviation: in plain arithmetic."""
    parts = x.reshape(len(x), groups, -1)
    centred = parts - parts.mean(-1, keepdim=True)
    return (centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()).reshape(x.shape)


@pytest.mark.parametrize("name", NORMS)
def test_gradients_without_an_autograd_kernel_are_those_of_the_definition(name: str) -> None:
    resolve_stack("intel")
    norm, groups = NORMS[name]
    generator = torch.Generator().manual_seed(1)
    given, weight = (torch.randn(2, 8, 5, 3, generator=generator) for _ in range(2))
    found, wanted = given.clone().requires_grad_(), given.double().requires_grad_()
    (norm(found) * weight).sum().backward()
    (by_definition(wanted, groups) * weight.double()).sum().backward()
    assert found.grad is not None
    assert wanted.grad is not None
    assert float((found.grad - wanted.grad).norm() / wanted.grad.norm()) < 1e-6


def test_its_modules_take_our_own_attention(flags: Flags) -> None:
    config, _ = parse(TextualInversionConfig, flags(stack="intel"), "test", "")
    models = read_inputs(TextualInversion, config, lambda text: None).models
    unet = frozen.prepare(models, "ipex", resolve_stack("intel"), DTYPE).unet
    latents, text = torch.randn(1, 4, 32, 32, dtype=DTYPE), torch.randn(1, 5, 32, dtype=DTYPE)

    def gradient() -> torch.Tensor:
        hidden = text.clone().requires_grad_()
        unet(latents, torch.tensor(1), encoder_hidden_states=hidden).sample.sum().backward()
        assert hidden.grad is not None
        return hidden.grad

    wanted = gradient()
    assert use_fused(unet) > 0
    found = gradient()
    assert float((found - wanted).norm() / wanted.norm()) < 10 * TOLERANCE
    assert torch.equal(found, wanted) != ATTENTION.is_possible()


def test_auto_measures_and_chooses(flags: Flags) -> None:
    config, _ = parse(TextualInversionConfig, flags(stack="intel"), "test", "")
    models = read_inputs(TextualInversion, config, lambda text: None).models
    assert frozen.choose("auto", resolve_stack("intel"), models, DTYPE, 16) in ("native", "ipex")


@pytest.mark.parametrize("how", ["native", "ipex", "auto"])
def test_two_ranks_train_on_the_intel_stack(how: str, flags: Flags, tmp_path: Path) -> None:
    finished = run_ranks(
        flags(stack="intel", frozen=how, mixed_precision="auto"), tmp_path / "logs", 2
    )
    assert [process.code for process in finished] == [0, 0], finished[0].output
    assert "stack intel (torch 2.8" in finished[0].output
    for process in finished:
        assert not [line for line in process.output.splitlines() if NOISE.search(line)]
    lines = (tmp_path / "run" / "events.jsonl").read_text().splitlines()
    start = json.loads(lines[0])
    assert start["stack"] == "intel"
    assert start["frozen"] in (("native", "ipex") if how == "auto" else (how,))
    moved = [json.loads(line)["moved"] for line in lines if '"evaluation"' in line]
    assert moved[-1] > 0


@pytest.mark.parametrize("word", [None, "<new>"], ids=["lora", "lora and word"])
def test_lora_over_ipex_has_the_losses_and_gradients_of_native(
    word: str | None, tiny_model: Path, latents: Path, tmp_path: Path
) -> None:
    captioned = make_captioned(tmp_path / "captioned", ["a red <new>", "a dog", "the <new>"])
    of_word: dict[str, object] = {}
    if word:
        of_word = {"train_text_encoder_ti": "true", "placeholder_token": word,
                   "initializer_token": "toy"}  # fmt: skip
    stack = resolve_stack("intel")
    found = {}
    for how in ("native", "ipex"):
        argv = short_lora(
            tiny_model, captioned, latents, tmp_path / how, stack="intel", frozen=how,
            train_text_encoder="true", mixed_precision="auto", train_batch_size=4, **of_word,
        )  # fmt: skip
        config, _ = parse(LoraConfig, argv, "test", "")
        inputs = read_inputs(Lora, config, lambda text: None)
        config.output_dir.mkdir()
        record, _ = start_or_resume(inputs, stack, ALONE, lambda text: None)
        step = build_step(inputs, record, stack, ALONE, lambda text: None)
        # Away from the start, where the gradient of the first matrices is zero.
        with torch.no_grad():
            for name, parameter in step.parameters.items():
                if "lora_B" in name:
                    parameter.fill_(1e-2)
        batch = step.data.batch([step.draws(0, index) for index in range(4)])
        losses = step.losses(step.parameters, batch)
        losses.sum().backward()
        assert ("rows" in step.parameters) == bool(word)
        gradients = [parameter.grad for parameter in step.parameters.values()]
        assert all(gradient is not None and gradient.norm() > 0 for gradient in gradients)
        found[how] = (losses.detach(), torch.cat([g.flatten() for g in gradients if g is not None]))
    (losses, gradient), (ipex_losses, ipex_gradient) = found["native"], found["ipex"]
    assert float(((ipex_losses - losses) / losses).abs().max()) < TOLERANCE
    assert float((ipex_gradient - gradient).norm() / gradient.norm()) < 10 * TOLERANCE
