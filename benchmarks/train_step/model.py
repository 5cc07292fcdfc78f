"""The model that is trained: random weights in the shapes of Stable Diffusion 1.5."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from tests.tiny_model import make_pictures, make_tokenizer

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "training" / "models" / "files" / "stable_diffusion_1"
MAX_LENGTH = 77
CAPTION = "a photo of the toy"


def make_inputs(folder: Path, method: str) -> None:
    """Write the model to `folder`/model and what it is trained on to `folder`/pictures.

    The model is made in a process of its own. What a process had at most, Linux counts for the
    processes that it starts, too: making the model takes more than some of the trainings do.

    Raises:
        RuntimeError: the process failed.
    """
    maker = multiprocessing.get_context("spawn").Process(
        target=make_model, args=(folder / "model",)
    )
    maker.start()
    maker.join()
    if maker.exitcode:
        raise RuntimeError(f"writing the model to {folder} ended with {maker.exitcode}")
    pictures = make_pictures(folder / "pictures")
    # diffusers' script of words opens every file of the folder as a picture.
    if method != "textual_inversion":
        lines = [
            json.dumps({"file_name": path.name, "text": CAPTION})
            for path in sorted(pictures.iterdir())
        ]
        (pictures / "metadata.jsonl").write_text("\n".join(lines) + "\n")


def make_model(folder: Path) -> None:
    """Write a pipeline of Stable Diffusion 1.5's shapes with random weights.

    VAE and UNet are in bf16, for the disk's sake: whoever trains asks for the dtype to read them
    in. The text encoder is in fp32, as published, since transformers keeps the file's dtype.
    """
    torch.manual_seed(0)

    def config(model: type[Any], part: str) -> Any:
        return model.from_config(model.load_config(str(CONFIGS / part)))

    text_config = CLIPTextConfig.from_pretrained(CONFIGS / "text_encoder")
    StableDiffusionPipeline(
        vae=config(AutoencoderKL, "vae").to(torch.bfloat16),
        text_encoder=CLIPTextModel(text_config),
        tokenizer=full_tokenizer(folder / "tokenizer", text_config.vocab_size),
        unet=config(UNet2DConditionModel, "unet").to(torch.bfloat16),
        scheduler=config(DDIMScheduler, "scheduler"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)


def full_tokenizer(folder: Path, size: int) -> CLIPTokenizer:
    """The tests' tokenizer with `size` entries, of which most are never used.

    diffusers' script of words resizes the embedding table, which it trains whole, to the
    tokenizer's length.
    """
    make_tokenizer(folder)
    path = folder / "vocab.json"
    ids = json.loads(path.read_text())
    *known, start, end = sorted(ids, key=ids.__getitem__)
    unused = (f"<unused {number}>" for number in range(size - len(ids)))
    tokens = [*known, *unused, start, end]
    path.write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    return CLIPTokenizer.from_pretrained(folder, model_max_length=MAX_LENGTH)
