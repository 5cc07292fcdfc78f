"""Quantization-aware training on this machine: the same pictures in fp32, in int8, and in int8 with
merged tokens, with what each takes under it.

    .venv-openvino/bin/python -m training.miniature.quantize_demo

Exports the bundled miniature Stable Diffusion to OpenVINO in fp32, and quantized to 8 bits after
training; trains its UNet in 8 bits with Token Merging on two ranks, started as on a cluster, and
exports that; draws the same prompts from the same noise with all three, and judges them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from training.config.groups import ModelConfig
from training.errors import UserError
from training.inference import engines
from training.inference.generate import source_of_run
from training.inference.samples import save_picture
from training.inference.settings import Settings, Source
from training.machine import vector_math
from training.miniature.check import GUIDANCE, MODEL, STEPS
from training.miniature.judge import judge_pictures
from training.miniature.scenes.captions import full_caption
from training.miniature.scenes.pictures import write_captioned
from training.miniature.scenes.scene import Scene, sample_scenes
from training.openvino.packages import check_packages

CONFIG = Path(__file__).parent / "demo_quantize.toml"
FOLDER = Path("runs/demo-quantize")
TRAINED_ON, SHOWN = 48, 6
TRAINING_SEED, SHOWN_SEED = 4_001, 9_001
MERGED = 0.4
PICTURE = "comparison.png"


@dataclass(frozen=True)
class Row:
    """What one way of drawing gave.

    Attributes:
        seconds: per picture, all steps, after the first picture.
        megabytes: of the UNet's weights.
        right: pictures whose shape and colour are as asked.
    """

    name: str
    pictures: list[Image.Image]
    seconds: float
    megabytes: float
    right: int


def main(argv: Sequence[str] | None = None) -> int:
    """Export, train, draw; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m training.miniature.quantize_demo",
        description=__doc__,
        epilog="Further flags go to training.quantize, for example --max_train_steps=200.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output_dir", type=Path, default=FOLDER, help=f"[{FOLDER}]")
    parser.add_argument("--ranks", type=int, default=2)
    options, more = parser.parse_known_args(argv)
    try:
        vector_math.resolve_kernels()
        check_packages("training.miniature.quantize_demo")
        return _run(options.output_dir, options.ranks, more)
    except subprocess.CalledProcessError as error:
        return int(error.returncode)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _run(folder: Path, ranks: int, more: Sequence[str]) -> int:
    pictures, run = folder / "pictures", folder / "run"
    write_captioned(sample_scenes(TRAINED_ON, TRAINING_SEED), pictures)
    scenes = sample_scenes(SHOWN, SHOWN_SEED)
    base = ["-m", "training.export", "--model", str(MODEL), "--output_dir"]
    prompts = folder / "prompts.txt"
    captions = sorted(path.read_text() for path in pictures.glob("*.txt"))
    prompts.write_text("".join(captions), encoding="utf-8")
    _python(*base, str(folder / "fp32"))
    _python(*base, str(folder / "int8"), "--weights=hybrid", f"--calibration_prompts={prompts}")
    _train(pictures, run, ranks, more)
    _python("-m", "training.export", str(run), "--output_dir", str(run / "openvino"))
    plain = Source(model=ModelConfig(pretrained_model_name_or_path=str(MODEL)))
    trained, _ = source_of_run(run, None)
    rows = [
        _draw("fp32", plain, folder / "fp32", scenes),
        _draw("int8, not trained", plain, folder / "int8", scenes),
        _draw(f"int8, trained, {MERGED:g} merged", trained, run / "openvino", scenes),
    ]
    save_picture(folder / PICTURE, side_by_side(rows, [full_caption(scene) for scene in scenes]))
    for row in rows:
        print(f"{row.name:<28} {_figures(row)}")
    print(f"\nSide by side:  {folder / PICTURE}\nThe run:       {run}/")
    return 0


def _train(pictures: Path, run: Path, ranks: int, more: Sequence[str]) -> None:
    """Train on as many ranks as asked for: mpirun's, or torchrun's where that is not here."""
    programs = Path(sys.executable).parent
    launch = [str(programs / "mpirun"), "-n", str(ranks), sys.executable, "-m"]
    if not Path(launch[0]).exists():
        torchrun = ["-m", "torch.distributed.run", f"--nproc_per_node={ranks}", "-m"]
        launch = [sys.executable, *torchrun]
    flags = [
        f"--config={CONFIG}", f"--pretrained_model_name_or_path={MODEL}",
        f"--train_data_dir={pictures}", f"--output_dir={run}", "--overwrite_output_dir",
        f"--merge_tokens={MERGED}",
    ]  # fmt: skip
    path = f"{programs}{os.pathsep}{os.environ.get('PATH', '')}"
    _call([*launch, "training.quantize", *flags, *more], path)


def _python(*words: str) -> None:
    _call([sys.executable, *words], os.environ.get("PATH", ""))


def _call(command: list[str], path: str) -> None:
    """Run a command; what it prints for programs goes to standard error, too.

    Raises:
        CalledProcessError: it failed, and has said why.
    """
    subprocess.run(command, env={**os.environ, "PATH": path}, stdout=sys.stderr, check=True)


def _draw(name: str, source: Source, exported: Path, scenes: Sequence[Scene]) -> Row:
    settings = Settings(
        engine="openvino", scheduler="ddim", height=64, width=64, num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
    )  # fmt: skip
    artist = engines.load(
        source.model_copy(update={"exported": exported}), settings, lambda text: None
    )
    captions = [full_caption(scene) for scene in scenes]
    pictures = [artist.draw(captions[0], 0, lambda step: None)]
    start = time.perf_counter()
    pictures += [artist.draw(text, n, lambda step: None) for n, text in enumerate(captions[1:], 1)]
    seconds = (time.perf_counter() - start) / (len(captions) - 1)
    verdicts = judge_pictures(pictures)
    right = sum(
        (scene.shape, scene.color) == (seen.shape, seen.color)
        for scene, seen in zip(scenes, verdicts, strict=True)
    )
    weights = (exported / "unet" / "openvino_model.bin").stat().st_size
    return Row(name, pictures, seconds, weights / 1e6, right)


def _figures(row: Row) -> str:
    return (
        f"{row.seconds:.2f} s per picture, UNet {row.megabytes:.1f} MB, "
        f"{row.right} of {len(row.pictures)} as asked"
    )


def side_by_side(rows: Sequence[Row], captions: Sequence[str], side: int = 128) -> Image.Image:
    """A column for each way of drawing, what it takes under it; a row of pictures per caption."""
    gap, margin, line = 8, 12, 18
    width = 2 * side + gap
    per_column = -(-len(captions) // 2)
    height = margin + line + per_column * (side + gap) + 3 * line
    grid = Image.new("RGB", (len(rows) * (width + 2 * margin), height + line), "white")
    pen, font = ImageDraw.Draw(grid), ImageFont.load_default(14)
    for number, row in enumerate(rows):
        left = margin + number * (width + 2 * margin)
        pen.text((left, margin // 2), row.name, fill="black", font=font)
        for index, picture in enumerate(row.pictures):
            place = (left + index % 2 * (side + gap), margin + line + index // 2 * (side + gap))
            grid.paste(picture.resize((side, side), Image.Resampling.LANCZOS), place)
        for index, text in enumerate(_figures(row).split(", ")):
            top = margin + line + per_column * (side + gap) + index * line
            pen.text((left, top), text, fill="#444444", font=font)
    return grid


if __name__ == "__main__":
    sys.exit(main())
