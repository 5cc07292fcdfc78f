"""A CLIP tokenizer with a small vocabulary in which each word of the captions is one token."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

MAX_LENGTH = 24

START, END = "<|startoftext|>", "<|endoftext|>"


def new_tokenizer(words: list[str]) -> CLIPTokenizer:
    """Build a tokenizer of `words`; anything else falls apart into letters and bytes.

    Raises ValueError when a word would not become a single token.
    """
    bpe = Tokenizer(models.BPE(unk_token=END, end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=100_000,
        min_frequency=1,
        show_progress=False,
        initial_alphabet=letters,
        end_of_word_suffix="</w>",
    )
    bpe.train_from_iterator(words, trainer)
    state = json.loads(bpe.to_str())["model"]
    merges = [
        tuple(pair) if isinstance(pair, list) else tuple(pair.split(" "))
        for pair in state["merges"]
    ]
    tokens = [*letters, *(letter + "</w>" for letter in letters)]
    for left, right in merges:
        if left + right not in tokens:
            tokens.append(left + right)
    tokens += [START, END]
    with tempfile.TemporaryDirectory() as folder:
        vocab, merge_file = Path(folder, "vocab.json"), Path(folder, "merges.txt")
        vocab.write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
        lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
        merge_file.write_text("\n".join(lines) + "\n")
        CLIPTokenizer(
            vocab=str(vocab),
            merges=str(merge_file),
            unk_token=END,
            bos_token=START,
            eos_token=END,
            pad_token=END,
            model_max_length=MAX_LENGTH,
        ).save_pretrained(folder)
        tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(folder)
    split = [word for word in words if len(tokenizer(word).input_ids) != 3]
    if split:
        raise ValueError(f"words of several tokens: {', '.join(split)}")
    return tokenizer
