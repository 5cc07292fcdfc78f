"""What draws pictures: PyTorch, PyTorch compiled, or OpenVINO. The rest does not know which is on.

An engine is a module here, named in `MODULES`, with one function:

    def load(source: Source, settings: Settings, say: Say) -> Artist

It gets ready to draw any number of pictures that differ in prompt and seed alone: `settings` holds
their size, steps, guidance, scheduler and negative prompt, so an engine may compile for just
these. `source` names the weights: the base model, the words (`source.words`: token and file each),
the LoRAs, the VAE and the dtype. An engine whose weights were made beforehand (OpenVINO's are in
`source.exported`, or under `source.run`) must make sure that they were made of this very source,
and raise a `UserError` with the command that makes them where they are missing or of another.
`say` takes lines for the person. Modules are imported when they are asked for: a package that only
one engine needs is imported in its module, and a `UserError` says how to install it.

What `load` returns satisfies `Artist`: a tokenizer in which every word's tokens are
(`training.models.words` names them), how many tokens of a prompt it draws, and `draw`. Prompts are
checked by the caller with `tokenizer` and `token_limit`, so `draw` gets none that it cannot draw.
A picture must depend on its prompt, its seed, `source` and `settings` alone: the noise comes from
`torch.Generator().manual_seed(seed)`, so that engines begin with the same noise.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any, Protocol

from PIL import Image

from training.errors import UserError
from training.inference.settings import Settings, Source

Say = Callable[[str], None]
OnStep = Callable[[int], None]

MODULES = {
    "torch": "training.inference.engines.torch_engine",
    "compiled": "training.inference.engines.compiled_engine",
    "openvino": "training.inference.engines.openvino_engine",
}


class Artist(Protocol):
    """Draws pictures with the weights and the settings that it was loaded with.

    Attributes:
        tokenizer: with every word's tokens in it.
        token_limit: how many tokens of a prompt are drawn, its beginning and end among them; None:
            any number.
    """

    tokenizer: Any
    token_limit: int | None

    def change(self, settings: Settings) -> None:
        """Draw by other settings from now on: of the same engine and size, and with guidance (a
        scale above 1) if there was guidance before.

        Raises:
            UserError: the scheduler cannot draw with this model.
        """

    def draw(self, prompt: str, seed: int, on_step: OnStep) -> Image.Image:
        """One picture of `prompt`.

        Args:
            on_step: called with the number of denoising steps done, after each.
        """


Load = Callable[[Source, Settings, Say], Artist]


def load(source: Source, settings: Settings, say: Say) -> Artist:
    """Get the engine that `settings` name ready to draw with `source`.

    Raises:
        UserError: this environment lacks what it needs, or the source does not fit together.
    """
    module = MODULES[settings.engine]
    if importlib.util.find_spec(module) is None:
        raise UserError(f"--engine {settings.engine}: is not a part of this installation.")
    artist: Artist = importlib.import_module(module).load(source, settings, say)
    return artist
