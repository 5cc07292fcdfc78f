"""export.json: what an exported pipeline was made of."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from training.errors import UserError

FILE = "export.json"
FOLDER = "openvino"
"""Of a run: its export, where no other place is named."""
Weights = Literal["fp32", "bf16", "int8", "hybrid", "qat"]


class ExportRecord(BaseModel):
    """What an export was made of.

    Attributes:
        model: the base model's name or folder.
        words: the learned words' tokens, all of their vectors.
        embeds: the sha256 of the files that these words are from.
        loras: the sha256 of each file that is fused into the weights, and how much of it.
        unet: the sha256 of the file with the quantized UNet that it was made from; "qat" alone has
            one.
        vae: the sha256 of the file or folder that draws in place of the model's own VAE.
        batch_size, height, width: of the pictures, in pixels; None: any.
        guidance: whether a fixed shape is made for guidance, so that the UNet takes two samples
            per picture.
        weights: how they are stored, see `training.openvino.write.WEIGHTS`.
        calibration: the prompts that activations were quantized with; "hybrid" alone has some.
        merge_tokens: the share of tokens that its UNet merges.
        vocabulary: `vocabulary_digest` of its tokenizer.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    words: list[str]
    embeds: list[str]
    loras: list[tuple[str, float]] = []
    vae: str | None = None
    unet: str | None = None
    batch_size: int | None
    height: int | None
    width: int | None
    guidance: bool = True
    weights: Weights
    calibration: list[str] = []
    merge_tokens: float = 0
    vocabulary: str

    @property
    def shape(self) -> tuple[int, int, int] | None:
        """Pictures at a time, height and width; None: any."""
        if self.batch_size is None or self.height is None or self.width is None:
            return None
        return self.batch_size, self.height, self.width


def vocabulary_digest(tokenizer: Any) -> str:
    """A digest of all tokens and their numbers."""
    return hashlib.sha256(json.dumps(tokenizer.get_vocab(), sort_keys=True).encode()).hexdigest()


def read_record(folder: Path, command: str | None = None) -> ExportRecord:
    """The record of an export.

    Args:
        command: makes the export, for the message.

    Raises:
        UserError: `folder` holds none, or a damaged one.
    """
    path = folder / FILE
    command = command or f"python -m training.export RUN --output_dir {folder}"
    try:
        return ExportRecord.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}). Make an export with {command}"
        ) from error
    except ValidationError as error:
        raise UserError(
            f"{path}: is no record of an export ({error.errors()[0]['msg']}). "
            f"Export again: {command}"
        ) from error
