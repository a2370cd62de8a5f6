"""Weight sets: components from several files give the clip of one file, and configurations are parsed once."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from ltx2rt import embedded
from ltx2rt.errors import CheckpointError
from ltx2rt.graph.components import TRANSFORMER, VIDEO_VAE, VOCODER
from ltx2rt.graph.pipelines import PIPELINES
from ltx2rt.graph.settings.settings import Settings
from ltx2rt.graph.stages.inputs import GenerationInputs
from ltx2rt.graph.stages.run import Run
from ltx2rt.graph.stages.text.stage import zero_context
from ltx2rt.graph.stages.weight_set import WeightSet, sources_of
from ltx2rt.weights.checkpoint import Checkpoint
from ltx2rt.weights.safetensors import SafetensorsFile, write_safetensors

ONE_FILE = WeightSet(sources_of(Checkpoint.open(embedded.CHECKPOINT)))


def part(folder: Path, name: str, wanted: bool) -> Checkpoint:
    """The tensors of the embedded checkpoint that are those of the video VAE, or that are not, as a file."""
    source = SafetensorsFile(embedded.CHECKPOINT)
    arrays = {n: source.mlx(n) for n in source.tensors if n.startswith("vae.") is wanted}
    write_safetensors(folder / name, arrays, source.metadata)
    return Checkpoint.open(folder / name)


@pytest.fixture(scope="module")
def two_files(tmp_path_factory: pytest.TempPathFactory) -> WeightSet:
    folder = tmp_path_factory.mktemp("split")
    vae = part(folder, "vae.safetensors", wanted=True)
    return WeightSet({**sources_of(part(folder, "rest.safetensors", wanted=False)), VIDEO_VAE.name: vae})


def frames(weights: WeightSet) -> np.ndarray:
    """Of a short clip without text."""
    settings = Settings(num_inference_steps=2, seed=3)
    context = zero_context(weights)
    inputs = GenerationInputs(settings, 64, 64, 9, Fraction(24), context=context, negative_context=context)
    clip = PIPELINES["one-stage"].generate(Run(weights, inputs))
    assert clip.frames is not None
    return np.concatenate(list(clip.frames()))


def test_transformer_and_vae_from_two_files(two_files: WeightSet) -> None:
    assert two_files.source(VIDEO_VAE).path != two_files.source(TRANSFORMER).path
    assert VIDEO_VAE.name not in two_files.source(TRANSFORMER).components
    np.testing.assert_array_equal(frames(two_files), frames(ONE_FILE))


def test_a_configuration_is_parsed_once(two_files: WeightSet) -> None:
    assert two_files.config(VIDEO_VAE) is two_files.config(VIDEO_VAE)
    assert two_files.config(VIDEO_VAE) == ONE_FILE.config(VIDEO_VAE)
    moved = two_files.with_sources(sources_of(ONE_FILE.checkpoint))
    assert moved.source(VIDEO_VAE) is ONE_FILE.checkpoint
    assert moved.config(VIDEO_VAE) is not two_files.config(VIDEO_VAE)


def test_what_nothing_holds(two_files: WeightSet) -> None:
    without = WeightSet({name: c for name, c in two_files.sources.items() if name != VOCODER.name})
    with pytest.raises(CheckpointError, match=r"rest\.safetensors.*: there is no vocoder, only .*video_vae"):
        without.config(VOCODER)
    with pytest.raises(CheckpointError, match="no weight file: there is no transformer, only nothing"):
        WeightSet({}).source(TRANSFORMER)
