"""Text that was not written here (what nodes, files and neighbours say), and how it is shown.

A terminal obeys what it is sent: text may set its title, fill the clipboard, or write over what is
there. rich obeys brackets. So whatever is printed for a person goes through here: what cannot be
printed is shown escaped, and brackets are brackets.
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Callable
from functools import partial

from rich.console import Console
from rich.progress import TextColumn
from rich.table import Table
from rich.text import Text

from bootstrap import errors
from bootstrap.errors import Arguments

KEPT = "\n\t"


def shown(text: str) -> str:
    """The text with everything escaped (as in Python, `\\x1b`) that is no character to be seen.

    Those are control characters, marks that change the direction of what follows, and halves of
    characters, which stand for bytes that are no UTF-8. Line breaks and tabs stay.
    """
    if text.isprintable():
        return text
    return "".join(
        character if character in KEPT or _can_be_seen(character) else _escaped(character)
        for character in text
    )


def in_a_line(text: str) -> str:
    """The same where there is room for one line: breaks are escaped too."""
    return shown(text).replace("\n", "\\n").replace("\t", "\\t")


def say(text: str = "", *, error: bool = False) -> None:
    """Print a line, or several, on standard output or standard error."""
    print(shown(text), file=sys.stderr if error else sys.stdout, flush=True)


def say_on(console: Console, text: str) -> None:
    """The same where a bar or a table may be standing."""
    console.print(cell(text, lines=True), soft_wrap=True)


def exit_status(
    failed: int = 1, interrupted: str = "interrupted"
) -> Callable[[Callable[Arguments, int]], Callable[Arguments, int]]:
    """A command's `main` that tells what went wrong as one message: see `errors.exit_status`."""
    return errors.exit_status(failed, interrupted, partial(say, error=True))


def draw(console: Console, rows: Rows) -> None:
    """Print a table."""
    console.print(rows)


def cell(text: str, style: str = "", *, lines: bool = False) -> Text:
    """For rich, which takes a `Text` as it is; `lines`: it may have several."""
    return Text(shown(text) if lines else in_a_line(text), style)


def column(template: str) -> TextColumn:
    """A column of a progress bar whose values are text as it is; they have to be `in_a_line`."""
    return TextColumn(template, markup=False)


class Rows(Table):
    """A table of cells that are text as it is; `draw` prints it."""

    def add(self, *words: str, style: str = "") -> None:
        """A row."""
        self.add_row(*(cell(word, style) for word in words))


def _can_be_seen(character: str) -> bool:
    return character.isprintable() or unicodedata.category(character) == "Zs"


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
