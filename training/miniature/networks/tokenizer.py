"""A CLIP tokenizer with a small vocabulary in which each word of the captions is one token."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from itertools import pairwise
from pathlib import Path

from tokenizers import pre_tokenizers
from transformers import CLIPTokenizer

MAX_LENGTH = 24

START, END = "<|startoftext|>", "<|endoftext|>"


def byte_pair_merges(words: list[str]) -> list[tuple[str, str]]:
    """Pairs to merge, most frequent first, until every word is one token.

    Byte-pair encoding of Sennrich et al. (arXiv 1508.07909). Pairs equally frequent come in
    alphabetical order: the trainer of `tokenizers` takes them in another order in every
    process, so that a resumed build would give words other numbers.
    """
    split = [[*word[:-1], f"{word[-1]}</w>"] for word in words]
    merges = []
    while pairs := Counter(pair for parts in split for pair in pairwise(parts)):
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        split = [_merge(parts, best) for parts in split]
    return merges


def _merge(parts: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for part in parts:
        if merged and (merged[-1], part) == pair:
            merged[-1] += part
        else:
            merged.append(part)
    return merged


def new_tokenizer(words: list[str]) -> CLIPTokenizer:
    """Build a tokenizer of `words`; anything else falls apart into letters and bytes.

    Raises ValueError when a word would not become a single token.
    """
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = byte_pair_merges(words)
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
