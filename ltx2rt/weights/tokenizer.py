"""Prompts to Gemma token ids, whatever form the vocabulary comes in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tokenizers import Encoding, Tokenizer

from ltx2rt.errors import CheckpointError
from ltx2rt.kernels.host import from_numbers
from ltx2rt.types import Array
from ltx2rt.weights.file_kind import begins_as
from ltx2rt.weights.gguf import GgufFile
from ltx2rt.weights.tensor_source import WeightFile
from ltx2rt.weights.vocabulary import Pieces, from_merges, from_pieces, of_gguf, read_sentencepiece
from ltx2rt.weights.weight_file import open_weight_file

if TYPE_CHECKING:
    from ltx2rt.weights.checkpoint import Checkpoint

# The text encoder reads at most this many tokens, and the connectors fill every context up to it.
MAX_TOKENS = 1024

_JSON, _SENTENCEPIECE = "tokenizer.json", "tokenizer.model"
# Tensors that hold the bytes of such files.
_PACKED_JSON, _PACKED_SENTENCEPIECE = "tokenizer_json", "spiece_model"
# The same in the header of a GGUF file.
_TOKENS, _WHOLE = "tokenizer.ggml.tokens", "tokenizer.huggingface.json"
# Larger than any vocabulary that is published.
_MAX_BYTES = 200_000_000


class GemmaTokenizer:
    """The tokenizer of a Gemma text encoder.

    Args:
        tokenizer: what splits texts.
        origin: where it comes from, for errors.

    Attributes:
        bos_id: id that every prompt begins with.
        pad_id: id of ``<pad>``.
        vocab_size: one more than the largest id.

    Raises:
        CheckpointError: there is no ``<bos>`` or ``<pad>``.
    """

    def __init__(self, tokenizer: Tokenizer, origin: str) -> None:
        self._tokenizer = tokenizer
        self._origin = origin
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self.bos_id = self._required_id("<bos>", origin)
        self.pad_id = self._required_id("<pad>", origin)
        self.vocab_size = 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values())

    @classmethod
    def of(cls, encoder: Checkpoint, given: Path | None = None) -> GemmaTokenizer:
        """The tokenizer of a text encoder.

        It is, in this order: the one that is given; what is packed into the file (a ``tokenizer.json`` or SentencePiece
        model as a tensor, the vocabulary of a GGUF header); a ``tokenizer.json`` or ``tokenizer.model`` in the folder,
        beside the file, or in a folder ``tokenizer`` in or beside that folder.

        Args:
            encoder: the text encoder.
            given: a ``tokenizer.json``, a ``tokenizer.model``, a weight file that has one inside, or a folder with one.

        Raises:
            CheckpointError: there is none, or it is damaged or not of a Gemma model.
        """
        if given is not None:
            return cls.from_path(given)
        for file in encoder.files:
            packed = _packed(file)
            if packed is not None:
                return cls(packed, str(file.path))
        return cls.from_path(_found_beside(encoder.path))

    @classmethod
    def from_path(cls, path: Path) -> GemmaTokenizer:
        """The tokenizer in a file, which its content recognises, or in a folder.

        Raises:
            CheckpointError: there is none, or it is damaged or not of a Gemma model.
        """
        found = _beside((path, path / "tokenizer")) if path.is_dir() else path
        if found is None:
            raise CheckpointError(
                f"{path}: has no {_JSON} or {_SENTENCEPIECE}; give the folder of the Gemma text encoder, or the file."
            )
        return cls(_read(found), str(found))

    @classmethod
    def from_json(cls, tokenizer_json: bytes, origin: str) -> GemmaTokenizer:
        """The tokenizer that the bytes of a ``tokenizer.json`` describe; ``origin`` names them in errors.

        Raises:
            CheckpointError: the bytes are no tokenizer, or one without ``<bos>`` and ``<pad>``.
        """
        return cls(_from_json(tokenizer_json, origin), origin)

    def _required_id(self, token: str, origin: str) -> int:
        found = self._tokenizer.token_to_id(token)
        if found is None:
            raise CheckpointError(f"{origin}: has no token {token}; it is not the tokenizer of a Gemma model.")
        return int(found)

    def encode(self, text: str) -> Array:
        """Ids of the real tokens of a prompt.

        White space around the prompt is dropped, the first 1024 tokens are kept and the first one is always BOS, so an
        empty prompt is one token.

        Returns:
            (n,) int32 with 1 <= n <= 1024.

        Source: the tokenizer of Lightricks/LTX-2 ltx_core/text_encoders/gemma @ v1.2.0.
        """
        ids = self._ids(text.strip())
        if not ids or ids[0] != self.bos_id:
            ids = [self.bos_id, *ids][:MAX_TOKENS]
        return from_numbers(ids, dtype=np.int32)

    def cut(self, text: str) -> tuple[int, str]:
        """How many tokens a prompt has, and what of its text `encode` leaves out; empty: nothing."""
        encoding = self._encoding(text.strip())
        tokens = len(encoding.ids) + sum(len(more.ids) for more in encoding.overflowing)
        if not encoding.overflowing:
            return tokens, ""
        return tokens, text.strip()[encoding.overflowing[0].offsets[0][0] :]

    def _ids(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return list(self._encoding(text, add_special_tokens=add_special_tokens).ids)

    def _encoding(self, text: str, *, add_special_tokens: bool = True) -> Encoding:
        try:
            return self._tokenizer.encode(text, add_special_tokens=add_special_tokens)
        except Exception as error:  # The library raises bare Exception, for one where a vocabulary has no <unk>.
            raise CheckpointError(
                f"{self._origin}: the tokenizer cannot split a text ({error}); download the text encoder again."
            ) from error

    def encode_turns(self, text: str) -> Array:
        """Ids of a whole conversation with its turn marks, neither stripped nor cut; BOS only where the text has it.

        Returns:
            (n,) int32.
        """
        self._tokenizer.no_truncation()
        try:
            ids = self._ids(text, add_special_tokens=False)
        finally:
            self._tokenizer.enable_truncation(MAX_TOKENS)
        return from_numbers(ids, dtype=np.int32)

    def to_json(self) -> bytes:
        """What a ``tokenizer.json`` of it holds."""
        self._tokenizer.no_truncation()
        try:
            return str(self._tokenizer.to_str()).encode()
        finally:
            self._tokenizer.enable_truncation(MAX_TOKENS)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, without special tokens."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def token_id(self, token: str) -> int | None:
        """Id of a token by its spelling, or None."""
        found = self._tokenizer.token_to_id(token)
        return None if found is None else int(found)


def require_vocabulary(encoder: Checkpoint) -> None:
    """Check that a text encoder in a GGUF file, which should have a vocabulary inside, has one there or beside it.

    Raises:
        CheckpointError: it has not.
    """
    for file in encoder.files:
        if isinstance(file, GgufFile):
            inside = {name.rpartition(".")[2] for name in file.tensors}
            packed = {_PACKED_JSON, _PACKED_SENTENCEPIECE}.intersection(inside)
            if not packed and not any(map(file.has, (_TOKENS, _WHOLE, _PACKED_JSON, _PACKED_SENTENCEPIECE))):
                _found_beside(encoder.path)


def _found_beside(encoder: Path) -> Path:
    """The file of the tokenizer that belongs to a text encoder; `CheckpointError` if there is none."""
    folder = encoder if encoder.is_dir() else encoder.parent
    beside = _beside((folder, folder / "tokenizer", folder.parent / "tokenizer"))
    if beside is None:
        raise CheckpointError(
            f"{encoder}: holds no tokenizer (a tensor {_PACKED_JSON} or {_PACKED_SENTENCEPIECE}, or {_TOKENS} of a "
            f"GGUF file), and there is no {_JSON} or {_SENTENCEPIECE} beside it; put the {_JSON} of the Gemma model "
            "there."
        )
    return beside


def _beside(folders: Iterable[Path]) -> Path | None:
    """The first file of a tokenizer in some folders."""
    names = (folder / name for folder in folders for name in (_JSON, _SENTENCEPIECE))
    return next((path for path in names if path.is_file()), None)


def _read(path: Path) -> Tokenizer:
    """The tokenizer in a file of any kind."""
    kind = begins_as(path)
    if kind in ("gguf", "safetensors"):
        file = open_weight_file(path)
        packed = _packed(file)
        file.close()
        if packed is None:
            raise CheckpointError(f"{path}: holds no tokenizer; give a {_JSON} or {_SENTENCEPIECE}.")
        return packed
    try:
        size = path.stat().st_size
        _require_size(size, str(path))
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); check the path.") from error
    if path.name != _JSON and data.lstrip()[:1] != b"{":
        return from_pieces(read_sentencepiece(data, str(path)), str(path))
    return _from_json(data, str(path))


def _packed(file: WeightFile) -> Tokenizer | None:
    """The tokenizer inside a weight file; None if it has none."""
    origin = str(file.path)
    for name, info in file.tensors.items():
        kind = name.rpartition(".")[2]
        if kind in (_PACKED_JSON, _PACKED_SENTENCEPIECE):
            _require_size(info.nbytes, file.where(name))
            data = file.bytes(name)
            if kind == _PACKED_JSON:
                return _from_json(data, file.where(name))
            return from_pieces(read_sentencepiece(data, file.where(name)), file.where(name))
    return _from_gguf(file, origin) if isinstance(file, GgufFile) else None


def _from_gguf(file: GgufFile, origin: str) -> Tokenizer | None:
    """The vocabulary in the header of a GGUF file; None if it has none."""
    whole = file.value(_WHOLE)
    if isinstance(whole, str):
        return _from_json(whole.encode(), f"{origin}: {_WHOLE}")
    texts, types = file.value(_TOKENS), file.value("tokenizer.ggml.token_type")
    if texts is None:
        return None
    kind = file.metadata.get("tokenizer.ggml.model")
    if not isinstance(texts, list) or not _is_numbers(types, len(texts), "iu"):
        raise CheckpointError(
            f"{origin}: tokenizer.ggml.token_type must be a number for each of tokenizer.ggml.tokens."
        )
    merges = file.value("tokenizer.ggml.merges")
    if kind == "gemma4" and isinstance(merges, list):
        return from_merges(texts, types, merges, origin)
    scores = file.value("tokenizer.ggml.scores")
    if kind != "llama" or not _is_numbers(scores, len(texts), "f"):
        raise CheckpointError(
            f"{origin}: tokenizer.ggml.model is {str(kind)[:80]!r}, which needs other values than the header has; "
            "supported are 'llama' with tokenizer.ggml.scores and 'gemma4' with tokenizer.ggml.merges."
        )
    return from_pieces(of_gguf(Pieces(texts, scores, types)), origin)


def _from_json(data: bytes, origin: str) -> Tokenizer:
    try:
        return Tokenizer.from_str(data.decode("utf-8"))
    except Exception as error:  # The library raises bare Exception for everything it cannot read.
        raise CheckpointError(
            f"{origin}: not a readable tokenizer.json ({error}); download the text encoder again."
        ) from error


def _is_numbers(values: object, count: int, kinds: str) -> bool:
    return isinstance(values, np.ndarray) and len(values) == count and values.dtype.kind in kinds


def _require_size(size: int, where: str) -> None:
    if size > _MAX_BYTES:
        raise CheckpointError(f"{where}: {size} bytes are too many for a tokenizer (at most {_MAX_BYTES}).")
