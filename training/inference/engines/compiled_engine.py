"""PyTorch with its UNet compiled: inductor fuses it, and packs its frozen weights beforehand.

Compiling takes minutes for Stable Diffusion 1.5, once a command, and pays where it draws many
pictures. Code is compiled for one size, and anew for prompts of another number of pieces.
"""

from __future__ import annotations

from typing import Any

import torch
from torch._inductor.exc import InductorError, InvalidCxxCompiler

from training.errors import UserError, first_line
from training.inference.engines import Say, torch_engine
from training.inference.settings import Settings, Source

FREEZING = {"freezing": True}


def load(source: Source, settings: Settings, say: Say) -> torch_engine.TorchArtist:
    """Get ready to draw with a compiled UNet (see `training.inference.engines`).

    Raises:
        UserError: there is no C++ compiler, or it does not compile what inductor writes.
    """
    _refuse_no_compiler()
    artist = torch_engine.load(source, settings, say)
    pipeline = artist.pipeline
    say("compiling the UNet")
    # In place: the pipeline goes on asking the UNet for its configuration and dtype.
    pipeline.unet.compile(options=FREEZING, dynamic=False)
    try:
        with artist.computing():
            positional, named = _example(artist, settings)
            pipeline.unet(*positional, **named)
    except InductorError as error:
        raise UserError(
            f"--engine compiled: what torch.compile writes cannot be compiled here: "
            f"{first_line(error)[:300]}\n  It needs g++ and Python's headers (Debian: g++ and "
            "python3-dev); --engine torch needs neither."
        ) from error
    return artist


def _refuse_no_compiler() -> None:
    from torch._inductor import cpp_builder

    try:
        cpp_builder.get_cpp_compiler()
    except (InvalidCxxCompiler, InductorError) as error:
        raise UserError(
            "--engine compiled: there is no C++ compiler. Install g++ (Debian: apt install g++), "
            "or use --engine torch."
        ) from error


def _example(
    artist: torch_engine.TorchArtist, settings: Settings
) -> tuple[tuple[torch.Tensor, ...], dict[str, Any]]:
    """Arguments of the UNet, in the places and of the shapes that drawing gives them in.

    Code that was compiled for an argument by name is not used for one by position.
    """
    pipeline, unet = artist.pipeline, artist.pipeline.unet
    batch, scale = 2 if settings.guidance_scale > 1 else 1, pipeline.vae_scale_factor
    text = artist.tokenizer.model_max_length, pipeline.text_encoder.config.hidden_size
    latents = torch.zeros(
        batch, unet.config.in_channels, settings.height // scale, settings.width // scale,
        dtype=unet.dtype,
    )  # fmt: skip
    return (latents, torch.tensor(1)), {
        "encoder_hidden_states": torch.zeros(batch, *text, dtype=unet.dtype),
        "timestep_cond": None,
        "cross_attention_kwargs": None,
        "added_cond_kwargs": None,
        "return_dict": False,
    }
