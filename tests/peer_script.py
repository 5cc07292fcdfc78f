"""A stand-in for diffusers' textual_inversion.py, and with --cache_dir train_text_to_image_lora.py.

It takes the flags that matter of both, trains a small model and draws the same bar of steps, with
another bar before, as those of loading are. `--help` shows its flags, as theirs does.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import torch
from PIL import Image
from tqdm.auto import tqdm  # type: ignore[import-untyped]

parser = argparse.ArgumentParser()
parser.add_argument("--pretrained_model_name_or_path", required=True)
parser.add_argument("--train_data_dir", required=True)
parser.add_argument("--output_dir", type=Path, default=Path("stand-in"))
parser.add_argument("--placeholder_token")
parser.add_argument("--initializer_token")
parser.add_argument("--cache_dir")
parser.add_argument("--resolution", type=int, default=512)
parser.add_argument("--train_batch_size", type=int, default=16)
parser.add_argument("--seed", type=int)
parser.add_argument("--max_train_steps", type=int, default=5000)
parser.add_argument("--mixed_precision", choices=["no", "fp16", "bf16"], default="no")
args = parser.parse_args()

assert os.environ["ACCELERATE_USE_CPU"] == "true"
assert (Path(args.pretrained_model_name_or_path) / "unet").is_dir()
args.output_dir.mkdir()
print("Loading", flush=True)
for _ in tqdm(range(args.max_train_steps), desc="Loading pipeline components"):
    pass
pictures = [
    Image.open(Path(args.train_data_dir) / name).resize((8, 8))
    for name in sorted(os.listdir(args.train_data_dir))
    if args.placeholder_token or name != "metadata.jsonl"
]
torch.manual_seed(args.seed)
model = torch.nn.Linear(8 * 8 * 3, 4)
optimizer = torch.optim.AdamW(model.parameters())
bar = tqdm(range(args.max_train_steps), initial=0, desc="Steps", disable=False)
for step in range(args.max_train_steps):
    pixels = torch.frombuffer(
        bytearray(pictures[step % len(pictures)].tobytes()), dtype=torch.uint8
    )
    loss = model(pixels.float() / 255).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    time.sleep(0.02)
    bar.update(1)
    bar.set_postfix(loss=loss.item(), lr=1e-4)
torch.save(model.state_dict(), args.output_dir / "learned.bin")
