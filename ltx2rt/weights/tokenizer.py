"""Prompts to Gemma token ids, from the ``tokenizer.json`` of the text encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tokenizers

from ltx2rt.errors import CheckpointError
from ltx2rt.kernels.host import from_numbers
from ltx2rt.types import Array

# The text encoder reads at most this many tokens, and the connectors fill every context up to it.
MAX_TOKENS = 1024


class GemmaTokenizer:
    """The tokenizer of a Gemma text encoder.

    Attributes:
        bos_id: id that every prompt begins with.
        pad_id: id of ``<pad>``.
        vocab_size: one more than the largest id.
    """

    def __init__(self, tokenizer_json: bytes, origin: str) -> None:
        """Read the bytes of a ``tokenizer.json``; ``origin`` names them in errors.

        Raises:
            CheckpointError: the bytes are no tokenizer, or one without ``<bos>`` and ``<pad>``.
        """
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(tokenizer_json.decode("utf-8"))
        except Exception as error:  # The library raises bare Exception for everything it cannot read.
            raise CheckpointError(
                f"{origin}: not a readable tokenizer.json ({error}); download the text encoder again."
            ) from error
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self.bos_id = self._required_id("<bos>", origin)
        self.pad_id = self._required_id("<pad>", origin)
        self.vocab_size = 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values())

    @classmethod
    def from_directory(cls, directory: Path) -> GemmaTokenizer:
        """The tokenizer of a text encoder folder.

        Raises:
            CheckpointError: the folder has no readable ``tokenizer.json``, or as the constructor.
        """
        path = directory / "tokenizer.json"
        try:
            data = path.read_bytes()
        except OSError as error:
            raise CheckpointError(
                f"{path}: cannot be read ({error.strerror}); give the folder of the Gemma text encoder, "
                "which holds config.json, tokenizer.json and model*.safetensors."
            ) from error
        return cls(data, str(path))

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
        ids = self._tokenizer.encode(text.strip()).ids
        if not ids or ids[0] != self.bos_id:
            ids = [self.bos_id, *ids][:MAX_TOKENS]
        return from_numbers(ids, dtype=np.int32)

    def encode_turns(self, text: str) -> Array:
        """Ids of a whole conversation with its turn marks, neither stripped nor cut; BOS only where the text has it.

        Returns:
            (n,) int32.
        """
        self._tokenizer.no_truncation()
        try:
            ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        finally:
            self._tokenizer.enable_truncation(MAX_TOKENS)
        return from_numbers(ids, dtype=np.int32)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, without special tokens."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def token_id(self, token: str) -> int | None:
        """Id of a token by its spelling, or None."""
        found = self._tokenizer.token_to_id(token)
        return None if found is None else int(found)
