"""Tokenizer: ids of the embedded vocabulary, the 1024-token rule, BOS, padding, broken files."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ltx2rt
from ltx2rt.errors import CheckpointError
from ltx2rt.weights.tokenizer import MAX_TOKENS, GemmaTokenizer

EMBEDDED = Path(ltx2rt.__file__).parent / "embedded" / "text_encoder"
TOOL = Path(__file__).parents[2] / "tools" / "train_tiny" / "tokenizer.py"


@pytest.fixture(scope="module")
def tokenizer() -> GemmaTokenizer:
    return GemmaTokenizer.from_path(EMBEDDED)


@pytest.fixture(scope="module")
def tool() -> Any:
    spec = importlib.util.spec_from_file_location("embedded_tokenizer", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def embedded_json() -> dict[str, Any]:
    return json.loads((EMBEDDED / "tokenizer.json").read_text(encoding="utf-8"))


def names(ids: np.ndarray) -> list[str]:
    by_id = {index: piece for piece, index in embedded_json()["model"]["vocab"].items()}
    return [by_id[int(i)].replace("\u2581", "_") for i in ids]


def test_words_are_tokens(tokenizer: GemmaTokenizer) -> None:
    ids = tokenizer.encode("  A red circle moves left,\n slowly. ")
    assert ids.dtype == np.int32
    assert names(ids) == ["<bos>", "_a", "_red", "_circle", "_moves", "_left", ",", "_slowly", "."]


def test_unknown_characters_become_bytes(tokenizer: GemmaTokenizer) -> None:
    assert names(tokenizer.encode("\u6771")) == ["<bos>", "_", "<0xE6>", "<0x9D>", "<0xB1>"]
    assert 3 not in tokenizer.encode("caf\u00e9 \U0001f3bb \u0000 \u202e")


@pytest.mark.parametrize("text", ["", "   \n\t"])
def test_empty_prompt_is_one_bos(tokenizer: GemmaTokenizer, text: str) -> None:
    assert tokenizer.encode(text).tolist() == [tokenizer.bos_id] == [2]


def test_the_first_1024_tokens_are_kept(tokenizer: GemmaTokenizer) -> None:
    words = ["red", "circle", "left"] * 400
    ids = tokenizer.encode(" ".join(words))
    assert len(ids) == MAX_TOKENS == 1024
    assert names(ids) == ["<bos>"] + ["_" + word for word in words[:1023]]


@pytest.mark.parametrize("words", [3, 1023, 1024])
def test_bos_is_put_first_where_the_file_does_not(words: int) -> None:
    content = embedded_json() | {"post_processor": None}
    tokenizer = GemmaTokenizer.from_json(json.dumps(content).encode(), "test")
    ids = tokenizer.encode(" ".join(["red"] * words))
    assert len(ids) == min(words + 1, 1024)
    assert names(ids)[:2] == ["<bos>", "_red"]


def test_settings_in_the_file_do_not_matter(tokenizer: GemmaTokenizer) -> None:
    """A tokenizer.json may carry its own padding and truncation."""
    content = embedded_json() | {
        "truncation": {"direction": "Left", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
        "padding": {
            "strategy": {"Fixed": 16},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "<pad>",
        },
    }
    other = GemmaTokenizer.from_json(json.dumps(content).encode(), "test")
    for text in ("", "a red ball", "a red ball " * 500):
        np.testing.assert_array_equal(other.encode(text), tokenizer.encode(text))


def test_embedded_vocabulary(tokenizer: GemmaTokenizer, tool: Any) -> None:
    vocabulary = embedded_json()["model"]["vocab"]
    fixed = ("<pad>", "<eos>", "<bos>", "<unk>", "<0x00>", "<0xFF>")
    assert [vocabulary[token] for token in fixed] == [0, 1, 2, 3, 4, 259]
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))
    assert tokenizer.vocab_size == len(vocabulary) <= tool.MAX_VOCABULARY
    assert (EMBEDDED / "tokenizer.json").stat().st_size < 100_000
    assert [word for word in tool.WORDS if len(tokenizer.encode(word)) != 2] == []


def test_embedded_file_is_what_the_tool_makes(tool: Any) -> None:
    assert json.loads(tool.build().to_str())["model"] == embedded_json()["model"]


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no tokenizer\.json or tokenizer\.model; give the folder"):
        GemmaTokenizer.from_path(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b'{"model": 1}', b"\xff\xfe", b"[]"])
def test_broken_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: not a readable tokenizer\.json"):
        GemmaTokenizer.from_path(tmp_path)


def test_a_vocabulary_without_unknown_pieces() -> None:
    content = embedded_json()
    content["model"]["byte_fallback"] = False
    content["model"]["vocab"] = {
        piece.replace("<unk>", "<what>"): index for piece, index in content["model"]["vocab"].items()
    }
    tokenizer = GemmaTokenizer.from_json(json.dumps(content | {"added_tokens": []}).encode(), "test")
    with pytest.raises(CheckpointError, match="test: the tokenizer cannot split a text"):
        tokenizer.encode("\u6771")


def test_tokenizer_of_another_model() -> None:
    content = embedded_json()
    content["model"]["vocab"] = {
        piece.replace("<bos>", "<s>"): index for piece, index in content["model"]["vocab"].items()
    }
    content |= {"added_tokens": [], "post_processor": None}
    with pytest.raises(CheckpointError, match="has no token <bos>"):
        GemmaTokenizer.from_json(json.dumps(content).encode(), "test")
