"""Draw pictures of prompts: with the word that a run has learned, or with any model and files.

  python -m training.generate runs/dicoo --prompt "a <dicoo> on the beach" --num_images 4
  python -m training.generate --model stable-diffusion-v1-5/stable-diffusion-v1-5 \\
      --embeds cat.safetensors --lora style.safetensors:0.8 --prompt "a <cat> in the snow"
  python -m training.generate runs/dicoo --prompt "a <dicoo>" \\
      --lora lcm-lora.safetensors --scheduler lcm --num_inference_steps 4 --vae taesd/
  python -m training.generate --again runs/dicoo/generated/a-dicoo.png

The pictures' paths are printed as a JSON list. docs/generate.md has an example of every flag.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from training.errors import UserError
from training.inference import flags
from training.inference.ask import Asked, draw
from training.inference.schedulers import SAMPLERS
from training.machine import vector_math
from training.outputs.progress import StepProgress


def parser() -> argparse.ArgumentParser:
    """The flags, by what they say."""
    made = argparse.ArgumentParser(
        prog="python -m training.generate",
        usage="%(prog)s [RUN_FOLDER | --model MODEL | --again PICTURE.png] [--KEY VALUE ...]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    what = made.add_argument_group("what to draw")
    what.add_argument("--prompt", action="append", help="prompt to draw; may be repeated")
    what.add_argument(
        "--prompt_file", type=Path, metavar="FILE", help="file with one prompt per line"
    )
    what.add_argument("--negative_prompt", metavar="TEXT", help="what not to draw")
    what.add_argument("--num_images", type=int, metavar="N", help="pictures per prompt [1]")
    what.add_argument(
        "--seed", type=int, help="seed of the first picture; each next picture takes the next [0]"
    )
    what.add_argument("--height", type=int, help="in pixels, a multiple of 8 [as in training]")
    what.add_argument("--width", type=int, help="in pixels, a multiple of 8 [as in training]")
    flags.add_weights(made)
    how = made.add_argument_group("how")
    how.add_argument(
        "--scheduler",
        metavar="NAME",
        help=f"{', '.join(SAMPLERS)} [dpmpp_2m; ddim for models with zero terminal SNR]",
    )
    how.add_argument(
        "--num_inference_steps",
        type=int,
        metavar="N",
        help="denoising steps [as in training, or 20; 4 with lcm and tcd]",
    )
    how.add_argument(
        "--guidance_scale",
        type=float,
        metavar="X",
        help="how closely the prompt is followed; 1: no guidance, twice as fast "
        "[as in training, or 7.5; 1 with lcm and tcd]",
    )
    flags.add_engine(how)
    out = made.add_argument_group("where to, and again")
    out.add_argument(
        "--output_dir",
        type=Path,
        help="folder for the pictures [RUN_FOLDER/generated; without a run: generated]",
    )
    out.add_argument(
        "--again",
        type=Path,
        metavar="PICTURE.png",
        help="draw a picture again from the settings inside it; further flags change it",
    )
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Draw, and print the paths as a JSON list."""
    asked = Asked(**vars(parser().parse_args(argv)))
    vector_math.resolve_kernels()
    try:
        drawn = draw(asked, _say, _Progress)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if drawn.grid is not None:
        _say(f"all of them: {drawn.grid}")
    print(json.dumps([str(path) for path in drawn.pictures]))
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class _Progress(StepProgress):
    """Denoising steps of all pictures, and which one is being drawn."""

    def __init__(self, steps: int, pictures: int) -> None:
        super().__init__("drawing", steps * pictures, 0, shown=True)
        self.pictures = pictures

    def __call__(self, done: int, picture: int) -> None:
        """`done` steps are done in all; the picture of that number (from 0) is being drawn."""
        self.step(done, f"picture {picture + 1} of {self.pictures}")


if __name__ == "__main__":
    sys.exit(main())
