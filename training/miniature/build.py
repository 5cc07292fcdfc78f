"""Build the miniature model from nothing: autoencoder, text encoder, UNet, saved pipeline."""

from __future__ import annotations

import argparse
import copy
import os
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from training.atomic_files import write_directory, write_file
from training.machine import vector_math
from training.miniature.check import MODEL, VALIDATION_SEED, draw, grid, with_fast_sampler
from training.miniature.decoder import Pairs, drawn_pairs, refine_decoder
from training.miniature.networks.loop import console, is_first, say
from training.miniature.networks.text_encoder import PlaceholderRows, train_text_encoder
from training.miniature.networks.tokenizer import new_tokenizer
from training.miniature.networks.unet import new_scheduler, new_unet, train_unet
from training.miniature.networks.vae import as_tensor, encode, psnr, train_vae
from training.miniature.scenes.captions import full_caption, vocabulary
from training.miniature.scenes.dataset import new_corpus, tokenize
from training.miniature.scenes.scene import Scene, render_all, sample_scenes
from training.models.loading import weights_digest
from training.ranks.process_group import joined_process_group

TIMEOUT_SECONDS = 1800
"""How long the other ranks wait for what the first does alone."""


def assemble(
    vae: AutoencoderKL,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    unet: UNet2DConditionModel,
) -> StableDiffusionPipeline:
    """An ordinary pipeline of the parts, in float32."""
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def save(pipeline: StableDiffusionPipeline, folder: Path) -> None:
    """Write a pipeline's directory in half precision.

    The text encoder stays in single precision: transformers would load it as it lies there,
    diffusers the rest in single precision, and the two would not fit together.
    """
    halved = {name: copy.deepcopy(getattr(pipeline, name)).half() for name in ("unet", "vae")}
    StableDiffusionPipeline(
        **{**pipeline.components, **halved}, requires_safety_checker=False
    ).save_pretrained(folder)
    # Older versions of transformers read these two instead of tokenizer.json.
    pipeline.tokenizer.backend_tokenizer.model.save(str(folder / "tokenizer"))


def build_vae(arguments: argparse.Namespace, device: str) -> AutoencoderKL:
    """Train the autoencoder, or load the one that an earlier run has finished."""
    saved = arguments.work_dir / "vae"
    finished = saved if arguments.resume and saved.exists() else None
    if arguments.start_from:
        finished = arguments.start_from / "vae"
    if finished:
        vae: AutoencoderKL = AutoencoderKL.from_pretrained(finished, torch_dtype=torch.float32)
        return vae.to(device)
    pictures = render_all(sample_scenes(arguments.vae_scenes, seed=11))
    validation = render_all(sample_scenes(64, VALIDATION_SEED))
    vae = train_vae(
        pictures,
        validation,
        steps=arguments.vae_steps,
        batch=arguments.vae_batch,
        device=device,
        checkpoint=arguments.work_dir / "vae.pt",
        resume=arguments.resume,
    )
    if is_first():
        write_directory(saved, vae.save_pretrained)
    say(f"autoencoder: {psnr(vae, as_tensor(validation, device)):.2f} dB")
    return vae


def build_text_encoder(
    arguments: argparse.Namespace, device: str, tokenizer: CLIPTokenizer
) -> CLIPTextModel:
    """Train the text encoder, or load the one of the pipeline to start from."""
    if arguments.start_from:
        folder = arguments.start_from / "text_encoder"
        encoder: CLIPTextModel = CLIPTextModel.from_pretrained(folder, dtype=torch.float32)
        return encoder.to(device).requires_grad_(False).eval()
    return train_text_encoder(
        tokenizer,
        new_corpus(sample_scenes(arguments.text_scenes, seed=12), tokenizer, seed=15),
        new_corpus(sample_scenes(500, VALIDATION_SEED), tokenizer, captions=1, seed=16),
        steps=arguments.text_steps,
        device=device,
        checkpoint=arguments.work_dir / "text_encoder.pt",
        resume=arguments.resume,
    )


@dataclass(frozen=True)
class TrainingSet:
    """This process's own scenes and their scaled latents."""

    scenes: list[Scene]
    latents: Tensor
    seed: int


def build_training_set(arguments: argparse.Namespace, vae: AutoencoderKL) -> TrainingSet:
    """Sample the scenes of this process and pack them into scaled latents."""
    rank = dist.get_rank() if dist.is_initialized() else 0
    scenes = sample_scenes(arguments.scenes, seed=12 + 100 * rank)
    cache = arguments.work_dir / f"latents-{rank}.safetensors"
    made_by = {"scenes": str(len(scenes)), "vae": weights_digest(vae)}
    if arguments.resume and cache.exists():
        with safe_open(cache, framework="pt") as file:
            if file.metadata() == made_by:
                return TrainingSet(scenes, file.get_tensor("latents"), rank)
    latents = encode(vae, render_all(scenes)) * vae.config.scaling_factor
    write_file(cache, lambda partial: save_file({"latents": latents}, partial, metadata=made_by))
    return TrainingSet(scenes, latents, rank)


def build_unet(
    arguments: argparse.Namespace,
    device: str,
    training_set: TrainingSet,
    vae: AutoencoderKL,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
) -> UNet2DConditionModel:
    """Train the UNet; now and then the pipeline so far and pictures of it are written."""
    corpus = new_corpus(training_set.scenes, tokenizer, captions=4, seed=13 + training_set.seed)
    held_out = sample_scenes(256, VALIDATION_SEED)
    validation = encode(vae, render_all(held_out)) * vae.config.scaling_factor
    shown = [full_caption(scene) for scene in sample_scenes(22, VALIDATION_SEED + 1)]
    shown += ["a toy", "a photo of a toy on a white background"]

    taken = time.perf_counter()

    def snapshot(step: int, unet: UNet2DConditionModel) -> None:
        nonlocal taken
        if time.perf_counter() - taken < 60 * arguments.snapshot_minutes:
            return
        taken = time.perf_counter()
        pipeline = assemble(vae, text_encoder, tokenizer, unet)
        save(pipeline, arguments.output_dir)
        sheet = grid(draw(with_fast_sampler(pipeline), shown), shown)
        sheet.save(arguments.work_dir / f"pictures-{step}.png")

    unet = new_unet()
    if arguments.start_from:
        folder = arguments.start_from / "unet"
        unet = UNet2DConditionModel.from_pretrained(folder, torch_dtype=torch.float32)
    return train_unet(
        unet,
        training_set.latents,
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


def build_decoder(
    arguments: argparse.Namespace, training_set: TrainingSet, pipeline: StableDiffusionPipeline
) -> None:
    """Refine the decoder of a pipeline, in place, on what the pipeline draws."""
    scenes = sample_scenes(arguments.decoder_scenes, seed=17 + 100 * training_set.seed)
    refine_decoder(
        pipeline.vae,
        Pairs(training_set.latents, render_all(training_set.scenes)),
        drawn_pairs(with_fast_sampler(copy.copy(pipeline)), scenes),
        render_all(sample_scenes(64, VALIDATION_SEED)),
        steps=arguments.decoder_steps,
        batch=arguments.decoder_batch,
        checkpoint=arguments.work_dir / "decoder.pt",
        resume=arguments.resume,
    )


def build(arguments: argparse.Namespace) -> None:
    """Run all stages with the command line's options."""
    device = arguments.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    arguments.work_dir.mkdir(parents=True, exist_ok=True)
    vae = build_vae(arguments, device).requires_grad_(False).eval()
    tokenizer = new_tokenizer(vocabulary())
    text_encoder = build_text_encoder(arguments, device, tokenizer)
    training_set = build_training_set(arguments, vae)
    unet = build_unet(arguments, device, training_set, vae, text_encoder, tokenizer)
    pipeline = assemble(vae, text_encoder, tokenizer, unet)
    if is_first():
        save(pipeline, arguments.output_dir)
    build_decoder(arguments, training_set, pipeline)
    if not is_first():
        return
    save(pipeline, arguments.output_dir)
    size = sum(file.stat().st_size for file in arguments.output_dir.rglob("*") if file.is_file())
    console.print(f"{arguments.output_dir}: {size / 1e6:.2f} MB", markup=False)


def main() -> None:
    """Parse the command line and build."""
    parser = argparse.ArgumentParser(
        prog="python -m training.miniature.build",
        description="Train a miniature Stable Diffusion of coloured shapes from scratch and save "
        "it as an ordinary diffusers pipeline. Four stages follow each other: the autoencoder "
        "learns to pack 64 x 64 pictures into 8 x 8 latents, the text encoder to read captions, "
        "the UNet to draw latents from captions, and the decoder to make clean pictures of what "
        "the UNet draws.",
        epilog="Nine minutes on an H200; about seven hours on a CPU core. After an interruption, "
        "run the same command with --resume. "
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
    parser.add_argument(
        "--start_from",
        type=Path,
        metavar="MODEL",
        help="take autoencoder and text encoder from this pipeline and train its UNet further",
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads")
    stage = parser.add_argument_group("how long each stage learns")
    stage.add_argument("--vae_scenes", type=int, default=20_000, help="scenes it sees")
    stage.add_argument("--vae_steps", type=int, default=7000)
    stage.add_argument("--vae_batch", type=int, default=64, help="pictures per step")
    stage.add_argument("--text_scenes", type=int, default=12_000, help="four captions each")
    stage.add_argument("--text_steps", type=int, default=1500, help="batches of 64 captions")
    stage.add_argument("--scenes", type=int, default=40_000, help="scenes the UNet sees")
    stage.add_argument("--unet_steps", type=int, default=2500)
    stage.add_argument("--unet_batch", type=int, default=512, help="latents a step")
    stage.add_argument("--unet_learning_rate", type=float, default=1e-3)
    stage.add_argument(
        "--decoder_scenes", type=int, default=6000, help="drawn for the decoder by the model"
    )
    stage.add_argument(
        "--decoder_steps", type=int, default=3000, help="of the decoder alone, after all else"
    )
    stage.add_argument("--decoder_batch", type=int, default=64, help="latents a step")
    parser.add_argument(
        "--snapshot_minutes",
        type=float,
        default=10.0,
        help="minutes between pipelines saved with pictures while the UNet learns",
    )
    arguments = parser.parse_args()
    vector_math.resolve_kernels()
    torch.set_num_threads(arguments.threads)
    torch.set_float32_matmul_precision("high")
    with joined_process_group("gloo", TIMEOUT_SECONDS, os.environ):
        build(arguments)


if __name__ == "__main__":
    main()
