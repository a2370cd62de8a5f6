"""Whether LoRAs fit a model: what is refused, what is said, and what is taken without a word."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ltx2rt.errors import CheckpointError, UsageError
from ltx2rt.graph.stages.fitting_loras import LoraTarget, check_lora, text_modules
from ltx2rt.weights.generations import LTX_2, LTX_2_3, Generation
from ltx2rt.weights.lora.file import LoraFile
from ltx2rt.weights.lora.opening import open_lora
from ltx2rt.weights.safetensors import write_safetensors

Array = np.ndarray[Any, np.dtype[Any]]
MODULE = "transformer_blocks.0.attn1.to_q"
CONNECTOR = "video_embeddings_connector.transformer_1d_blocks.0.attn1.to_q"
A, B = np.ones((4, 8), np.float32), np.ones((6, 4), np.float32)
SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "transformer": {f"{MODULE}.weight": (6, 8), f"{MODULE}.bias": (6,)},
    "video_connector": {"transformer_1d_blocks.0.attn1.to_q.weight": (6, 8)},
    "text_projection": {"aggregate_embed.weight": (6, 8)},
}


def model(generation: Generation | None = LTX_2_3) -> LoraTarget:
    return LoraTarget("model.safetensors", generation, SHAPES)


def pair(module: str, a: Array = A, **more: Array) -> dict[str, Array]:
    return {f"{module}.lora_A.weight": a, f"{module}.lora_B.weight": B, **{f"{module}.{k}": v for k, v in more.items()}}


def opened(folder: Path, tensors: dict[str, Array], **metadata: str) -> LoraFile:
    write_safetensors(folder / "a.safetensors", tensors, metadata)
    return open_lora(folder / "a.safetensors")


def said(
    lora: LoraFile, caplog: pytest.LogCaptureFixture, target: LoraTarget | None = None, *, text: bool = True
) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        check_lora(lora, 1.0, target or model(), text=text)
    return [record.getMessage().removeprefix(f"{lora.path}: ") for record in caplog.records]


def test_a_fitting_lora_gets_no_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tensors = {**pair(MODULE, alpha=np.full((), 4, np.float32)), **pair(CONNECTOR), f"{MODULE}.diff_b": B[:, 0]}
    lora = opened(tmp_path, tensors, model_version="2.3.0")
    assert said(lora, caplog) == []
    assert text_modules(lora) == [CONNECTOR]


def test_what_the_model_lacks_is_counted_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lora = opened(tmp_path, {**pair(MODULE), **pair("diffusion_model.adapter_extra.proj")})
    expected = "1 of its 2 LoRA modules is not in model.safetensors and not applied (adapter_extra.proj)"
    assert said(lora, caplog) == [expected]


def test_a_lora_of_which_the_model_has_nothing(tmp_path: Path) -> None:
    lora = opened(tmp_path, {**pair("caption_projection.linear_1"), **pair("transformer_blocks.47.attn1.to_q")})
    message = (
        r"none of the 2 modules of this LoRA exists in model\.safetensors \(.*\): it is for 19b "
        r"\(caption_projection\), the model is 2\.3; use a LoRA made for this model"
    )
    with pytest.raises(CheckpointError, match=message):
        check_lora(lora, 1.0, model(), text=True)


def test_both_shapes_are_named(tmp_path: Path) -> None:
    lora = opened(tmp_path, pair(f"diffusion_model.{MODULE}", np.ones((4, 16), np.float32)), base_model="LTX-2-19b")
    message = (
        rf"diffusion_model\.{MODULE}: the LoRA is for a weight of 6 x 16, the model has 6 x 8: it is for 19b "
        r"\(base_model = LTX-2-19b\), the model is 2\.3; use a LoRA made for this generation"
    )
    with pytest.raises(CheckpointError, match=message):
        check_lora(lora, 1.0, model(), text=True)


@pytest.mark.parametrize("key", ["model_version", "ss_base_model_version", "base_model", "modelspec.architecture"])
def test_another_generation_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture, key: str) -> None:
    lora = opened(tmp_path, pair(MODULE), **{key: "2.3.0" if key == "model_version" else "ltx-2.3"})
    expected = (
        f"it is for 2.3 ({key} = {lora.metadata[key]}), the model is 19b; it is applied, but the result may be spoilt"
    )
    assert said(lora, caplog, model(LTX_2)) == [expected]
    assert said(lora, caplog, model(LTX_2_3)) == []
    assert said(lora, caplog, model(None)) == []


def test_modules_of_another_generation_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lora = opened(tmp_path, {**pair(MODULE), **pair("transformer_blocks.0.attn1.to_gate_logits")})
    generation, lacking = said(lora, caplog, model(LTX_2))
    assert generation.startswith("it is for 2.3 or 2.5 (to_gate_logits), the model is 19b")
    assert lacking.startswith("1 of its 2 LoRA modules is not in")


def test_the_scale_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lora = opened(tmp_path, pair(MODULE), lora_alpha="8", lora_rank="4")
    assert said(lora, caplog) == ["its strength is multiplied by alpha / rank = 2 (metadata lora_alpha)"]


def test_parts_that_are_not_applied_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tensors = {**pair(MODULE), **pair(CONNECTOR), **pair("lora_te_text_model_x"), "stranger": A}
    text, encoder, strangers = said(opened(tmp_path, tensors), caplog, text=False)
    assert text.startswith(f"what it changes in connectors and text projection is not applied, 1 modules ({CONNECTOR})")
    assert encoder == "1 of its modules belong to a text encoder and are not applied (lora_te_text_model_x)"
    assert strangers == "1 of its tensors are part of no LoRA and not applied (stranger)"


def test_a_bias_that_the_model_lacks(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lora = opened(tmp_path, {**pair(CONNECTOR), f"{CONNECTOR}.diff_b": B[:, 0]})
    assert said(lora, caplog) == [
        f"1 of its 1 LoRA modules is not in model.safetensors and not applied ({CONNECTOR}.bias)"
    ]


def test_a_replaced_weight_has_no_other_strength(tmp_path: Path) -> None:
    lora = opened(tmp_path, {f"{MODULE}.set_weight": np.ones((6, 8), np.float32)})
    check_lora(lora, 1.0, model(), text=True)
    with pytest.raises(UsageError, match=f"{MODULE} replaces a weight, which has no strength but 1; got 0.5"):
        check_lora(lora, 0.5, model(), text=True)


def test_columns_of_the_text_projection_cannot_be_normalised(tmp_path: Path) -> None:
    module = "text_embedding_projection.aggregate_embed"
    check_lora(opened(tmp_path, pair(module, dora_scale=B[:, :1])), 1.0, model(), text=True)
    lora = opened(tmp_path, pair(module, dora_scale=A[:1]))
    with pytest.raises(CheckpointError, match="DoRA by columns of the text projection is not supported"):
        check_lora(lora, 1.0, model(), text=True)
