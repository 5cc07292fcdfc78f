"""Draw docs/rooms.svg, the packages' rooms and who may import whom, from the contract.

    python scripts/rooms_picture.py [--check]

The contract is [tool.importlinter] in pyproject.toml: a column for each `layers` in it. What a room
is for is the first line of its docstring. With --check nothing is written; the exit status is 1
where the drawing is stale.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
import textwrap
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILE = Path("docs") / "rooms.svg"
COLUMN, BOX, GAP, TOP = 440, 70, 22, 46
CHARACTERS = 62
STYLE = (
    "text{font:14px system-ui,sans-serif;fill:#1b2733}.s{font-size:12px;fill:#51606e}"
    ".b{fill:#f3f7fb;stroke:#8a99a8;stroke-width:1.5}"
    ".a{stroke:#2463a8;stroke-width:2;marker-end:url(#m)}"
)


@dataclass(frozen=True)
class Room:
    """A module or a package, and what it is for."""

    name: str
    purpose: str


def columns(root: Path = ROOT) -> dict[str, list[list[Room]]]:
    """The layers of each package, the upper ones first; a layer may hold several rooms."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    found: dict[str, list[list[Room]]] = {}
    for contract in project["tool"]["importlinter"]["contracts"]:
        if contract["type"] == "layers":
            for package in contract["containers"]:
                found[package] = [
                    [room(root / package, name) for name in re.findall(r"\w+", layer)]
                    for layer in contract["layers"]
                ]
    return found


def room(package: Path, name: str) -> Room:
    """A room by its name in the contract."""
    folder = package / name
    file = folder / "__init__.py" if folder.is_dir() else package / f"{name}.py"
    docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return Room(f"{name}/" if folder.is_dir() else name, docstring.split("\n\n")[0])


def draw(found: dict[str, list[list[Room]]]) -> str:
    """The SVG."""
    height = TOP + max(len(layers) for layers in found.values()) * (BOX + GAP)
    width = len(found) * COLUMN + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
        f"<title>The rooms of {' and '.join(found)}: each imports those below it alone</title>",
        f"<style>{STYLE}</style>",
        '<defs><marker id="m" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7"'
        ' markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" fill="#2463a8"/></marker></defs>',
    ]
    for number, (package, layers) in enumerate(found.items()):
        left = number * COLUMN + 20
        parts.append(f'<text x="{left}" y="28">{escape(package)}/: each imports those below</text>')
        for row, rooms in enumerate(layers):
            y = TOP + row * (BOX + GAP)
            if row:
                x = left + (COLUMN - 30) // 2
                parts.append(f'<path class="a" d="M{x} {y - GAP}V{y}"/>')
            each = (COLUMN - 30) // len(rooms)
            for place, one in enumerate(rooms):
                parts += _box(one, left + place * each, y, each - 10 * (place + 1 < len(rooms)))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _box(one: Room, x: int, y: int, width: int) -> list[str]:
    lines = textwrap.wrap(
        one.purpose, CHARACTERS * width // (COLUMN - 30), max_lines=2, placeholder=" …"
    )
    return [
        f'<rect class="b" x="{x}" y="{y}" width="{width}" height="{BOX}" rx="8"/>',
        f'<text x="{x + 12}" y="{y + 24}">{escape(one.name)}</text>',
        *(
            f'<text class="s" x="{x + 12}" y="{y + 43 + 16 * number}">{escape(line)}</text>'
            for number, line in enumerate(lines)
        ),
    ]


def main(argv: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Write the drawing, or with --check say whether it is current."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when stale")
    path, text = root / FILE, draw(columns(root))
    if not parser.parse_args(argv).check:
        path.write_text(text, encoding="utf-8")
        return 0
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return 0
    print(f"error: {path} is stale: run python scripts/rooms_picture.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
