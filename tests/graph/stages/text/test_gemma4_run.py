"""Prompts through a small Gemma 4 pack of LTX-2.5: streamed and resident, its tokenizer, and encoders of others."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from ltx25_pack import LTX, STOCK, write_encoder, write_transformer

from ltx2rt import embedded
from ltx2rt.errors import CheckpointError, UsageError
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
from ltx2rt.weights.kept_weights import KeptWeights

PROMPTS = ["a red circle moves left", "blurry"]
INPUTS = GenerationInputs.without_clip(Settings(prompt=PROMPTS[0]))


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


@pytest.mark.parametrize("dtype", [pytest.param(mx.float32, marks=pytest.mark.slow), mx.bfloat16])
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
    with pytest.raises(
        UsageError,
        match=r"the text encoder of ltx-2\.5-.* only encodes prompts and cannot rewrite them; give another",
    ):
        enhance_prompt(Run(files, INPUTS), "a dog", {"max_new_tokens": 2}, has_image=False)


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
