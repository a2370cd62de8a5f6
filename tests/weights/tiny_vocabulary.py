"""A small vocabulary like Gemma's as a SentencePiece model and as the header of a GGUF file."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

CONTROL, UNKNOWN, USER, NORMAL, UNUSED, BYTE = 3, 2, 4, 1, 5, 6

# A small vocabulary as Gemma's: controls, runs of newlines and spaces, tags, an unused one, bytes, letters, words.
WORDS = ["th", "he", "the", "▁t", "▁th", "▁the", "in", "ing", "▁a", "at", "cat", "▁cat", "▁c", "ca", "er", "her", "▁▁a"]
PIECES = [
    *[(text, CONTROL) for text in ("<pad>", "<eos>", "<bos>")],
    ("<unk>", UNKNOWN),
    ("<start_of_turn>", CONTROL),
    *[("\n" * count, USER) for count in (1, 2, 3)],
    *[("▁" * count, USER) for count in (2, 3, 4, 5)],
    ("<table>", USER),
    ("[PAD1]", UNUSED),
    *[(f"<0x{byte:02X}>", BYTE) for byte in range(256)],
    *[(text, NORMAL) for text in [*WORDS, *"▁abcdefghinrst."]],
]
TEXTS = [text for text, _ in PIECES]
TYPES = [kind for _, kind in PIECES]
RANKS = np.cumsum([kind == NORMAL for kind in TYPES])
SCORES = [-float(rank) if kind == NORMAL else 0.0 for rank, kind in zip(RANKS, TYPES, strict=True)]


def varint(value: int) -> bytes:
    result = b""
    while value > 127:
        result += bytes([value & 127 | 128])
        value >>= 7
    return result + bytes([value])


def message(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def sentencepiece() -> bytes:
    """A model file, with fields that do not matter around the pieces."""
    pieces = b""
    for text, score, kind in zip(TEXTS, SCORES, TYPES, strict=True):
        stated = b"" if kind == NORMAL else b"\x18" + bytes([kind])
        pieces += message(1, message(1, text.encode()) + b"\x15" + struct.pack("<f", score) + stated)
    return message(2, message(3, b"trainer") + b"\x20\x96\x01") + pieces + message(3, b"\x09" + b"\0" * 8)


def gguf_values(**others: Any) -> dict[str, Any]:
    """What llama.cpp makes of it: spaces and a low score in user-defined pieces, ``<unk>`` a control piece."""
    texts = [text.replace("▁", " ") if kind == USER else text for text, kind in PIECES]
    types = [CONTROL if kind == UNKNOWN else kind for kind in TYPES]
    scores = [-1000.0 if kind in (USER, CONTROL) else score for score, kind in zip(SCORES, types, strict=True)]
    return {
        "general.architecture": "gemma3",
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": texts,
        "tokenizer.ggml.scores": np.array(scores, np.float32),
        "tokenizer.ggml.token_type": np.array(types, np.int32),
        **others,
    }
