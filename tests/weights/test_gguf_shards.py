"""GGUF models that were split into several files: the same model as the whole file, and what is wrong with a set."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import gguf
import mlx.core as mx
import numpy as np
import pytest
from tiny_gguf import of_array, write_gguf

from ltx2rt.errors import CheckpointError
from ltx2rt.graph.models.text import gemma, gemma3
from ltx2rt.types import LinearWeight, ParamSpec
from ltx2rt.weights.checkpoint import Checkpoint
from ltx2rt.weights.sets.parts import find
from ltx2rt.weights.tokenizer import GemmaTokenizer
from ltx2rt.weights.weight_file import open_weight_file

LAYERS = 2
PIECES = ["<pad>", "<eos>", "<bos>", "<unk>", "<0x41>", "▁", "a", "▁a"]
TYPES = [3, 3, 3, 2, 6, 1, 1, 1]


def written(path: Path, **split: int) -> None:
    """A small Gemma 3 by the gguf package, whole or split."""
    writer = gguf.GGUFWriter(path, "gemma3", **split)
    writer.add_block_count(LAYERS)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(128)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_key_length(32)
    writer.add_sliding_window(8)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(PIECES)
    writer.add_token_types(TYPES)
    writer.add_token_scores([float(-n) for n in range(len(PIECES))])
    shapes = {"token_embd": (len(PIECES), 64), "output_norm": (64,)}
    for layer in range(LAYERS):
        at = f"blk.{layer}."
        shapes |= {f"{at}{name}": (64,) for name in ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")}
        shapes |= {f"{at}attn_{name}_norm": (32,) for name in "qk"}
        shapes |= {
            f"{at}attn_q": (64, 64),
            f"{at}attn_k": (32, 64),
            f"{at}attn_v": (32, 64),
            f"{at}attn_output": (64, 64),
        }
        shapes |= {f"{at}ffn_gate": (128, 64), f"{at}ffn_up": (128, 64), f"{at}ffn_down": (64, 128)}
    values = np.random.default_rng(0)
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", values.standard_normal(shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole file, and in `split` the same in three."""
    path = tmp_path_factory.mktemp("shards")
    (path / "split").mkdir()
    written(path / "whole.gguf")
    written(path / "split" / "part.gguf", split_max_tensors=12)
    assert len(list((path / "split").iterdir())) == 3
    return path


@pytest.mark.parametrize("given", ["", "part-00001-of-00003.gguf", "part-00003-of-00003.gguf"])
def test_any_file_or_the_folder_is_the_whole_model(folder: Path, given: str) -> None:
    whole, split = Checkpoint.open(folder / "whole.gguf"), Checkpoint.open(folder / "split" / given)
    config = gemma3.Gemma3Config.from_dict(split.section("text_encoder"))
    assert config == gemma3.Gemma3Config.from_dict(whole.section("text_encoder"))
    specs = gemma.param_specs(config)
    assert split.problems("text_encoder", specs) == ([], [])
    mine, theirs = (checkpoint.load("text_encoder", specs) for checkpoint in (split, whole))
    for name, weight in theirs.items():
        first, second = (w.values if isinstance(w, LinearWeight) else w for w in (mine[name], weight))
        assert mx.array_equal(first, second), name  # norms included, which Gemma 3 stores one larger here
    assert GemmaTokenizer.of(split).encode("a a").tolist() == GemmaTokenizer.of(whole).encode("a a").tolist()
    assert {part.component for part in find(folder / "split" / given).parts} == {"text_encoder"}


QUERY, KEY = ("transformer_blocks.0.attn1.to_q.weight", "transformer_blocks.0.attn1.to_k.weight")


def two_files(folder: Path, *, total: int = 3) -> Path:
    """A transformer whose first file states what is true of tensors in the second one."""
    marker = json.dumps({"format": "int8_tensorwise", "convrot": True, "weight_rotated": True, "convrot_groupsize": 64})
    values = {
        "general.architecture": "ltxv",
        f"comfy.gguf.quant.{QUERY}": marker,
        f"comfy.gguf.orig_shape.{KEY}": np.array([8, 64], np.int32),
        "split.no": np.uint16(0),
        "split.count": np.uint16(2),
        "split.tensors.count": np.int32(total),
    }
    first = write_gguf(folder / "model-00001-of-00002.gguf", {}, values)
    second = {
        QUERY: of_array(np.ones((4, 64), np.int8)),
        f"{QUERY}_scale": of_array(np.ones((4, 1), np.float32)),
        KEY: of_array(np.ones((2, 256), np.float16)),
    }
    split = {key: value for key, value in values.items() if key.startswith("split.")}
    write_gguf(folder / "model-00002-of-00002.gguf", second, split | {"split.no": np.uint16(1)})
    return first


def test_what_the_first_file_states_counts_for_all(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(two_files(tmp_path))
    assert checkpoint.formats("transformer") == {"int8 convrot": 1, "dense": 1}
    query, key = (ParamSpec(name, shape, layout="linear") for name, shape in ((QUERY, (4, 64)), (KEY, (8, 64))))
    found = checkpoint.load("transformer", [query, key])
    assert found[QUERY].rotation == 64  # type: ignore[union-attr]  # every format of a linear layer gives a LinearWeight
    assert checkpoint.loaded_bytes("transformer", [query]).rotation == 64


def rename(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        path.rename(path.with_name(path.name.replace("-of-", "of")))


def swap(folder: Path) -> None:
    first, second = (folder / f"part-0000{n}-of-00003.gguf" for n in (2, 3))
    kept = first.rename(folder / "kept")
    second.rename(first)
    kept.rename(second)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "part-00003-of-00003.gguf").unlink(), "of which part-00003-of-00003.gguf is missing; put all"),
        (rename, "one of 3 files .* their names must end in -00001-of-00003.gguf and so on"),
        (swap, "part-00002-of-00003.gguf: states that it is number 3 of 3 files, not 2 of 3"),
    ],
    ids=["missing", "names", "swapped"],
)
def test_sets_that_are_not_whole(folder: Path, tmp_path: Path, change: Callable[[Path], None], message: str) -> None:
    shutil.copytree(folder / "split", tmp_path / "split")
    change(tmp_path / "split")
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.open(sorted((tmp_path / "split").iterdir())[0])


def test_tensors_that_are_lost(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="the model has 4 tensors, its files have 3; download it again"):
        Checkpoint.open(two_files(tmp_path, total=4))


def test_a_part_is_no_file_of_its_own(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"one of 3 files .* read together as a model and as nothing else"):
        open_weight_file(folder / "split" / "part-00001-of-00003.gguf")
