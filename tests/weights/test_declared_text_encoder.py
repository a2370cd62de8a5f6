"""A text encoder of LTX-2.5 that states another version, or none: what inspect and a run say of it agrees."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from tiny_files import TRANSFORMER_25, model_specs, tensors_of, write_model

from ltx2rt import embedded
from ltx2rt.errors import CheckpointError
from ltx2rt.graph.components import TEXT_ENCODER, text_encoder
from ltx2rt.graph.settings.weight_files import WeightFiles
from ltx2rt.graph.stages.weight_set import WeightSet
from ltx2rt.inspection import inspect
from ltx2rt.weights.safetensors import write_safetensors

VERSION = "gemma4-12b-ltx-v1"
GEMMA: dict[str, Any] = {
    "model_type": "gemma4_unified",
    "text_config": {
        "model_type": "gemma4_unified_text",
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_global_key_value_heads": 1,
        "head_dim": 8,
        "global_head_dim": 16,
        "attention_k_eq_v": True,
        "num_hidden_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"],
        "vocab_size": 50,
    },
}
SIZELESS = {**GEMMA, "text_config": {"num_hidden_layers": 2}}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A transformer of 2.5 with connectors, in a folder of its own."""
    config = {"transformer": TRANSFORMER_25}
    specs = {n: s for n, s in model_specs(config, (24, 3)).items() if not n.startswith("text_embedding_projection.")}
    path = tmp_path_factory.mktemp("model") / "ltx-2.5-distilled.safetensors"
    return write_model(path, specs, config, model_version="2.5.0")


def encoder(folder: Path, config: dict[str, Any] | None, *, name: str = "encoder") -> Path:
    """A text encoder with its projection and tokenizer inside, which states ``config``."""
    tokenizer = (embedded.TEXT_ENCODER / "tokenizer.json").read_bytes()
    specs = {f"model.{spec.name}": spec for spec in TEXT_ENCODER.specs(text_encoder(GEMMA))}
    whole = model_specs({"transformer": TRANSFORMER_25}, (24, 3))
    projection = {name: spec for name, spec in whole.items() if name.startswith("text_embedding_projection.")}
    tensors = {**tensors_of(specs | projection), "tokenizer_json": mx.array(list(tokenizer), mx.uint8)}
    path = folder / f"{name}.safetensors"
    write_safetensors(path, tensors, {} if config is None else {"gemma_config": json.dumps(config)})
    return path


@pytest.mark.parametrize(("version", "is_warned"), [(VERSION, False), (None, True)])
def test_both_warn_of_one_that_declares_nothing(
    tmp_path: Path, model: Path, version: str | None, is_warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    path = encoder(tmp_path, GEMMA if version is None else {**GEMMA, "gemma_version": version})
    assert inspect(path).complete
    assert (f"{path}: declares no gemma_version; LTX-2.5 needs {VERSION}" in caplog.text) == is_warned
    caplog.clear()
    files = WeightSet.open(WeightFiles(checkpoint=model, text_encoder=path))
    assert files.has(TEXT_ENCODER)
    files.require_whole(TEXT_ENCODER)
    assert (f"{path} does not declare its gemma_version; {model} needs {VERSION}" in caplog.text) == is_warned
    assert caplog.text.count("gemma_version") == is_warned  # once


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({**GEMMA, "gemma_version": "gemma-4-12b-it"}, VERSION),
        (SIZELESS, "Gemma 4 config lacks hidden_size; the config.json is incomplete"),
        ({**SIZELESS, "gemma_version": VERSION}, "Gemma 4 config lacks hidden_size; the config.json is incomplete"),
    ],
)
def test_both_refuse(tmp_path: Path, model: Path, config: dict[str, Any], message: str) -> None:
    path = encoder(tmp_path, config)
    report = inspect(path)
    assert not report.complete
    (said,) = (component.error for component in report.components if component.error)
    with pytest.raises(CheckpointError) as refused:
        WeightSet.open(WeightFiles(checkpoint=model, text_encoder=path))
    for text in (said, str(refused.value)):
        assert message in text
        assert str(path) in text


def test_another_file_does_not_declare_it(tmp_path: Path, model: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The official file brings its projection alone; what it says of its text encoder is not said of another one."""
    path = encoder(tmp_path, None)
    official = encoder(tmp_path, {**GEMMA, "gemma_version": VERSION}, name="official")
    WeightSet.open(WeightFiles(checkpoint=model, text_encoder=path, text_projection=official))
    assert f"{path} does not declare its gemma_version" in caplog.text
