"""What decides a compiled step is in the name that it is kept under, and nothing else is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.captioned import short_lora
from tests.training_steps import Build, models_of
from training.config.command_line import parse
from training.config.lora import LoraConfig
from training.errors import UserError
from training.loop.compiled import store
from training.loop.compiled.code import load
from training.loop.compiled.graph import inputs_of
from training.loop.compiled.identity import identity_of
from training.method import Method
from training.methods.lora import Lora
from training.methods.textual_inversion import TextualInversion
from training.models.loading import load_models


@pytest.fixture
def identity(build: Build, monkeypatch: pytest.MonkeyPatch) -> object:
    """The digest of a method's step on the tiny model, with flags added and replaced."""

    def of(method: type[Method], settings: object = (), **changes: object) -> str:
        step = build(method, overwrite_output_dir="true", resume_from_checkpoint=None, **changes)
        batch = step.data.batch([step.draws(0, 0)])
        inputs = inputs_of(step.parameters, batch)
        return identity_of(models_of(step), step.parameters, [settings], inputs)

    return of


def test_whatever_decides_the_graph_changes_the_name(identity: object, tiny_model: Path) -> None:
    assert callable(identity)
    base = identity(TextualInversion)
    lora = identity(Lora)
    names = [
        base,
        identity(TextualInversion, num_vectors=2),
        identity(TextualInversion, resolution=64, attention="torch"),
        identity(TextualInversion, resolution=64, attention="fused"),
        identity(TextualInversion, resolution=64, attention="torch", convolution="winograd"),
        lora,
        identity(Lora, settings=(5,)),
        identity(Lora, rank=4),
        identity(Lora, lora_alpha=3),
        identity(Lora, lora_layers="attn2.to_q"),
        identity(Lora, train_text_encoder="true"),
        identity(Lora, prediction_type="v_prediction"),
    ]
    assert len(set(names)) == len(names)


def test_what_decides_nothing_leaves_the_name(
    identity: object, tiny_model: Path, tmp_path: Path
) -> None:
    assert callable(identity)
    elsewhere = shutil.copytree(tiny_model, tmp_path / "elsewhere")
    changes = {"seed": 3, "learning_rate": 1e-3, "max_train_steps": 9}
    for method in (TextualInversion, Lora):
        same = identity(method, pretrained_model_name_or_path=elsewhere, **changes)
        assert identity(method) == same


def print_identity(model: str) -> None:
    """Print the digest of a LoRA on a model, without a batch."""
    argv = short_lora(Path(model), Path(model), Path(model), Path(model), train_text_encoder="true")
    config, _ = parse(LoraConfig, argv, "test", "")
    models = load_models(config.model)
    print(identity_of(models, Lora(config, models).inject(models), [], []))


def test_every_process_finds_the_same_name(tiny_model: Path) -> None:
    """Sets are in another order in each."""
    program = f"from {__name__} import print_identity; print_identity({str(tiny_model)!r})"
    names = {
        subprocess.run(
            [sys.executable, "-c", program], env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True, text=True, check=True,
        ).stdout.splitlines()[-1]
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(names) == 1


def test_threads_and_small_weights_are_in_the_name(build: Build) -> None:
    step = build(TextualInversion)
    models = models_of(step)
    inputs = inputs_of(step.parameters, step.data.batch([step.draws(0, 0)]))
    before = identity_of(models, step.parameters, [], inputs)
    with torch.no_grad():
        models.unet.conv_in.weight.add_(1)
        step.parameters["rows"].add_(1)
        assert identity_of(models, step.parameters, [], inputs) == before
        models.unet.conv_out.bias.add_(1)  # four numbers, which inductor writes into its code
    after = identity_of(models, step.parameters, [], inputs)
    assert after != before
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        assert identity_of(models, step.parameters, [], inputs) != after
    finally:
        torch.set_num_threads(threads)


def test_what_others_could_have_written_or_is_torn_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert store.read("a") is None
    with store.held("a", print):
        store.write("a", {"source": "x = 1"})
    place = store.folder()
    assert place.stat().st_mode & 0o777 == 0o700
    assert store.read("a") == {"source": "x = 1"}
    path = place / "a.json"
    path.chmod(0o666)
    with pytest.raises(store.CannotUse, match="can be written by others than this account"):
        store.read("a")
    path.chmod(0o600)
    owner = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: owner + 1)
    with pytest.raises(store.CannotUse, match="can be written by others than this account"):
        store.read("a")
    with pytest.raises(UserError, match="another account's"), store.held("a", print):
        raise AssertionError
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path.write_text(path.read_text()[:-9])
    with pytest.raises(store.CannotUse, match=f"{path} is damaged"):
        store.read("a")


def test_code_that_cannot_be_loaded_is_not_used() -> None:
    with pytest.raises(store.CannotUse, match="cannot be loaded"):
        load("def call(:", {}, print)
    with pytest.raises(store.CannotUse, match="cannot be loaded"):
        load("import there_is_no_such_module", {}, print)


def test_a_damaged_kernel_is_compiled_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inductor compiles what is not there, and loads what is: as a module in C."""
    monkeypatch.setenv(store.KERNELS, str(tmp_path))
    kernel = tmp_path / "kernel.so"
    kernel.write_bytes(b"")
    source = f"""
import importlib.util, os
if os.path.exists({str(kernel)!r}):
    spec = importlib.util.spec_from_file_location("kernel", {str(kernel)!r})
    importlib.util.module_from_spec(spec)
def call(inputs):
    return inputs[0] + weight
"""
    said: list[str] = []
    code = load(source, {"weight": torch.ones(1)}, said.append)
    assert said == [f"--frozen compiled: {kernel} is damaged: compiled again"]
    assert not kernel.exists()
    assert code([torch.ones(1)]) == 2
    # One that lies elsewhere is not ours to remove.
    kernel.write_bytes(b"")
    monkeypatch.setenv(store.KERNELS, str(tmp_path / "elsewhere"))
    with pytest.raises(store.CannotUse, match="cannot be loaded"):
        load(source, {}, said.append)
    assert kernel.exists()
