"""Pictures drawn one request after the other: what was loaded stays loaded."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.config.lora import LoraConfig
from training.config.textual_inversion import TextualInversionConfig
from training.errors import UserError
from training.inference import ask, engines
from training.inference.ask import Asked
from training.inference.generate import FOLDER, Progress
from training.inference.settings import Settings, Source

Key = tuple[str, str, int, int, bool]


@dataclass(frozen=True)
class Pair:
    """The same prompt and seed with the learned word and without it.

    Attributes:
        pictures: the files, named by what they show; the first is what was asked for.
        notes: what the person should know of the prompt.
    """

    pictures: dict[str, Path]
    notes: list[str]


class Session:
    """Draws what is asked for, with the weights that it was opened with.

    Args:
        asked: the weights and what the first request begins with; no prompt.
        say: takes lines for the person.

    Raises:
        UserError: something of `asked` cannot be; it is told before the first request.
    """

    def __init__(self, asked: Asked, say: Callable[[str], None]) -> None:
        source, settings, config = ask.settle(asked)
        self.asked, self.settings = asked, settings
        self.word = source.words[0].token if source.words else ""
        """The learned word as it is written; "" where there is none."""
        self.began_as = ""
        """What is drawn in the word's place to compare: what the word was before training."""
        if isinstance(config, LoraConfig | TextualInversionConfig) and config.concepts:
            self.began_as = config.concepts[0].initializer_token or ""
        self.folder = asked.output_dir or (source.run / FOLDER if source.run else Path(FOLDER))
        """Where the pictures go."""
        self._loaded: tuple[Key, engines.Artist] | None = None
        self._drawing = threading.Lock()
        self._load(source, settings, say)

    def draw(
        self,
        prompt: str,
        progress: Callable[[int, int], Progress],
        *,
        instead: str | None = None,
        **changes: Any,
    ) -> Pair:
        """Draw a prompt.

        Args:
            progress: as in `training.inference.ask.draw`.
            instead: also draw the prompt with this in the learned word's place, by the same seed.
            changes: what else is asked for, by the names of `Asked`.

        Raises:
            UserError: something that was asked for cannot be.
        """
        if not prompt.strip():
            raise UserError("nothing to draw: the prompt is empty.")
        notes: list[str] = []
        wanted = {self.word or "drawn": prompt}
        if instead is not None and self.word and self.word in prompt:
            wanted["without the word"] = prompt.replace(self.word, instead.strip())
        pictures: dict[str, Path] = {}
        with self._drawing:
            for name, text in wanted.items():
                asked = dataclasses.replace(
                    self.asked, output_dir=self.folder, **changes, prompt=[text]
                )
                # Without the word, that it is not there is no news.
                say = notes.append if not pictures else _silent
                (pictures[name],) = ask.draw(asked, say, progress, self._load).pictures
        return Pair(pictures, notes)

    def _load(
        self, source: Source, settings: Settings, say: Callable[[str], None]
    ) -> engines.Artist:
        key: Key = (
            source.model_dump_json(),
            settings.engine,
            settings.height,
            settings.width,
            settings.guidance_scale > 1,
        )
        if self._loaded is None or self._loaded[0] != key:
            self._loaded = None  # before the next, so that two are never in memory
            self._loaded = (key, engines.load(source, settings, say))
        artist = self._loaded[1]
        artist.change(settings)
        return artist


def _silent(line: str) -> None:
    del line
