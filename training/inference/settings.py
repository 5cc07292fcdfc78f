"""What a picture is drawn with and how: all that decides its pixels, kept inside its PNG."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator

from training.config.groups import ModelConfig
from training.errors import UserError

EngineName = Literal["torch", "compiled", "openvino"]


class _Fixed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class File(_Fixed):
    """A file or a folder that a picture needs, and its content when it was drawn.

    Attributes:
        sha256: of the file's bytes; of a folder's files, by name; "" for a name on the hub.
    """

    path: Path
    sha256: str = ""

    @classmethod
    def at(cls, path: Path) -> Self:
        """The file or folder as it is now; a name on the hub if there is none."""
        return cls(path=path, sha256=_digest(path))

    def refuse_changes(self, what: str) -> None:
        """Make sure that its content is still that of `sha256`.

        Raises:
            UserError: names it with `what`, a flag.
        """
        found = _digest(self.path)
        if self.sha256 and found != self.sha256:
            how = "is another file than when the picture was drawn" if found else "is gone"
            raise UserError(
                f"{what} {self.path}: {how}. Give the right one with {what}, or draw anew."
            )


def _digest(path: Path) -> str:
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        named = "".join(f"{file.relative_to(path)} {_digest(file)}\n" for file in files)
        return hashlib.sha256(named.encode()).hexdigest()
    if not path.is_file():
        return ""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class Word(_Fixed):
    """A learned word.

    Attributes:
        token: as it is written in prompts.
        file: with its rows.
    """

    token: str
    file: File


class Lora(_Fixed):
    """A LoRA, of the UNet, the text encoder or both.

    Attributes:
        weight: how much of it; 1 is all.
    """

    file: File
    weight: float = 1.0


class Source(_Fixed):
    """The weights that pictures are drawn with.

    Attributes:
        model: the base model.
        words: learned words, the run's own first.
        loras: added to the weights in this order.
        vae: draws in the place of the model's own VAE.
        unet: draws in the place of the model's own UNet: what `training.quantize` has learned.
        dtype: that UNet and VAE compute in.
        run: the run folder that the model and the first word are from.
        exported: the folder that `training.export` has written, where it is not in the run's.
    """

    model: ModelConfig
    words: tuple[Word, ...] = ()
    loras: tuple[Lora, ...] = ()
    vae: File | None = None
    unet: File | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    run: Path | None = None
    exported: Path | None = None

    def refuse_changes(self) -> None:
        """Make sure that words, LoRAs and VAE are the files that they were.

        Raises:
            UserError: names the first that is not.
        """
        for word in self.words:
            word.file.refuse_changes("--embeds")
        for lora in self.loras:
            lora.file.refuse_changes("--lora")
        if self.vae is not None:
            self.vae.refuse_changes("--vae")
        if self.unet is not None:
            self.unet.refuse_changes("the run's UNet")


class Settings(_Fixed):
    """How pictures are drawn, alike for all of one command.

    Attributes:
        scheduler: a name in `training.inference.schedulers.SAMPLERS`.
        height, width: in pixels, multiples of 8.
        guidance_scale: 1 or less: none, and the negative prompt has no effect.
    """

    engine: EngineName = "torch"
    scheduler: str
    height: int = Field(gt=0)
    width: int = Field(gt=0)
    num_inference_steps: int = Field(ge=1)
    guidance_scale: float = Field(ge=0)
    negative_prompt: str = ""

    @field_validator("height", "width")
    @classmethod
    def _multiple_of_eight(cls, value: int) -> int:
        if value % 8:
            raise ValueError(
                f"must be a multiple of 8; the nearest is {max(8, round(value / 8) * 8)}"
            )
        return value


class Picture(_Fixed):
    """One picture: with the same weights the same pixels, on the same machine.

    Attributes:
        made_with: the software and processor, which may change last bits; for the person to read.
    """

    source: Source
    settings: Settings
    prompt: str
    seed: int = Field(ge=0, lt=2**64)
    made_with: str = ""
