"""Tokenizers in every form: SentencePiece models, GGUF headers and packed files give the ids of the tokenizer.json."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_gguf import Stored, of_array, write_gguf
from tiny_vocabulary import SCORES, TEXTS, TYPES, gguf_values, message, sentencepiece

import ltx2rt
from ltx2rt.errors import CheckpointError
from ltx2rt.inspection import inspect
from ltx2rt.weights.checkpoint import Checkpoint
from ltx2rt.weights.safetensors import write_safetensors
from ltx2rt.weights.tokenizer import GemmaTokenizer
from ltx2rt.weights.vocabulary import Pieces, from_pieces, read_sentencepiece

EMBEDDED = Path(ltx2rt.__file__).parent / "embedded" / "text_encoder" / "tokenizer.json"
PROMPTS = [
    "the cat",
    "  the\n\ncat in\n\n\n\nthere",
    "a     b",
    "<table> <start_of_turn>a",
    "héé 日",
    "",
    "   ",
    "a▁b",
    "ing.",
]


EXPECTED = from_pieces(Pieces(TEXTS, np.array(SCORES, np.float32), np.array(TYPES)), "test")
GGUF_LAYER = {"model.norm.weight": of_array(np.zeros(4, np.float32))}


def assert_same(tokenizer: GemmaTokenizer) -> None:
    for text in PROMPTS:
        assert tokenizer.encode_turns(text).tolist() == EXPECTED.encode(text, add_special_tokens=False).ids, text
    assert tokenizer.encode("the cat").tolist()[0] == tokenizer.bos_id == 2


def as_json_file(path: Path) -> Path:
    path.write_text(EXPECTED.to_str(), encoding="utf-8")
    return path


def as_model_file(path: Path) -> Path:
    path.write_bytes(sentencepiece())
    return path


def as_gguf(path: Path) -> Path:
    return write_gguf(path, GGUF_LAYER, gguf_values())


def as_gguf_with_merges(path: Path) -> Path:
    merges = [" ".join(pair) for pair in json.loads(EXPECTED.to_str())["model"]["merges"]]
    values = gguf_values(**{"tokenizer.ggml.model": "gemma4", "tokenizer.ggml.tokens": TEXTS})
    values |= {"general.architecture": "gemma4", "tokenizer.ggml.merges": merges}
    return write_gguf(path, GGUF_LAYER, values)


def as_gguf_with_json(path: Path) -> Path:
    return write_gguf(path, GGUF_LAYER, {"tokenizer.huggingface.json": EXPECTED.to_str()})


def as_gguf_tensor(path: Path) -> Path:
    data = sentencepiece()
    return write_gguf(path, {**GGUF_LAYER, "spiece_model": Stored("I8", (len(data),), data)})


def packed(name: str) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        data = sentencepiece() if name == "spiece_model" else EXPECTED.to_str().encode()
        tensors = {"model.layers.0.mlp.up_proj.weight": np.zeros((2, 2), np.float32)}
        write_safetensors(path, tensors | {name: np.frombuffer(data, np.uint8)})
        return path

    return write


FORMS: dict[str, Callable[[Path], Path]] = {
    "tokenizer.json": as_json_file,
    "tokenizer.model": as_model_file,
    "gemma3.gguf": as_gguf,
    "gemma4.gguf": as_gguf_with_merges,
    "json.gguf": as_gguf_with_json,
    "tensor.gguf": as_gguf_tensor,
    "spiece.safetensors": packed("spiece_model"),
    "packed.safetensors": packed("tokenizer_json"),
}


def test_ids_of_the_small_vocabulary() -> None:
    """By hand: the merges that SentencePiece would make, unknown letters as bytes, runs of newlines as they are."""

    def pieces(text: str) -> list[str]:
        return [TEXTS[index] for index in EXPECTED.encode(text, add_special_tokens=False).ids]

    assert pieces("the cat") == ["the", "▁cat"]
    assert pieces("a   b") == ["a", "▁▁▁", "b"]
    assert pieces("\n\n\n\n") == ["\n\n\n", "\n"]
    assert pieces("é") == ["<0xC3>", "<0xA9>"]
    assert pieces("<table>[PAD1]")[0] == "<table>"
    assert EXPECTED.decode([TEXTS.index("▁the"), TEXTS.index("<0xC3>"), TEXTS.index("<0xA9>")]) == " theé"


def test_equal_scores_merge_the_longest_left_part_first() -> None:
    """Seven spaces are a run of five and one of two, not three and four."""
    ids = EXPECTED.encode("a       b", add_special_tokens=False).ids
    assert [TEXTS[index] for index in ids] == ["a", "▁▁▁▁▁", "▁▁", "b"]
    merges = [tuple(pair) for pair in json.loads(EXPECTED.to_str())["model"]["merges"]]
    runs = [pair for pair in merges if set("".join(pair)) == {"▁"}]
    assert [len(left) for left, _ in runs] == sorted((len(left) for left, _ in runs), reverse=True)
    assert merges.index(("▁▁▁▁", "▁")) < merges.index(("▁▁▁", "▁▁")) < merges.index(("t", "h"))


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same_ids(tmp_path: Path, name: str) -> None:
    assert_same(GemmaTokenizer.from_path(FORMS[name](tmp_path / name)))


@pytest.mark.parametrize("name", [name for name in FORMS if name.endswith(("safetensors", "gguf"))])
def test_a_tokenizer_inside_the_text_encoder_is_found(tmp_path: Path, name: str) -> None:
    assert_same(GemmaTokenizer.of(Checkpoint.open(FORMS[name](tmp_path / name))))


@pytest.mark.parametrize(
    "place", ["tokenizer.json", "tokenizer.model", "tokenizer/tokenizer.json", "../tokenizer/tokenizer.json"]
)
@pytest.mark.parametrize("is_folder", [True, False])
def test_a_tokenizer_beside_the_text_encoder_is_found(tmp_path: Path, place: str, is_folder: bool) -> None:
    folder = tmp_path / "text_encoder"
    folder.mkdir()
    path = folder / "model.safetensors"
    write_safetensors(path, {"model.layers.0.mlp.up_proj.weight": np.zeros((2, 2), np.float32)})
    beside = folder / place
    beside.parent.mkdir(exist_ok=True)
    FORMS[beside.name](beside)
    if is_folder:
        (folder / "config.json").write_text('{"model_type": "gemma3"}')
    assert_same(GemmaTokenizer.of(Checkpoint.open(folder if is_folder else path)))


def test_what_is_given_comes_first(tmp_path: Path) -> None:
    encoder = Checkpoint.open(packed("spiece_model")(tmp_path / "a.safetensors"))
    embedded = GemmaTokenizer.of(encoder, EMBEDDED)
    assert embedded.encode("red").tolist() == GemmaTokenizer.from_path(EMBEDDED).encode("red").tolist()
    assert embedded.vocab_size != len(TEXTS)
    assert GemmaTokenizer.of(encoder, EMBEDDED.parent).vocab_size == embedded.vocab_size


def test_no_tokenizer_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.safetensors"
    path.parent.mkdir()
    write_safetensors(path, {"model.layers.0.mlp.up_proj.weight": np.zeros((2, 2), np.float32)})
    with pytest.raises(CheckpointError, match=r"holds no tokenizer .*tokenizer.ggml.tokens.* put the tokenizer.json"):
        GemmaTokenizer.of(Checkpoint.open(path))
    with pytest.raises(CheckpointError, match=r"holds no tokenizer; give a tokenizer.json"):
        GemmaTokenizer.of(Checkpoint.open(path), path)


def test_inspect_misses_the_vocabulary_of_a_gguf_file(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "a" / "b" / "c.gguf", GGUF_LAYER, {"general.architecture": "gemma3"})
    (report,) = inspect(path).components
    assert "holds no tokenizer" in report.error
    as_json_file(path.with_name("tokenizer.json"))
    (report,) = inspect(path).components
    assert "tokenizer" not in report.error


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"tokenizer.ggml.model": "gpt2"}, "tokenizer.ggml.model is 'gpt2', which needs other values"),
        ({"tokenizer.ggml.scores": np.zeros(3, np.float32)}, "tokenizer.ggml.model is 'llama', which needs"),
        (
            {"tokenizer.ggml.token_type": np.zeros(3, np.int32)},
            "token_type must be a number for each",
        ),
        ({"tokenizer.ggml.tokens": [*TEXTS[:-1], "a" * 300]}, "has a piece of 300 characters"),
        ({"tokenizer.ggml.model": np.arange(3)}, "tokenizer.ggml.model is 'None', which needs"),
        ({"tokenizer.ggml.tokens": "abc"}, "a number for each"),
        ({"tokenizer.ggml.model": "gemma4", "tokenizer.ggml.merges": ["ab"]}, "'ab' is no pair of tokens"),
        ({"tokenizer.ggml.model": "gemma4", "tokenizer.ggml.merges": ["q z"]}, "no usable vocabulary"),
        ({"tokenizer.huggingface.json": "{"}, "tokenizer.huggingface.json: not a readable tokenizer.json"),
    ],
)
def test_damaged_vocabularies_of_gguf_files(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    path = write_gguf(tmp_path / "a.gguf", GGUF_LAYER, gguf_values(**values))
    with pytest.raises(CheckpointError, match=message):
        GemmaTokenizer.from_path(path)


@pytest.mark.parametrize("token", ["<bos>", "<pad>", "<unk>"])
def test_a_vocabulary_of_another_model(tmp_path: Path, token: str) -> None:
    texts: Sequence[str] = [text.replace(token, "<s>") for text in TEXTS]
    path = write_gguf(tmp_path / "a.gguf", GGUF_LAYER, gguf_values(**{"tokenizer.ggml.tokens": texts}))
    with pytest.raises(CheckpointError, match=f"has no token {token}"):
        GemmaTokenizer.from_path(path)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        message(2, b"no pieces"),
        sentencepiece()[:-3],
        sentencepiece()[:100],
        message(1, b"\x0a\x7fabc"),
        message(1, b"\x0a\x02\xff\xff"),
        message(1, b"\x15\0\0"),
        b"\x0a" + b"\xff" * 11,
        b"\x0b\x00",
    ],
)
def test_damaged_sentencepiece_models(data: bytes) -> None:
    with pytest.raises(CheckpointError, match="SentencePiece model"):
        read_sentencepiece(data, "test")


def test_sentencepiece_fields() -> None:
    pieces = read_sentencepiece(sentencepiece(), "test")
    assert pieces.texts == TEXTS
    assert pieces.types.tolist() == TYPES
    np.testing.assert_array_equal(pieces.scores, np.array(SCORES, np.float32))
