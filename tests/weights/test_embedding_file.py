"""Text embedding files: round trips, files of other programs, damaged and mismatched files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from ltx2rt.errors import CheckpointError, Ltx2rtError, UsageError
from ltx2rt.weights.embedding_file import TextEmbedding, read_embedding, write_embedding
from ltx2rt.weights.safetensors import write_safetensors


def values(*shape: int, dtype: mx.Dtype = mx.bfloat16) -> mx.array:
    return mx.array(np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)).astype(dtype)


def example(**changes: Any) -> TextEmbedding:
    fields: dict[str, Any] = {
        "generation": "2.3",
        "video_context": values(1, 1024, 6),
        "audio_context": values(1, 1024, 4),
        "negative_video_context": values(1, 1024, 6) + 1,
        "negative_audio_context": values(1, 1024, 4) + 1,
        "model_version": "2.3.0",
        "encoder_id": "gemma3 bf16",
        "prompt": "a red ball \u2014 \u6771",
        "negative_prompt": "blurry",
        "num_tokens": 9,
    }
    return TextEmbedding(**(fields | changes))


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
@pytest.mark.parametrize("negative", [True, False])
def test_round_trip(tmp_path: Path, suffix: str, negative: bool) -> None:
    absent = {} if negative else {"negative_video_context": None, "negative_audio_context": None, "negative_prompt": ""}
    written = example(**absent)
    path = tmp_path / f"prompt{suffix}"
    write_embedding(path, written)
    read = read_embedding(path)
    for field in ("generation", "model_version", "encoder_id", "prompt", "negative_prompt", "num_tokens"):
        assert getattr(read, field) == getattr(written, field)
    assert read.contexts().keys() == written.contexts().keys()
    for name, context in read.contexts().items():
        assert context.dtype == (mx.bfloat16 if suffix == ".safetensors" else mx.float32)
        assert mx.array_equal(context, written.contexts()[name])
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_npz_has_what_older_readers_look_for(tmp_path: Path) -> None:
    path = tmp_path / "prompt.npz"
    write_embedding(path, example(video_context=values(1, 1024, 6, dtype=mx.float16)))
    with np.load(path) as archive:
        assert archive["embedding"].dtype == np.float16
        np.testing.assert_array_equal(archive["embedding"], archive["video_context"])
        assert archive["attention_mask"].shape == (1, 1024)
        assert archive["attention_mask"].min() == 1
        assert (str(archive["format"]), int(archive["format_version"])) == ("ltx2rt-embedding", 1)


@pytest.mark.parametrize(("name", "mask"), [("embedding", "attention_mask"), ("text_encoding", "text_mask")])
def test_files_of_the_mlx_ports(tmp_path: Path, name: str, mask: str) -> None:
    context = np.random.default_rng(0).standard_normal((1, 256, 8)).astype(np.float32)
    path = tmp_path / "old.npz"
    # An object array is what a careless writer makes of the prompt; it must not be unpickled.
    np.savez(path, **{name: context, mask: np.ones((1, 256), dtype=np.int32), "prompt": np.array(["x"], dtype=object)})
    read = read_embedding(path)
    assert (read.generation, read.audio_context, read.prompt) == ("19b", None, "")
    np.testing.assert_array_equal(np.array(read.video_context), context)


def test_masked_rows_are_left_out(tmp_path: Path) -> None:
    context = np.arange(10, dtype=np.float64).reshape(1, 5, 2)
    path = tmp_path / "old.npz"
    np.savez(path, embedding=context, attention_mask=np.array([[0, 1, 1, 0, 1]]))
    np.testing.assert_array_equal(np.array(read_embedding(path).video_context), context[:, [1, 2, 4]])
    np.savez(path, embedding=context)
    assert read_embedding(path).video_context.shape == (1, 5, 2)


def test_match_with_the_checkpoint() -> None:
    embedding = example()
    embedding.require_match("f", generation="2.3", video_width=6, audio_width=4)
    embedding.require_match("f", generation="2.3", video_width=6, audio_width=None)
    with pytest.raises(CheckpointError, match=r"generation 2\.3, but the checkpoint is 19b"):
        embedding.require_match("f", generation="19b", video_width=6, audio_width=4)
    with pytest.raises(CheckpointError, match="video_context has 6 channels, the checkpoint reads 7"):
        embedding.require_match("f", generation="2.3", video_width=7, audio_width=4)
    with pytest.raises(CheckpointError, match="negative_audio_context has 5 channels, the checkpoint reads 4"):
        example(negative_audio_context=values(1, 1024, 5)).require_match(
            "f", generation="2.3", video_width=6, audio_width=4
        )
    with pytest.raises(CheckpointError, match="has no audio context"):
        example(audio_context=None).require_match("f", generation="2.3", video_width=6, audio_width=4)


def test_other_extension_and_unwritable_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"must end in \.safetensors or \.npz, got 'prompt\.pt'"):
        write_embedding(tmp_path / "prompt.pt", example())
    for name in ("prompt.safetensors", "prompt.npz"):
        with pytest.raises(Ltx2rtError, match=r"cannot write .*No such file or directory"):
            write_embedding(tmp_path / "absent" / name, example())


def npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def ours(path: Path, **changes: Any) -> Path:
    write_embedding(path, example())
    with np.load(path) as archive:
        entries = {name: archive[name] for name in archive.files} | changes
    return npz(path, **{name: value for name, value in entries.items() if value is not None})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p, "cannot be read"),
        (lambda p: p.write_bytes(b"not a zip"), "not a readable .npz file"),
        (lambda p: p.write_bytes(b"PK\x03\x04" + bytes(40)), "not a readable .npz file"),
        (lambda p: p.write_bytes(b""), "not a readable .npz file"),
        (lambda p: np.save(p.open("wb"), np.ones(3)), "not a readable .npz file"),
        (lambda p: npz(p, other=np.ones(3)), "holds no text embedding"),
        (lambda p: npz(p, embedding=np.array([[["x"]]], dtype=object)), "not a readable .npz file"),
        (lambda p: npz(p, embedding=np.ones((1, 4, 2), dtype=np.int32)), "floating-point numbers, got int32"),
        (lambda p: npz(p, embedding=np.ones((4, 2))), r"must have shape \(1, rows, channels\), got \(4, 2\)"),
        (lambda p: npz(p, embedding=np.ones((1, 4, 2)), attention_mask=np.ones((1, 5))), r"mask has shape \(1, 5\)"),
        (lambda p: npz(p, embedding=np.ones((1, 4, 2)), attention_mask=np.zeros((1, 4))), r"got \(1, 0, 2\)"),
        (lambda p: npz(p, embedding=np.full((1, 4, 2), np.nan)), "not finite"),
        (lambda p: ours(p, format_version=np.array(2)), "format 2, this ltx2rt reads 1"),
        (lambda p: ours(p, prompt=None), "damaged text embedding file .*prompt"),
        (lambda p: ours(p, video_context=None), "has no video context"),
    ],
)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_damaged_npz(tmp_path: Path, make: Any, message: str) -> None:
    path = tmp_path / "prompt.npz"
    make(path)
    with pytest.raises(CheckpointError, match=message):
        read_embedding(path)


def test_damaged_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "prompt.safetensors"
    write_safetensors(path, {"context": values(1, 4, 2), "mask": values(1, 4)}, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"not a text embedding file: .* not found in it \(keys=context, mask\)"):
        read_embedding(path)
    write_embedding(path, example())
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="truncated"):
        read_embedding(path)


@pytest.mark.parametrize("name", ["video_context", "video_prompt_embeds"])
def test_contexts_of_the_official_hdr_pipeline(tmp_path: Path, name: str) -> None:
    path = tmp_path / "scene-emb.safetensors"
    context = values(1, 4, 2)
    # A trainer leaves the batch axis out; nothing says which model the contexts are for.
    write_safetensors(path, {name: context if name == "video_context" else context[0]}, {})
    found = read_embedding(path)
    assert found.generation == ""
    assert found.audio_context is None
    assert bool((found.video_context == context).all())
    found.require_match("file", generation="2.5", video_width=2, audio_width=None)
    with pytest.raises(CheckpointError, match="video_context has 2 channels, the checkpoint reads 3"):
        found.require_match("file", generation="2.5", video_width=3, audio_width=None)
