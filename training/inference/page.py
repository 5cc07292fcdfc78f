"""The playground's page: what is asked for at the left, pictures at the right, history below."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio

from training.errors import UserError
from training.inference import engines, png
from training.inference.schedulers import SAMPLERS
from training.inference.session import Session

SHOWN = 24
"""Pictures of the history, the newest first."""
PROGRESS = gradio.Progress()
"""gradio puts a function's own in its place, where it is an argument's default."""


def build(session: Session) -> Any:
    """The page as gradio.Blocks; it draws with `session`."""
    first = session.settings

    def draw(*values: Any, progress: Any = PROGRESS) -> tuple[Any, ...]:
        keys = dict(zip(asked, values, strict=True))
        instead = keys.pop("instead") if keys.pop("compare") else None
        prompt, seed = keys.pop("prompt"), keys.pop("seed")
        try:
            if seed is None or seed != int(seed):
                raise UserError("the seed must be a whole number.")
            drawn = session.draw(
                prompt, _shown_by(progress), instead=instead, seed=int(seed), **_numbers(keys)
            )
        except UserError as error:
            raise gradio.Error(str(error), duration=None, print_exception=False) from None
        pictures = [(str(path), name) for name, path in drawn.pictures.items()]
        path = next(iter(drawn.pictures.values()))
        return pictures, _text_of(path), "\n\n".join(drawn.notes), history(session.folder)

    def take(event: gradio.SelectData) -> list[Any]:
        """A picture of the history was chosen: its settings go into the fields."""
        try:
            picture, _ = png.read(_chosen(session.folder, event.index))
        except UserError as error:
            raise gradio.Error(str(error), print_exception=False) from None
        values = {**picture.settings.model_dump(), "prompt": picture.prompt, "seed": picture.seed}
        kept = [values.get(key, gradio.skip()) for key in asked]
        return [*kept, png.parameters(picture)]

    with gradio.Blocks(title="xeon-diffusion", analytics_enabled=False) as page:
        word = f"The learned word is `{session.word}`. " if session.word else ""
        gradio.Markdown(f"# Playground\n{word}Pictures go to `{session.folder}`.")
        with gradio.Row():
            with gradio.Column():
                asked: dict[str, Any] = {
                    "prompt": gradio.Textbox(
                        f"a photo of {session.word}".strip(), label="Prompt", lines=2
                    ),
                    "negative_prompt": gradio.Textbox(
                        first.negative_prompt, label="Negative prompt"
                    ),
                }
                with gradio.Row():
                    asked["compare"] = gradio.Checkbox(
                        bool(session.word), label="Beside it, without the word",
                        visible=bool(session.word),
                    )  # fmt: skip
                    asked["instead"] = gradio.Textbox(
                        session.began_as, label="In the word's place", visible=bool(session.word)
                    )
                with gradio.Row():
                    asked["seed"] = gradio.Number(0, label="Seed", precision=0, elem_id="seed")
                    asked["num_inference_steps"] = gradio.Number(
                        first.num_inference_steps, label="Steps", precision=0
                    )
                    asked["guidance_scale"] = gradio.Number(first.guidance_scale, label="Guidance")
                with gradio.Row():
                    asked["scheduler"] = gradio.Dropdown(
                        list(SAMPLERS), value=first.scheduler, label="Scheduler"
                    )
                    asked["engine"] = gradio.Dropdown(
                        list(engines.MODULES), value=first.engine, label="Engine"
                    )
                with gradio.Row():
                    asked["width"] = gradio.Number(first.width, label="Width", precision=0)
                    asked["height"] = gradio.Number(first.height, label="Height", precision=0)
                button = gradio.Button("Draw", variant="primary")
            with gradio.Column():
                pictures = gradio.Gallery(
                    label="Drawn", columns=2, object_fit="contain", format="png", height=300
                )
                notes = gradio.Markdown()
                text = gradio.Textbox(label="Settings", lines=4, interactive=False)
        past = gradio.Gallery(
            lambda: history(session.folder), label="History: a click takes its settings",
            columns=8, object_fit="contain", format="png", height=200, allow_preview=False,
            fit_columns=False,
        )  # fmt: skip
        fields = list(asked.values())
        outputs = [pictures, text, notes, past]
        # One at a time: a second would take cores from the first.
        once = {"concurrency_limit": 1, "concurrency_id": "draw"}
        button.click(draw, fields, outputs, api_name="draw", **once)
        asked["prompt"].submit(draw, fields, outputs, api_visibility="private", **once)
        past.select(take, None, [*fields, text], api_visibility="private")
    return page


def history(folder: Path) -> list[tuple[str, str]]:
    """The newest pictures of a folder that have their settings in them: path and prompt of each."""
    found: list[tuple[str, str]] = []
    for path in _newest(folder):
        with contextlib.suppress(UserError):
            picture, _ = png.read(path)
            found.append((str(path), f"{picture.prompt}, seed {picture.seed}"))
        if len(found) == SHOWN:
            break
    return found


def _chosen(folder: Path, index: int) -> Path:
    return Path(history(folder)[index][0])


def _newest(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.png"), key=lambda path: path.stat().st_mtime_ns, reverse=True)


def _text_of(path: Path) -> str:
    picture, _ = png.read(path)
    return png.parameters(picture)


def _numbers(keys: dict[str, Any]) -> dict[str, Any]:
    """The fields that are filled in; an empty one leaves what the session began with."""
    return {key: value for key, value in keys.items() if value is not None}


def _shown_by(progress: Any) -> Callable[[int, int], Any]:
    """Makes what shows steps with gradio's bar (`training.inference.generate.Progress`)."""

    @contextlib.contextmanager
    def shown(steps: int, pictures: int) -> Iterator[Callable[[int, int], None]]:
        def step(done: int, picture: int) -> None:
            progress((done, steps * pictures), desc="drawing", unit="steps")

        yield step

    return shown
