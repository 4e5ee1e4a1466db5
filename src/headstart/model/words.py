"""Instructions to word tokens. One token a word; 0 pads, 1 is a word never seen in training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

PAD, UNKNOWN = 0, 1


def build_vocabulary(instructions: Iterable[str]) -> tuple[str, ...]:
    """The words of these instructions, sorted, behind the two special tokens."""
    return ("<pad>", "<unknown>", *sorted({w for text in instructions for w in _split(text)}))


def encode(instruction: str, vocabulary: Sequence[str], max_words: int) -> np.ndarray:
    """(max_words,) int64. Longer instructions are cut."""
    index = {word: k for k, word in enumerate(vocabulary)}
    ids = [index.get(word, UNKNOWN) for word in _split(instruction)][:max_words]
    return np.array(ids + [PAD] * (max_words - len(ids)), dtype=np.int64)


def _split(text: str) -> list[str]:
    return text.lower().replace(",", " ").replace(".", " ").split()
