"""Encoded pictures: what an entry depends on, torn entries, and sampling from them."""

from __future__ import annotations

import copy
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image
from safetensors.torch import load_file, save_file

from training.data.dataset import Picture
from training.data.images import open_picture, to_tensor
from training.data.latents import LatentCache, encode_missing, read_all
from training.models.objective import sample_posterior

SIDE = 16


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    torch.manual_seed(0)
    return (
        AutoencoderKL(block_out_channels=(8,), latent_channels=4, norm_num_groups=4)
        .requires_grad_(False)
        .eval()
    )


@pytest.fixture
def two(tmp_path: Path) -> list[Picture]:
    generator = np.random.default_rng(0)
    found = []
    for name in ("a.png", "b.png"):
        pixels = generator.integers(0, 256, (24, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
        digest = hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
        found.append(Picture(tmp_path / name, digest))
    return found


@pytest.fixture
def cache(vae: AutoencoderKL, tmp_path: Path) -> LatentCache:
    return LatentCache(tmp_path / "latents", vae, SIDE, False, torch.float32)


def fill(cache: LatentCache, pictures: list[Picture], vae: AutoencoderKL) -> int:
    """Encode what is missing; returns how many entries that was."""
    steps: list[tuple[int, int]] = []
    encode_missing(cache, pictures, vae, 0, 1, lambda done, of: steps.append((done, of)))
    assert steps[-1][0] == steps[-1][1]
    return steps[-1][1]


def test_an_entry_is_named_after_everything_that_it_depends_on(
    cache: LatentCache, vae: AutoencoderKL, two: list[Picture], tmp_path: Path
) -> None:
    folder = cache.folder
    changed_weight = copy.deepcopy(vae)
    with torch.no_grad():
        next(changed_weight.parameters()).view(-1)[0] += 1e-6
    changed_config = copy.deepcopy(vae)
    changed_config.register_to_config(sample_size=7)
    names = {
        "as it is": cache.path(two[0], False),
        "picture": cache.path(two[1], False),
        "flip": cache.path(two[0], True),
        "size": LatentCache(folder, vae, 24, False, torch.float32).path(two[0], False),
        "crop": LatentCache(folder, vae, SIDE, True, torch.float32).path(two[0], False),
        "dtype": LatentCache(folder, vae, SIDE, False, torch.bfloat16).path(two[0], False),
        "weights": LatentCache(folder, changed_weight, SIDE, False, torch.float32).path(
            two[0], False
        ),
        "config": LatentCache(folder, changed_config, SIDE, False, torch.float32).path(
            two[0], False
        ),
    }
    assert len(set(names.values())) == len(names)
    moved = Picture(tmp_path / "elsewhere.png", two[0].digest)
    again = LatentCache(folder, copy.deepcopy(vae), SIDE, False, torch.float32)
    assert again.path(moved, False) == names["as it is"]


def test_only_what_is_missing_is_encoded(
    cache: LatentCache, vae: AutoencoderKL, two: list[Picture]
) -> None:
    assert fill(cache, two[:1], vae) == 2
    assert fill(cache, two, vae) == 2
    assert fill(cache, two, vae) == 0
    assert sorted(cache.folder.iterdir()) == sorted(
        cache.path(picture, flip) for picture in two for flip in (False, True)
    )


def test_the_encoder_is_prepared_where_something_is_missing(
    cache: LatentCache, vae: AutoencoderKL, two: list[Picture]
) -> None:
    said: list[object] = []
    for pictures in (two[:1], two, two):
        encode_missing(
            cache, pictures, vae, 0, 1, lambda *done: said.append(done), lambda: said.append("now")
        )
    assert said == ["now", (0, 2), (1, 2), (2, 2)] * 2 + [(0, 0)]


def test_ranks_of_a_machine_share_the_work(
    cache: LatentCache, vae: AutoencoderKL, two: list[Picture]
) -> None:
    counts = []
    fresh = LatentCache(cache.folder / "by rank", vae, SIDE, False, torch.float32)
    missing = LatentCache(cache.folder / "none", vae, SIDE, False, torch.float32)
    for rank in range(3):
        encode_missing(missing, two, vae, rank, 3, lambda done, of: counts.append(of))
        for file in missing.folder.iterdir():
            fresh.folder.mkdir(parents=True, exist_ok=True)
            file.rename(fresh.folder / file.name)
    assert fill(fresh, two, vae) == 0
    assert set(counts) == {1, 2}


def test_posteriors_are_those_of_the_vae(
    cache: LatentCache, vae: AutoencoderKL, two: list[Picture]
) -> None:
    fill(cache, two, vae)
    found = read_all(cache, two, vae)
    assert found.shape == (2, 2, 2, 4, SIDE, SIDE)
    assert found.dtype == torch.float32
    for number, picture in enumerate(two):
        for flip in (False, True):
            pixels = to_tensor(open_picture(picture.path), SIDE, False, flip)
            posterior = vae.encode(pixels[None]).latent_dist
            assert torch.equal(found[number, int(flip), 0], posterior.mean[0])
            assert torch.equal(found[number, int(flip), 1], posterior.std[0])


def test_entries_of_before_which_hold_the_log_variance_are_read(
    cache: LatentCache, vae: AutoencoderKL, two: list[Picture]
) -> None:
    fill(cache, two, vae)
    wanted = read_all(cache, two, vae)
    for picture in two:
        for flip in (False, True):
            pixels = to_tensor(open_picture(picture.path), SIDE, False, flip)
            posterior = vae.encode(pixels[None]).latent_dist
            both = torch.cat([posterior.mean, posterior.logvar])
            digest = hashlib.sha256(both.numpy().tobytes()).hexdigest()
            save_file({"posterior": both}, cache.path(picture, flip), metadata={"sha256": digest})
    assert fill(cache, two, vae) == 0
    assert torch.equal(read_all(cache, two, vae), wanted)


def test_the_same_seed_gives_the_latents_of_live_encoding(
    cache: LatentCache, vae: AutoencoderKL, two: list[Picture]
) -> None:
    fill(cache, two, vae)
    mean, deviation = read_all(cache, two, vae)[0, 0]
    pixels = to_tensor(open_picture(two[0].path), SIDE, False, False)
    live = vae.encode(pixels[None]).latent_dist.sample(torch.Generator().manual_seed(7))
    noise = torch.randn(live.shape, generator=torch.Generator().manual_seed(7))
    ours = sample_posterior(mean[None], deviation[None], noise, 0.18215)
    torch.testing.assert_close(ours, live * 0.18215, rtol=1e-6, atol=1e-7)


def test_samples_have_the_mean_and_deviation_of_live_encoding(
    cache: LatentCache, vae: AutoencoderKL, two: list[Picture]
) -> None:
    fill(cache, two, vae)
    mean, spread = read_all(cache, two, vae)[0, 0]
    pixels = to_tensor(open_picture(two[0].path), SIDE, False, False)
    posterior = vae.encode(pixels[None]).latent_dist
    count = 4000
    generator = torch.Generator().manual_seed(0)
    live = torch.cat([posterior.sample(generator) for _ in range(count)])
    noise = torch.randn((count, *mean.shape), generator=torch.Generator().manual_seed(1))
    ours = sample_posterior(mean[None], spread[None], noise, 1.0)
    deviation = live.std(0)
    assert ((ours.mean(0) - live.mean(0)).abs() < 6 * deviation * (2 / count) ** 0.5).all()
    assert ((ours.std(0) / deviation - 1).abs() < 6 / count**0.5).all()


def test_a_torn_entry_is_encoded_again(
    cache: LatentCache, vae: AutoencoderKL, two: list[Picture]
) -> None:
    fill(cache, two, vae)
    path = cache.path(two[0], True)
    whole = path.read_bytes()
    for length in (0, 4, 8, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert cache.read(two[0], True) is None, length
    assert fill(cache, two, vae) == 1
    assert path.read_bytes() == whole


def test_an_entry_with_any_flipped_bit_is_encoded_again(
    cache: LatentCache, vae: AutoencoderKL, two: list[Picture]
) -> None:
    fill(cache, two, vae)
    path = cache.path(two[1], False)
    whole = path.read_bytes()
    entry = cache.read(two[1], False)
    assert entry is not None
    header = 8 + int.from_bytes(whole[:8], "little")
    places = [*range(header), *range(header, len(whole), 97), len(whole) - 1]
    for number, place in enumerate(places):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << number % 8
        path.write_bytes(bytes(damaged))
        found = cache.read(two[1], False)
        assert found is None or torch.equal(found, entry), place  # a blank in the header may flip
        assert found is None or place < header
    assert fill(cache, two, vae) == 1
    assert path.read_bytes() == whole


def test_a_foreign_file_under_an_entrys_name_is_encoded_again(
    cache: LatentCache, vae: AutoencoderKL, two: list[Picture]
) -> None:
    fill(cache, two, vae)
    path = cache.path(two[0], False)
    moments = load_file(path)["mean_and_deviation"]
    for name in ("mean_and_deviation", "posterior"):
        save_file({name: moments}, path)
        assert cache.read(two[0], False) is None
    save_file({"other": moments}, path)
    assert cache.read(two[0], False) is None


def test_an_entry_lost_after_encoding_is_encoded_while_reading(
    cache: LatentCache, vae: AutoencoderKL, two: list[Picture]
) -> None:
    fill(cache, two, vae)
    wanted = read_all(cache, two, vae)
    cache.path(two[0], False).unlink()
    assert torch.equal(read_all(cache, two, vae), wanted)
    assert cache.path(two[0], False).exists()
