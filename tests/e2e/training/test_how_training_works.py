"""docs/how-training-works.md: its blocks run in order, print what it says and draw its pictures."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

CHECKOUT = Path(__file__).parents[3]
PAGE = CHECKOUT / "docs" / "how-training-works.md"


def test_the_page_does_what_it_says(tmp_path: Path) -> None:
    text = PAGE.read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 8
    code = "\n".join(blocks).replace('savefig("', f'savefig("{tmp_path}/')
    code += "\nprint(evaluated[0], evaluated[-1])\n"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, timeout=600,
        check=False, env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    *printed, first_and_last = done.stdout.splitlines()
    for line in printed[:2]:
        assert f"It prints `{line}`" in text
    assert re.fullmatch(r"[\d,]+ numbers are trained, [\d,]+ are not", printed[2])
    first, last = (float(word) for word in first_and_last.split())
    assert last < 0.8 * first
    for name in ("line", "lora"):
        with (
            Image.open(tmp_path / f"{name}.png") as drawn,
            Image.open(PAGE.with_name(f"how-training-works-{name}.png")) as shown,
        ):
            assert drawn.size == pytest.approx(shown.size, abs=2)
