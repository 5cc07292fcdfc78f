"""Build the miniature model from nothing: autoencoder, text encoder, UNet, saved pipeline."""

from __future__ import annotations

import argparse
import copy
import os
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from training.machine import vector_math
from training.miniature.check import MODEL, draw, grid
from training.miniature.networks.loop import console, is_first, say
from training.miniature.networks.text_encoder import PlaceholderRows, train_text_encoder
from training.miniature.networks.tokenizer import new_tokenizer
from training.miniature.networks.unet import new_scheduler, train_unet
from training.miniature.networks.vae import as_tensor, encode, psnr, refine_decoder, train_vae
from training.miniature.scenes.captions import full_caption, vocabulary
from training.miniature.scenes.dataset import new_corpus, tokenize
from training.miniature.scenes.scene import Scene, render_all, sample_scenes
from training.ranks.process_group import joined

TIMEOUT_SECONDS = 1800
"""How long the other ranks wait for what the first does alone."""
VALIDATION_SEED = 10_011


def save_pipeline(
    folder: Path,
    vae: AutoencoderKL,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    unet: UNet2DConditionModel,
) -> StableDiffusionPipeline:
    """Write an ordinary half-precision pipeline directory; returns it in float32."""
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    halved = {
        name: copy.deepcopy(part).half()
        for name, part in pipeline.components.items()
        if isinstance(part, torch.nn.Module)
    }
    StableDiffusionPipeline(
        **{**pipeline.components, **halved}, requires_safety_checker=False
    ).save_pretrained(folder)
    # Older versions of transformers read these two instead of tokenizer.json.
    tokenizer.backend_tokenizer.model.save(str(folder / "tokenizer"))
    return pipeline


def build_vae(arguments: argparse.Namespace, device: str) -> AutoencoderKL:
    """Train the autoencoder, or load the one an earlier, resumed run has finished."""
    saved = arguments.work_dir / "vae"
    if arguments.resume and saved.exists():
        vae: AutoencoderKL = AutoencoderKL.from_pretrained(saved)
        return vae.to(device)
    pictures = render_all(sample_scenes(arguments.vae_scenes, seed=11))
    validation = render_all(sample_scenes(64, VALIDATION_SEED))
    vae = train_vae(
        pictures,
        validation,
        crop_steps=arguments.vae_crop_steps,
        steps=arguments.vae_steps,
        device=device,
        work_dir=arguments.work_dir,
        resume=arguments.resume,
    )
    if is_first():
        vae.save_pretrained(saved)
    say(f"autoencoder: {psnr(vae, as_tensor(validation, device)):.2f} dB")
    return vae


@dataclass(frozen=True)
class Lesson:
    """What the UNet (and at the end the decoder) learns from: this process's own scenes."""

    scenes: list[Scene]
    latents: Tensor
    seed: int


def build_lesson(arguments: argparse.Namespace, vae: AutoencoderKL) -> Lesson:
    """Sample the scenes of this process and pack them into scaled latents."""
    rank = dist.get_rank() if dist.is_initialized() else 0
    scenes = sample_scenes(arguments.scenes, seed=12 + 100 * rank)
    cache = arguments.work_dir / f"latents-{rank}.pt"
    if arguments.resume and cache.exists():
        return Lesson(scenes, torch.load(cache, weights_only=True), rank)
    latents = encode(vae, render_all(scenes)) * vae.config.scaling_factor
    torch.save(latents, cache)
    return Lesson(scenes, latents, rank)


def build_unet(
    arguments: argparse.Namespace,
    device: str,
    lesson: Lesson,
    vae: AutoencoderKL,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
) -> UNet2DConditionModel:
    """Train the UNet; now and then the pipeline so far and pictures of it are written."""
    corpus = new_corpus(lesson.scenes, tokenizer, captions=4, seed=13 + lesson.seed)
    held_out = sample_scenes(256, VALIDATION_SEED)
    validation = encode(vae, render_all(held_out)) * vae.config.scaling_factor
    shown = [full_caption(scene) for scene in sample_scenes(22, VALIDATION_SEED + 1)]
    shown += ["a toy", "a photo of a toy on a white background"]

    def snapshot(step: int, unet: UNet2DConditionModel) -> None:
        if step % arguments.snapshot_every and step != arguments.unet_steps:
            return
        pipeline = save_pipeline(arguments.output_dir, vae, text_encoder, tokenizer, unet)
        sheet = grid(draw(pipeline, shown, steps=15), shown)
        sheet.save(arguments.work_dir / f"pictures-{step}.png")

    return train_unet(
        lesson.latents,
        corpus,
        (validation, new_corpus(held_out, tokenizer, captions=1, seed=14)),
        text_encoder,
        PlaceholderRows(text_encoder, tokenizer),
        tokenize(tokenizer, [""])[0],
        steps=arguments.unet_steps,
        batch=arguments.unet_batch,
        learning_rate=arguments.unet_learning_rate,
        device=device,
        checkpoint=arguments.work_dir / "unet.pt",
        resume=arguments.resume,
        draw=snapshot,
    )


def build(arguments: argparse.Namespace) -> None:
    """Run all stages with the command line's options."""
    device = arguments.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    arguments.work_dir.mkdir(parents=True, exist_ok=True)
    vae = build_vae(arguments, device).requires_grad_(False).eval()
    tokenizer = new_tokenizer(vocabulary())
    text_encoder = train_text_encoder(
        tokenizer,
        new_corpus(sample_scenes(arguments.text_scenes, seed=12), tokenizer, seed=15),
        new_corpus(sample_scenes(500, VALIDATION_SEED), tokenizer, captions=1, seed=16),
        steps=arguments.text_steps,
        device=device,
        checkpoint=arguments.work_dir / "text_encoder.pt",
        resume=arguments.resume,
    )
    lesson = build_lesson(arguments, vae)
    unet = build_unet(arguments, device, lesson, vae, text_encoder, tokenizer)
    refine_decoder(
        vae,
        lesson.latents,
        render_all(lesson.scenes),
        render_all(sample_scenes(64, VALIDATION_SEED)),
        steps=arguments.decoder_steps,
        checkpoint=arguments.work_dir / "decoder.pt",
        resume=arguments.resume,
    )
    if not is_first():
        return
    save_pipeline(arguments.output_dir, vae, text_encoder, tokenizer, unet)
    size = sum(file.stat().st_size for file in arguments.output_dir.rglob("*") if file.is_file())
    console.print(f"{arguments.output_dir}: {size / 1e6:.2f} MB", markup=False)


def main() -> None:
    """Parse the command line and build."""
    parser = argparse.ArgumentParser(
        prog="python -m training.miniature.build",
        description="Train a miniature Stable Diffusion of coloured shapes from scratch and save "
        "it as an ordinary diffusers pipeline. Three stages follow each other: the autoencoder "
        "learns to pack 64 x 64 pictures into 8 x 8 latents, the text encoder to read captions, "
        "and the UNet to draw latents from captions.",
        epilog="About an hour on two CPU cores, minutes on a GPU. After an interruption, run "
        "the same command with --resume. "
        "On several cores, a process for each is faster than as many threads: "
        "torchrun --nproc_per_node 2 -m training.miniature.build --threads 1 (scenes and "
        "batches are counted per process).",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--output_dir", type=Path, default=MODEL, help="the pipeline's directory")
    parser.add_argument(
        "--work_dir",
        type=Path,
        default=Path(__file__).parent / "work",
        help="checkpoints and pictures on the way",
    )
    parser.add_argument("--resume", action="store_true", help="go on from --work_dir")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads")
    stage = parser.add_argument_group("how long each stage learns")
    stage.add_argument("--vae_scenes", type=int, default=20_000, help="scenes it sees")
    stage.add_argument("--vae_crop_steps", type=int, default=4000, help="on quarter pictures")
    stage.add_argument("--vae_steps", type=int, default=800, help="on whole pictures")
    stage.add_argument(
        "--decoder_steps", type=int, default=3000, help="of its decoder alone, after all else"
    )
    stage.add_argument("--text_scenes", type=int, default=12_000, help="four captions each")
    stage.add_argument("--text_steps", type=int, default=600, help="batches of 64 captions")
    stage.add_argument("--scenes", type=int, default=12_000, help="scenes the UNet sees")
    stage.add_argument("--unet_steps", type=int, default=5000)
    stage.add_argument("--unet_batch", type=int, default=32)
    stage.add_argument("--unet_learning_rate", type=float, default=1e-3)
    stage.add_argument(
        "--snapshot_every", type=int, default=1000, help="UNet steps between saved pipelines"
    )
    arguments = parser.parse_args()
    vector_math.resolve_kernels()
    torch.set_num_threads(arguments.threads)
    with joined("gloo", TIMEOUT_SECONDS, os.environ):
        build(arguments)


if __name__ == "__main__":
    main()
