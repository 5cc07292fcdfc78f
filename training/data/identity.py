"""By what a run recognises what it started with, wherever that lies when the run goes on."""

from __future__ import annotations

import hashlib
import inspect
import json
from typing import Any

from training.data.dataset import Picture, repeated
from training.method import Values
from training.models.loading import Models, part_digest, weights_digest

NOISE_SETTINGS = (
    "prediction_type", "num_train_timesteps", "beta_schedule", "beta_start", "beta_end",
    "trained_betas", "rescale_betas_zero_snr",
)  # fmt: skip
"""What training takes from the scheduler; the rest of its settings is for drawing."""
TEXT_SETTINGS = ("hidden_act", "num_attention_heads", "layer_norm_eps")
"""What the text encoder computes by beside its weights."""
PARTS = ("text_encoder", "vae", "unet")


def hashed_anew(models: Models) -> str:
    """`identify`'s entry for the model, from the weights themselves: nothing is remembered."""
    return _digest([weights_digest(getattr(models, part)) for part in PARTS])


def identify(
    models: Models, pictures: list[Picture], start: Values, captions: list[str] | None = None
) -> dict[str, Any]:
    """What must be the same when a run goes on, by the names of `RunRecord`'s fields.

    Args:
        models: before the new word is added to the tokenizer.
        start: what the parameters start from, by name.
        captions: of the pictures; None: they have none.
    """
    return {
        "model": _digest([part_digest(models, part) for part in PARTS]),
        "pictures": _digest([picture.digest for picture in pictures] + repeated(pictures)),
        "rows": _start_digest(start),
        "tokenizer": tokenizer_digest(models.tokenizer),
        "settings": settings(models),
        **({} if captions is None else {"captions": _digest(captions)}),
    }


def _start_digest(start: Values) -> str:
    """Of one small parameter its numbers; of many, which may be millions, their bytes."""
    values = list(start.values())
    if len(values) == 1:
        return _digest(values[0].tolist())
    return weights_digest(start)


def tokenizer_digest(tokenizer: Any) -> str:
    """SHA-256 over everything that makes ids of a text."""
    rules = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    merges = [pair.split() if isinstance(pair, str) else pair for pair in rules.get("merges", [])]
    special = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    return _digest(
        [sorted(tokenizer.get_vocab().items()), merges, special, tokenizer.model_max_length]
    )


def settings(models: Models) -> dict[str, str]:
    """What the models compute by beside their weights: "part.key" -> value as JSON.

    Of the UNet and the VAE what differs from their class's defaults, so that another release of
    diffusers, with more keys, finds the same.
    """
    found = {
        "scheduler": {key: models.noise_scheduler.config.get(key) for key in NOISE_SETTINGS},
        "text_encoder": {key: getattr(models.text_encoder.config, key) for key in TEXT_SETTINGS},
        "vae": _beside_defaults(models.vae),
        "unet": _beside_defaults(models.unet),
    }
    return {
        f"{part}.{key}": json.dumps(value)
        for part, values in found.items()
        for key, value in sorted(values.items())
    }


def _beside_defaults(model: Any) -> dict[str, Any]:
    parameters = inspect.signature(type(model).__init__).parameters
    return {
        key: value
        for key, value in json.loads(json.dumps(dict(model.config), default=str)).items()
        if key in parameters and value != json.loads(json.dumps(parameters[key].default))
    }


def _digest(values: object) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()
