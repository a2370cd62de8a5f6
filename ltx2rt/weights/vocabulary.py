"""Vocabularies of SentencePiece, and the byte-pair encodings that split texts as they do."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Container, Sequence
from typing import NamedTuple

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

from ltx2rt.errors import CheckpointError
from ltx2rt.kernels.host import from_numbers
from ltx2rt.types import Array

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4
_SPACE = "▁"
_UNKNOWN_PIECE = "<unk>"
# Characters of a piece that is put together from others; published ones have up to 31. The work grows with the square.
_MAX_PIECE = 256
# Wire types of protocol buffers.
_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5
_FLOAT = struct.Struct("<f")


class Pieces(NamedTuple):
    """A vocabulary, the ids in order.

    ``texts``; ``scores`` (n,) float; ``types`` (n,) int: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused,
    6 byte.
    """

    texts: Sequence[str]
    scores: Array
    types: Array


def read_sentencepiece(data: bytes, origin: str) -> Pieces:
    """The vocabulary of a SentencePiece model file (``tokenizer.model``); ``origin`` names it in errors.

    Raises:
        CheckpointError: the bytes are no such file.

    Source: sentencepiece_model.proto of google/sentencepiece: ModelProto.pieces is field 1, of it 1 is the piece, 2 the
    score, 3 the type.
    """
    texts: list[str] = []
    scores: list[float] = []
    types: list[int] = []
    try:
        for number, begin, end in _fields(data, 0, len(data)):
            if number != 1:
                continue
            text, score, kind = "", 0.0, _NORMAL
            for inner, first, last in _fields(data, begin, end):
                if inner == 1:
                    text = str(data[first:last], "utf-8")
                elif inner == 2:
                    score = _FLOAT.unpack_from(data, first)[0]
                elif inner == 3:
                    kind = data[first]
            texts.append(text)
            scores.append(score)
            types.append(kind)
    except (IndexError, ValueError, struct.error) as error:
        raise CheckpointError(
            f"{origin}: not a readable SentencePiece model ({error}); download the text encoder again."
        ) from error
    if not texts:
        raise CheckpointError(f"{origin}: a SentencePiece model without pieces; download the text encoder again.")
    return Pieces(texts, from_numbers(scores, np.float32), from_numbers(types, np.int32))


def _fields(data: bytes, at: int, end: int) -> list[tuple[int, int, int]]:
    """(number, begin, end) of each field of a message between two positions."""
    found = []
    while at < end:
        key, at = _varint(data, at)
        begin, wire = at, key & 7
        if wire == _BYTES:
            size, begin = _varint(data, at)
            at = begin + size
        elif wire == _VARINT:
            _, at = _varint(data, at)
        elif wire in (_FOUR_BYTES, _EIGHT_BYTES):
            at += 4 if wire == _FOUR_BYTES else 8
        else:
            raise ValueError(f"wire type {wire} at {begin}")
        if at > end:
            raise ValueError(f"a field at {begin} is longer than its message")
        found.append((key >> 3, begin, at))
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value, shift, byte = 0, 0, 0x80
    while byte & 0x80:
        if shift > 63:
            raise ValueError(f"an integer at {at} is too long")
        byte = data[at]
        value |= (byte & 0x7F) << shift
        shift += 7
        at += 1
    return value, at


def of_gguf(pieces: Pieces) -> Pieces:
    """The vocabulary of a SentencePiece model from what llama.cpp stores of it.

    It stores user-defined pieces with spaces and a score that sorts them last.
    """
    user_defined = pieces.types == _USER_DEFINED
    texts = list(pieces.texts)
    for index in np.flatnonzero(user_defined):
        texts[index] = texts[index].replace(" ", _SPACE)
    return Pieces(texts, np.where(user_defined, np.float32(0), pieces.scores), pieces.types)


def from_pieces(pieces: Pieces, origin: str) -> Tokenizer:
    """The byte-pair encoding that gives the ids that SentencePiece gives.

    Every way to put a piece together from two others is a merge. The best score goes first, and among equal ones the
    longest left part.

    Raises:
        CheckpointError: the library refuses the vocabulary; ``origin`` names it.
    """
    vocabulary = {text: index for index, text in enumerate(pieces.texts)}
    scores = [float(score) for score in pieces.scores]
    longest = max(map(len, pieces.texts), default=0)
    if longest > _MAX_PIECE:
        raise CheckpointError(
            f"{origin}: has a piece of {longest} characters (at most {_MAX_PIECE} are supported); the file is damaged."
        )
    mergeable = np.flatnonzero((pieces.types == _NORMAL) | (pieces.types == _USER_DEFINED))
    ranked = mergeable[np.argsort(-pieces.scores[mergeable], kind="stable")]
    merges: list[tuple[str, str]] = []
    for _, equals in itertools.groupby(map(int, ranked), scores.__getitem__):
        found = [pair for index in equals for pair in _splits(pieces.texts[index], vocabulary)]
        found.sort(key=_left_length, reverse=True)
        merges += found
    return _tokenizer(vocabulary, merges, pieces, origin)


def _splits(text: str, vocabulary: Container[str]) -> list[tuple[str, str]]:
    """The ways to put a piece together from two others."""
    return [
        (left, right)
        for cut in range(1, len(text))
        if (left := text[:cut]) in vocabulary and (right := text[cut:]) in vocabulary
    ]


def _left_length(pair: tuple[str, str]) -> int:
    return len(pair[0])


def from_merges(texts: Sequence[str], types: Array, merges: Sequence[str], origin: str) -> Tokenizer:
    """The byte-pair encoding of a vocabulary whose merges are stored, each as "left right".

    Where a text occurs twice, the later id is the one.

    Raises:
        CheckpointError: a merge is no pair, or the library refuses the vocabulary; ``origin`` names it.
    """
    pairs = []
    for merge in merges:
        left, _, right = merge.partition(" ")
        if not left or not right:
            raise CheckpointError(f"{origin}: {merge[:80]!r} is no pair of tokens that are merged.")
        pairs.append((left, right))
    vocabulary = {text: index for index, text in enumerate(texts)}
    return _tokenizer(vocabulary, pairs, Pieces(texts, np.zeros(len(texts), np.float32), types), origin)


def _tokenizer(vocabulary: dict[str, int], merges: Sequence[tuple[str, str]], pieces: Pieces, origin: str) -> Tokenizer:
    if _UNKNOWN_PIECE not in vocabulary:
        raise CheckpointError(f"{origin}: has no token {_UNKNOWN_PIECE}; it is not the tokenizer of a Gemma model.")
    try:
        model = models.BPE(vocab=vocabulary, merges=merges, unk_token=_UNKNOWN_PIECE, fuse_unk=True, byte_fallback=True)
        tokenizer = Tokenizer(model)
        tokenizer.normalizer = normalizers.Replace(" ", _SPACE)
        tokenizer.decoder = decoders.Sequence([decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
        special = [pieces.texts[index] for index in map(int, np.flatnonzero(_is_special(pieces.types)))]
        plain = [pieces.texts[index] for index in map(int, np.flatnonzero(pieces.types == _USER_DEFINED))]
        tokenizer.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in special])
        tokenizer.add_tokens(
            [AddedToken(text, normalized=False, special=False) for text in plain if text and _SPACE not in text]
        )
    except Exception as error:  # The library raises bare Exception for everything it cannot use.
        raise CheckpointError(f"{origin}: no usable vocabulary ({error}); download the text encoder again.") from error
    return tokenizer


def _is_special(types: Array) -> Array:
    special: Array = (types == _UNKNOWN) | (types == _CONTROL)
    return special
