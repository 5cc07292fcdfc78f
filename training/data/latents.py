"""Pictures encoded once by the frozen VAE, kept on disk, and sampled from at every step.

What is kept is the mean and the standard deviation of the VAE's posterior, for a picture and for
its mirror image: sampling from them is the same distribution as encoding live.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from training import atomic_files
from training.data.buckets import bucket_of
from training.data.dataset import Picture
from training.data.images import open_picture, to_tensor
from training.models.loading import weights_digest
from training.models.objective import deviation

FOLDER = "latents"
"""Of the run directory, unless another is asked for."""
PREPARATION = "1"
"""Raised whenever `training.data.images` prepares pixels differently, so that old entries miss."""
MOMENTS = "mean_and_deviation"
MOMENTS_BEFORE = "posterior"
"""Mean and log-variance, which entries held at first; they are still read."""


class LatentCache:
    """Posteriors of pictures in a folder, one safetensors file per entry.

    Args:
        folder: made if absent.
        vae: frozen; its weights and config are part of every key.
        resolution, center_crop: how pictures are prepared.
        dtype: what the VAE computes in.
        multiple: pictures are cut to the aspect-ratio bucket that suits them, whose sides are
            multiples of this; None: to a square, all of them.
        digest: the VAE's `weights_digest`, where it is known.
    """

    def __init__(
        self,
        folder: Path,
        vae: Any,
        resolution: int,
        center_crop: bool,
        dtype: torch.dtype,
        multiple: int | None = None,
        digest: str | None = None,
    ) -> None:
        self.folder = folder
        self.resolution = resolution
        self.center_crop = center_crop
        self.dtype = dtype
        self.multiple = multiple
        settings = {k: v for k, v in sorted(vae.config.items()) if not k.startswith("_")}
        weights = digest or weights_digest(vae)
        self._vae_key = weights + json.dumps(settings, sort_keys=True, default=str)

    def path(self, picture: Picture, flip: bool) -> Path:
        """The entry's file: its name hashes everything that the posterior depends on."""
        key = [
            PREPARATION,
            self._vae_key,
            picture.digest,
            self.size_of(picture),
            self.center_crop,
            flip,
            str(self.dtype),
        ]
        return self.folder / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()}.safetensors"

    def size_of(self, picture: Picture) -> int | tuple[int, int]:
        """What a picture is resized to: the side of the square, or a bucket's height and width."""
        if self.multiple is None:
            return self.resolution
        return bucket_of(*picture.size, self.resolution, self.multiple)

    def read(self, picture: Picture, flip: bool) -> torch.Tensor | None:
        """[2, channels, height, width] float32, mean then deviation; None if absent or torn."""
        try:
            with safe_open(self.path(picture, flip), framework="pt") as file:
                before = MOMENTS_BEFORE in file.keys()  # noqa: SIM118 (it is no dict)
                moments: torch.Tensor = file.get_tensor(MOMENTS_BEFORE if before else MOMENTS)
                digest = (file.metadata() or {}).get("sha256")
        except (OSError, SafetensorError):
            return None
        if digest != _digest(moments):
            return None
        return torch.stack([moments[0], deviation(moments[1])]) if before else moments

    def encode(self, picture: Picture, flip: bool, vae: Any) -> torch.Tensor:
        """Encode a picture and keep it; shapes as `read`."""
        image = open_picture(picture.path, self.resolution)
        crop = self.center_crop or self.multiple is not None
        pixels = to_tensor(image, self.size_of(picture), crop, flip)
        with torch.no_grad():
            posterior = vae.encode(pixels[None].to(self.dtype)).latent_dist
        logvar = posterior.logvar.float()  # in float32, whatever the VAE computes in
        moments = torch.cat([posterior.mean.float(), deviation(logvar)]).contiguous()
        atomic_files.write_file(
            self.path(picture, flip),
            lambda temporary: save_file(
                {MOMENTS: moments}, temporary, metadata={"sha256": _digest(moments)}
            ),
        )
        return moments


def encode_missing(
    cache: LatentCache,
    pictures: list[Picture],
    vae: Any,
    local_rank: int,
    local_size: int,
    progress: Callable[[int, int], None],
    before: Callable[[], None] = lambda: None,
) -> None:
    """Encode this rank's share of the pictures that the cache of this machine lacks.

    `progress(done, of)` is called before each and after the last, `before` before the first.
    """
    missing = [entry for entry in _entries(pictures) if cache.read(*entry) is None]
    assigned = missing[local_rank::local_size]
    if assigned:
        before()
    for done, entry in enumerate(assigned):
        progress(done, len(assigned))
        cache.encode(*entry, vae)
    progress(len(assigned), len(assigned))


def read_each(cache: LatentCache, pictures: list[Picture], vae: Any) -> list[torch.Tensor]:
    """Each picture's posterior: [2 (plain, mirrored), 2 (mean, deviation), C, H, W].

    An entry that is missing all the same (another rank's disk filled up, say) is encoded here.
    """

    def posterior(picture: Picture, flip: bool) -> torch.Tensor:
        found = cache.read(picture, flip)
        return cache.encode(picture, flip, vae) if found is None else found

    return [
        torch.stack([posterior(picture, flip) for flip in (False, True)]) for picture in pictures
    ]


def read_all(cache: LatentCache, pictures: list[Picture], vae: Any) -> torch.Tensor:
    """Every picture's posterior, of one size: [pictures, 2, 2, C, H, W], as `read_each`."""
    return torch.stack(read_each(cache, pictures, vae))


def _entries(pictures: list[Picture]) -> list[tuple[Picture, bool]]:
    return [(picture, flip) for picture in pictures for flip in (False, True)]


def _digest(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().view(-1).view(torch.uint8).numpy().data).hexdigest()
