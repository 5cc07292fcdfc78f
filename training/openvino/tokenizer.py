"""The tokenizer as OpenVINO's graph, which openvino_genai reads prompts with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from training.errors import UserError


def write_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Write openvino_tokenizer.xml and .bin, once they read the added words as the tokenizer does.

    Raises:
        UserError: the graph reads a prompt otherwise: it would pick other rows of the table.
    """
    import openvino

    graph = _convert(tokenizer)
    compiled = openvino.compile_model(graph, "CPU")
    words = list(tokenizer.get_added_vocab()) or ["picture"]
    for prompt in (
        "a photo",
        f"a {' '.join(words)}, red",
        *(f"a red {word} hat" for word in words),
    ):
        asked = tokenizer(prompt, padding="max_length", truncation=True).input_ids
        found = compiled([prompt])["input_ids"][0].tolist()
        if found != asked:
            raise UserError(
                f"OpenVINO's tokenizer reads {prompt!r} as tokens {found}, the model's own as "
                f"{asked}: this vocabulary cannot be exported. Choose another placeholder_token."
            )
    openvino.save_model(graph, folder / "openvino_tokenizer.xml")


def _convert(tokenizer: Any) -> Any:
    """The graph: strings to input_ids [prompts, model_max_length], padded.

    openvino_tokenizers appends a word's ending (</w>) to added words, too, and then reads it as
    characters that follow: they are entered with it. Its step is made by a class method, the only
    place to do so.
    """
    from openvino_tokenizers import convert_tokenizer, tokenizer_pipeline

    step_class = tokenizer_pipeline.BPETokenizationStep
    original = step_class.from_hf_json

    def with_endings(*arguments: Any, **named: Any) -> Any:
        step = original(*arguments, **named)
        ending = step.end_suffix or ""
        step.added_tokens = {f"{word}{ending}": id for word, id in step.added_tokens.items()}
        return step

    step_class.from_hf_json = with_endings
    try:
        return convert_tokenizer(tokenizer, use_max_padding=True)
    finally:
        step_class.from_hf_json = original
