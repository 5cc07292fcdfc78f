"""A pipeline's weights in one file, named as Stable Diffusion's own code names them.

The names are those that diffusers' `from_single_file` translates; written for UNets and VAEs of any
depth, so that a tiny model can stand for a whole one.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file

Weights = dict[str, torch.Tensor]
RESNET = {
    "norm1.": "in_layers.0.", "conv1.": "in_layers.2.", "time_emb_proj.": "emb_layers.1.",
    "norm2.": "out_layers.0.", "conv2.": "out_layers.3.", "conv_shortcut.": "skip_connection.",
}  # fmt: skip
UNET_ENDS = {
    "time_embedding.linear_1.": "time_embed.0.", "time_embedding.linear_2.": "time_embed.2.",
    "conv_in.": "input_blocks.0.0.", "conv_norm_out.": "out.0.", "conv_out.": "out.2.",
}  # fmt: skip
VAE_ATTENTION = {
    "group_norm.": "norm.", "to_q.": "q.", "to_k.": "k.", "to_v.": "v.", "to_out.0.": "proj_out.",
}  # fmt: skip


def write_single_file(model: Path, path: Path) -> Path:
    """Write the pipeline in folder `model` to one safetensors file."""
    unet = UNet2DConditionModel.from_pretrained(model, subfolder="unet")
    vae = AutoencoderKL.from_pretrained(model, subfolder="vae")
    text = load_file(model / "text_encoder" / "model.safetensors")
    blocks = len(unet.config.block_out_channels), unet.config.layers_per_block
    with_attention = ["CrossAttn" in kind for kind in unet.config.up_block_types]
    weights = {
        **{
            f"model.diffusion_model.{_unet(name, *blocks, with_attention)}": value
            for name, value in unet.state_dict().items()
        },
        **{
            f"first_stage_model.{_vae(name, len(vae.config.block_out_channels))}": _as_conv(
                name, value
            )
            for name, value in vae.state_dict().items()
        },
        **{
            f"cond_stage_model.transformer.text_model.{name.removeprefix('text_model.')}": value
            for name, value in text.items()
        },
        # Files of Stable Diffusion 1.x hold these, which no module has as weights.
        "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(24)[None],
        "alphas_cumprod": torch.linspace(1, 0, 1000),
    }
    save_file({name: value.contiguous() for name, value in weights.items()}, path)
    return path


def _renamed(name: str, names: dict[str, str]) -> str:
    for ours, theirs in names.items():
        if name.startswith(ours):
            return theirs + name[len(ours) :]
    return name


def _unet(name: str, blocks: int, layers: int, with_attention: list[bool]) -> str:
    ended = _renamed(name, UNET_ENDS)
    if ended != name:
        return ended
    if found := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d)\.(.*)", name):
        place = 1 if found[1] == "attentions" else 2 * int(found[2])
        return f"middle_block.{place}.{_renamed(found[3], RESNET)}"
    found = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.*)", name)
    assert found, name
    block, layer, rest = int(found[2]), int(found[4]), _renamed(found[5], RESNET)
    down = found[1] == "down"
    start = block * (layers + 1) + (1 if down else 0)
    side = "input" if down else "output"
    if found[3] == "downsamplers":
        return f"input_blocks.{start + layers}.0.{rest.replace('conv.', 'op.')}"
    if found[3] == "upsamplers":
        return f"output_blocks.{start + layers}.{2 if with_attention[block] else 1}.{rest}"
    return f"{side}_blocks.{start + layer}.{1 if found[3] == 'attentions' else 0}.{rest}"


def _vae(name: str, blocks: int) -> str:
    name = name.replace("conv_norm_out.", "norm_out.").replace("conv_shortcut.", "nin_shortcut.")
    if found := re.fullmatch(r"(\w+)\.mid_block\.(resnets|attentions)\.(\d)\.(.*)", name):
        part = (
            f"attn_1.{_renamed(found[4], VAE_ATTENTION)}"
            if found[2] == "attentions"
            else f"block_{int(found[3]) + 1}.{found[4]}"
        )
        return f"{found[1]}.mid.{part}"
    if found := re.fullmatch(r"(\w+)\.(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.*)", name):
        block = int(found[3]) if found[2] == "down" else blocks - 1 - int(found[3])
        part = (
            f"block.{found[5]}.{found[6]}"
            if found[4] == "resnets"
            else f"{found[2]}sample.{found[6]}"
        )
        return f"{found[1]}.{found[2]}.{block}.{part}"
    return name


def _as_conv(name: str, value: torch.Tensor) -> torch.Tensor:
    """The VAE's attention is of 1 x 1 convolutions there."""
    attention = re.search(r"attentions\.\d\.to_\w+(\.0)?\.weight", name)
    return value[:, :, None, None] if attention else value
