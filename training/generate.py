"""Pictures with a learned word: `python -m training.generate RUN_FOLDER --prompt "a photo of <x>"`.

The same prompt, seed and step draw the same picture, in the run's own precision.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from training.errors import UserError
from training.inference.generate import generate
from training.machine import vector_math


def main(argv: Sequence[str] | None = None) -> int:
    """Draw, and print the paths as a JSON list."""
    parser = argparse.ArgumentParser(prog="python -m training.generate", description=__doc__)
    parser.add_argument("folder", type=Path, help="the run folder")
    parser.add_argument("--prompt", action="append", required=True, help="may be repeated")
    parser.add_argument("--num_images", type=int, default=1, help="pictures a prompt [1]")
    parser.add_argument("--seed", type=int, default=0, help="of the first picture [0]")
    parser.add_argument("--step", type=int, help="rows of this step [the final ones]")
    parser.add_argument("--num_inference_steps", type=int, help="[as in training]")
    parser.add_argument("--guidance_scale", type=float, help="[as in training]")
    asked = parser.parse_args(argv)
    vector_math.resolve_kernels()
    try:
        paths = generate(
            asked.folder,
            asked.prompt,
            range(asked.seed, asked.seed + max(1, asked.num_images)),
            asked.step,
            asked.num_inference_steps,
            asked.guidance_scale,
        )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps([str(path) for path in paths]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
