"""Learned rows on disk, as diffusers and A1111 read them."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from training.errors import UserError
from training.models.embeds import A1111_KEY, load_embeds, save_a1111, save_embeds

ROWS = torch.randn(2, 32, generator=torch.Generator().manual_seed(0))


def complaint(path: Path) -> str:
    with pytest.raises(UserError) as raised:
        load_embeds(path)
    return str(raised.value)


@pytest.mark.parametrize("kind", ["safetensors", "bin", "a1111"])
@pytest.mark.parametrize("vectors", [1, 2])
def test_diffusers_loads_every_form_with_its_tokens(
    kind: str, vectors: int, tiny_model: Path, tmp_path: Path
) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_model)
    words = len(pipeline.tokenizer)
    if kind == "a1111":
        pipeline.load_textual_inversion(
            save_a1111(tmp_path, "<new>", ROWS[:vectors]), token="<new>"
        )
    else:
        save_embeds(tmp_path / f"rows.{kind}", "<new>", ROWS[:vectors])
        pipeline.load_textual_inversion(tmp_path / f"rows.{kind}")
    tokens = ["<new>", "<new>_1"][:vectors]
    ids = pipeline.tokenizer.convert_tokens_to_ids(tokens)
    assert ids == [words, words + 1][:vectors]
    weight = pipeline.text_encoder.get_input_embeddings().weight.detach()
    assert torch.equal(weight[ids], ROWS[:vectors])
    prompt = pipeline.maybe_convert_prompt("a photo of <new>", pipeline.tokenizer)
    assert prompt.split()[3:] == tokens


@pytest.mark.parametrize("name", ["rows.safetensors", "rows.bin"])
def test_rows_are_read_back(name: str, tmp_path: Path) -> None:
    save_embeds(tmp_path / name, "<new>", ROWS)
    assert torch.equal(load_embeds(tmp_path / name), ROWS)


def test_rows_are_written_as_float32_without_their_gradient(tmp_path: Path) -> None:
    rows = torch.nn.Parameter(torch.ones(32, 2, dtype=torch.bfloat16).T)
    for name in ("rows.safetensors", "rows.bin"):
        save_embeds(tmp_path / name, "<new>", rows)
        found = load_embeds(tmp_path / name)
        assert found.dtype == torch.float32
        assert found.shape == (2, 32)
        assert not found.requires_grad
    with safe_open(tmp_path / "rows.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


@pytest.mark.parametrize(
    ("token", "name"),
    [("<new>", "new"), ("a/b\\..", "ab.."), ("<katze-1_b>", "katze-1_b"), ("<<>>", "concept")],
)
def test_a1111_files_are_named_after_the_word(token: str, name: str, tmp_path: Path) -> None:
    path = save_a1111(tmp_path, token, ROWS)
    assert path == tmp_path / f"{name}.safetensors"
    assert list(load_file(path)) == [A1111_KEY]
    assert torch.equal(load_file(path)["emb_params"], ROWS)
    assert torch.equal(load_embeds(path), ROWS)


def test_a_single_row_without_a_dimension_is_one_row(tmp_path: Path) -> None:
    torch.save({"<cat>": ROWS[0]}, tmp_path / "library.bin")
    assert load_embeds(tmp_path / "library.bin").shape == (1, 32)


def test_a_malicious_pickle_is_refused_and_does_nothing(tmp_path: Path) -> None:
    class Malicious:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "harm"),)

    (tmp_path / "rows.bin").write_bytes(pickle.dumps({"<new>": Malicious()}))
    assert "a pickle with more than tensors in it" in complaint(tmp_path / "rows.bin")
    torch.save({"<new>": Malicious()}, tmp_path / "rows.pt")
    assert "a pickle with more than tensors in it" in complaint(tmp_path / "rows.pt")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("name", ["absent.safetensors", "absent.bin", "folder.safetensors"])
def test_a_file_that_cannot_be_read_is_named_with_the_reason(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder.safetensors").mkdir()
    found = complaint(tmp_path / name)
    assert found.startswith(f"initial_embeds {tmp_path / name}: cannot be read (")
    assert "None" not in found


@pytest.mark.parametrize("name", ["rows.safetensors", "rows.bin"])
def test_a_file_cut_short_is_named(name: str, tmp_path: Path) -> None:
    save_embeds(tmp_path / name, "<new>", ROWS)
    whole = (tmp_path / name).read_bytes()
    for length in range(0, len(whole) - 1, len(whole) // 20):
        (tmp_path / name).write_bytes(whole[:length])
        assert complaint(tmp_path / name).startswith(f"initial_embeds {tmp_path / name}: "), length


def test_files_with_no_or_several_words_or_no_rows_are_refused(tmp_path: Path) -> None:
    save_file({"<a>": ROWS, "<b>": ROWS.clone()}, tmp_path / "two.safetensors")
    torch.save([ROWS], tmp_path / "list.bin")
    torch.save({"step": 4}, tmp_path / "none.bin")
    torch.save({"<a>": torch.tensor(4.0)}, tmp_path / "number.bin")
    for name in ("two.safetensors", "list.bin", "none.bin", "number.bin"):
        assert complaint(tmp_path / name).startswith(f"initial_embeds {tmp_path / name}: "), name
