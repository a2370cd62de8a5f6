"""Prompts through a small Gemma 4 pack of LTX-2.5: streamed and resident, its tokenizer, and encoders of others."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from ltx2rt import embedded
from ltx2rt.errors import CheckpointError, UsageError
from ltx2rt.graph.models.text import connector, feature_extractor, gemma
from ltx2rt.graph.models.text.gemma4 import Gemma4Config
from ltx2rt.graph.models.text.token_sampling import SamplingOptions
from ltx2rt.graph.models.transformer import config as transformer
from ltx2rt.graph.settings.settings import Settings
from ltx2rt.graph.settings.weight_files import WeightFiles
from ltx2rt.graph.stages.inputs import GenerationInputs
from ltx2rt.graph.stages.keeping import Keeping
from ltx2rt.graph.stages.run import Run
from ltx2rt.graph.stages.text.enhancement import enhance_prompt
from ltx2rt.graph.stages.text.stage import encode_prompts
from ltx2rt.graph.stages.weight_set import WeightSet
from ltx2rt.memory.ledger import Ledger
from ltx2rt.memory.need import Need
from ltx2rt.types import ParamSpec
from ltx2rt.weights.kept_weights import KeptWeights
from ltx2rt.weights.safetensors import write_safetensors

TRANSFORMER: dict[str, Any] = {
    "num_layers": 1,
    "num_attention_heads": 2,
    "attention_head_dim": 32,
    "in_channels": 128,
    "out_channels": 128,
    "cross_attention_dim": 64,
    "audio_num_attention_heads": 2,
    "audio_attention_head_dim": 16,
    "audio_cross_attention_dim": 32,
    "apply_gated_attention": True,
    "cross_attention_adaln": True,
    "caption_proj_before_connector": True,
    "caption_projection_first_linear": False,
    "caption_proj_input_norm": False,
    "caption_projection_second_linear": False,
    "ff_bias": False,
    "use_keyframes_abs_pos_embedding": True,
    "connector_num_layers": 1,
    "connector_num_attention_heads": 2,
    "connector_attention_head_dim": 32,
    "audio_connector_num_attention_heads": 2,
    "audio_connector_attention_head_dim": 16,
    "connector_apply_gated_attention": True,
    "connector_num_learnable_registers": 128,
    "connector_positional_embedding_max_pos": [4096],
}
TEXT: dict[str, Any] = {
    "model_type": "gemma4_unified_text",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_global_key_value_heads": 1,
    "head_dim": 16,
    "global_head_dim": 32,
    "attention_k_eq_v": True,
    "num_hidden_layers": 6,
    "sliding_window": 5,
    "vocab_size": 1100,
}
LTX, STOCK = "gemma4-12b-ltx-v1", "gemma-4-12b-it"
PROMPTS = ["a red circle moves left", "blurry"]
INPUTS = GenerationInputs.without_clip(Settings(prompt=PROMPTS[0]))


def tensors_of(specs: Iterable[ParamSpec], prefix: str, seed: int) -> dict[str, mx.array]:
    rng = np.random.default_rng(seed)
    return {
        prefix + spec.name: mx.array(rng.standard_normal(spec.shape).astype(np.float32) * 0.2).astype(mx.bfloat16)
        for spec in specs
    }


def write_transformer(folder: Path) -> Path:
    """A transformer of 2.5 with its connectors."""
    prefix = "model.diffusion_model."
    tensors = tensors_of(transformer.param_specs(transformer.TransformerConfig.from_dict(TRANSFORMER)), prefix, 1)
    for stream in connector.STREAMS:
        specs = connector.param_specs(connector.ConnectorConfig.from_dict(TRANSFORMER, stream))
        tensors |= tensors_of(specs, f"{prefix}{stream}_embeddings_connector.", 2)
    metadata = {
        "config": json.dumps({"transformer": TRANSFORMER}),
        "model_version": "2.5.0",
        "gemma_source_checkpoint": json.dumps({"ltx_version": "2.5.0", "gemma_version": LTX}),
    }
    path = folder / "ltx-2.5-22b-distilled-transformer.safetensors"
    write_safetensors(path, tensors, metadata)
    return path


def write_encoder(folder: Path, version: str | None = LTX, *, states: int = 7, name: str = "gemma4") -> Path:
    """A Gemma 4 with its tokenizer and the text projection, in one file; ``states``: what the projection reads."""
    config = {"model_type": "gemma4_unified", "text_config": TEXT} | (
        {} if version is None else {"gemma_version": version}
    )
    tensors: dict[str, Any] = dict(tensors_of(gemma.param_specs(Gemma4Config.from_dict(config)), "model.", 3))
    extractor = feature_extractor.FeatureExtractorConfig.from_dict(TRANSFORMER, encoder_width=64, encoder_states=states)
    tensors |= tensors_of(feature_extractor.param_specs(extractor), "text_embedding_projection.", 4)
    tensors["vision_model.patch_dense.weight"] = mx.zeros((4, 4))
    tensors["tokenizer_json"] = np.frombuffer((embedded.TEXT_ENCODER / "tokenizer.json").read_bytes(), np.uint8)
    path = folder / f"{name}.safetensors"
    write_safetensors(path, tensors, {"gemma_config": json.dumps(config)})
    return path


@pytest.fixture
def files(tmp_path: Path) -> WeightSet:
    return WeightSet.open(
        WeightFiles(checkpoint=write_transformer(tmp_path), text_encoder=write_encoder(tmp_path, name="encoder"))
    )


class Chooser(Ledger):
    """Takes the first option that is wanted, where a stage has one."""

    def __init__(self, wanted: Callable[[Need], bool]) -> None:
        super().__init__()
        self._wanted = wanted

    def choose(self, options: Iterable[Need]) -> Need:
        ways = list(options)
        return super().choose([need for need in ways if self._wanted(need)] or ways)


def encoded(files: WeightSet, depth: int, dtype: mx.Dtype) -> tuple[list[np.ndarray], Run]:
    """Contexts of both prompts, with the layers resident (depth 0) or streamed."""
    store = KeptWeights()
    run = Run(
        files,
        replace(INPUTS, dtype=dtype),
        ledger=Chooser(lambda need: need.settings.get("depth", depth) == depth),
        keeping=Keeping(store) if depth == 0 else None,
    )
    contexts = encode_prompts(run, PROMPTS)
    return [np.array(values.astype(mx.float32)) for context in contexts for values in context], run


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_streamed_layers_give_the_bits_of_resident_ones(files: WeightSet, dtype: mx.Dtype) -> None:
    expected, run = encoded(files, 0, dtype)
    assert [values.shape for values in expected] == [(1, 1024, 64), (1, 1024, 32)] * 2
    assert all(report.streamed_bytes == 0 for report in run.stages.reports)
    for depth in (1, 2):
        streamed, run = encoded(files, depth, dtype)
        (report,) = (report for report in run.stages.reports if report.name == "text encoder")
        assert report.streamed_bytes > 0
        for value, same in zip(streamed, expected, strict=True):
            np.testing.assert_array_equal(value, same)
    assert not np.array_equal(expected[0], expected[2])


def test_the_tokenizer_is_that_of_the_pack(files: WeightSet) -> None:
    assert files.tokenizer is not None
    ids = files.tokenizer.encode("  a red circle ")
    assert ids[0] == files.tokenizer.bos_id
    assert files.tokenizer.decode(ids[1:].tolist()) == "a red circle"
    assert files.tokenizer.encode("").tolist() == [files.tokenizer.bos_id]


def test_a_prompt_cannot_be_rewritten_with_it(files: WeightSet) -> None:
    with pytest.raises(UsageError, match=r"the text encoder of ltx-2\.5-.* only encodes prompts and cannot rewrite"):
        enhance_prompt(Run(files, INPUTS), "a dog", SamplingOptions(max_new_tokens=2), has_image=False)


def test_a_stock_model_is_refused(tmp_path: Path) -> None:
    encoder = write_encoder(tmp_path, STOCK)
    with pytest.raises(CheckpointError, match=f"needs the text encoder '{LTX}', this is '{STOCK}'"):
        WeightSet.open(WeightFiles(checkpoint=write_transformer(tmp_path), text_encoder=encoder))


def test_a_model_that_declares_nothing_is_taken_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    encoder = write_encoder(tmp_path, None)
    with caplog.at_level(logging.WARNING, "ltx2rt"):
        files = WeightSet.open(WeightFiles(checkpoint=write_transformer(tmp_path), text_encoder=encoder))
    assert f"does not declare its gemma_version; {files.checkpoint.path} needs {LTX}" in caplog.text


def test_gemma_3_is_refused(tmp_path: Path) -> None:
    given = WeightFiles(checkpoint=write_transformer(tmp_path), text_encoder=embedded.TEXT_ENCODER)
    with pytest.raises(CheckpointError, match=r"of generation 19b or 2\.3, but .* is of 2\.5"):
        WeightSet.open(given)


def test_it_is_refused_for_another_generation(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="text encoder"):
        WeightSet.open(WeightFiles(checkpoint=embedded.CHECKPOINT, text_encoder=write_encoder(tmp_path)))


def test_a_projection_for_another_number_of_layers_is_refused(tmp_path: Path) -> None:
    given = WeightFiles(checkpoint=write_transformer(tmp_path), text_encoder=write_encoder(tmp_path, states=49))
    with pytest.raises(CheckpointError, match=r"7 states of 64 channels, .* reads 3136; give .* \(Gemma 4 12B\)"):
        WeightSet.open(given)
