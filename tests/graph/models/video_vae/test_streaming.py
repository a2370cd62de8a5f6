"""Streamed video decode and encode: the bits of the whole run, constant memory, predicted bytes, refusals."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from test_video_vae import CONFIGS, PUBLISHED_19B, PUBLISHED_23, TINY, Vae, down, draws, normal, res, up

from ltx2rt.errors import UsageError
from ltx2rt.graph.models.video_vae.config import VideoVaeConfig
from ltx2rt.graph.models.video_vae.convolutional_decoder import ConvolutionalDecoder
from ltx2rt.graph.models.video_vae.decoder import VideoDecoder
from ltx2rt.graph.models.video_vae.encoder import VideoEncoder
from ltx2rt.graph.models.video_vae.footprint import decode_bytes, encode_bytes
from ltx2rt.graph.models.video_vae.tiling import Tiling
from ltx2rt.kernels.selection import use_reference

Array = np.ndarray[Any, np.dtype[Any]]

NARROW = {"latent_channels": 6, "decoder_base_channels": 4, "encoder_base_channels": 4}
PUBLISHED = {"19b": PUBLISHED_19B | NARROW, "2.3": PUBLISHED_23 | NARROW}
OTHERS = {
    "causal decoder": CONFIGS["causal decoder"],
    "conditioned, noise injected": CONFIGS["conditioned"],
    "attention": TINY
    | {
        "encoder_blocks": [["compress_time", {}], ["compress_all", {}], ["attn", {}], down("space"), res(1)],
        "decoder_blocks": [res(1), up("all", 2), ["attn", {}], up("space", 2), up("time", 1)],
        "spatial_padding_mode": "replicate",
    },
}


def slow(*values: object) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


needs_kernels = pytest.mark.skipif(
    use_reference(), reason="the predictions are for the compiled kernels; unset LTX2RT_KERNELS"
)


def decoder(section: dict[str, Any], dtype: mx.Dtype = mx.bfloat16) -> VideoDecoder:
    vae = Vae(section)
    return VideoDecoder(vae.config, vae.params, dtype)


def encoder(section: dict[str, Any], dtype: mx.Dtype = mx.bfloat16) -> VideoEncoder:
    vae = Vae(section)
    return VideoEncoder(vae.config, vae.params, dtype)


def pieces(clip: Array, size: int) -> Iterator[Array]:
    return (clip[start : start + size] for start in range(0, len(clip), size))


@pytest.mark.parametrize(
    ("generation", "length"),
    [
        ("19b", 1),
        ("2.3", 3),
        *(slow("19b", length) for length in (2, 3, 5)),
        *(slow("2.3", length) for length in (1, 2, 5)),
    ],
)
def test_streamed_decode_has_the_bits_of_the_whole(generation: str, length: int) -> None:
    model = decoder(PUBLISHED[generation])
    latent = mx.array(normal(length, 1, length, 2, 3, 6))
    (whole,) = model.decode_frames(latent)
    assert whole.shape == (8 * length - 7, 64, 96, 3)
    assert np.ptp(whole) > 0.1
    for frames_per_push in (1, 2, 3):
        chunks = list(model.stream_frames(latent, frames_per_push=frames_per_push))
        assert max(len(chunk) for chunk in chunks) <= max(2, frames_per_push)
        np.testing.assert_array_equal(np.concatenate(chunks), whole)


@pytest.mark.parametrize("name", OTHERS)
def test_other_decoders_have_the_bits_of_the_whole(name: str) -> None:
    model = decoder(OTHERS[name], mx.float32)
    for length in (1, 4):
        latent = mx.array(normal(length, 1, length, 2, 3, 6))
        (whole,) = model.decode_frames(latent, noise=draws(1))
        for frames_per_push in (1, 2, 3, 20):
            chunks = model.stream_frames(latent, frames_per_push=frames_per_push, noise=draws(1))
            np.testing.assert_array_equal(np.concatenate(list(chunks)), whole)


@pytest.mark.parametrize(("name", "tile", "overlap"), [slow("19b", 64, 32), ("2.3", 96, 64)])
def test_streamed_tiles_have_the_bits_of_decoded_tiles(name: str, tile: int, overlap: int) -> None:
    # The second overlap is more than half a tile, so the masks do not add up to one.
    model = decoder(PUBLISHED[name], mx.float32)
    latent = mx.array(normal(5, 1, 3, 3, 5, 6))
    tiling = Tiling.of(spatial=(tile, overlap))
    whole = np.concatenate(list(model.decode_frames(latent, tiling)))
    np.testing.assert_array_equal(np.concatenate(list(model.stream_frames(latent, tiling))), whole)


def test_streamed_tiles_draw_their_noise_in_tile_order() -> None:
    model = decoder(CONFIGS["conditioned"], mx.float32)
    latent = mx.array(normal(5, 1, 3, 2, 4, 6))
    tiling = Tiling.of(spatial=(16, 8))
    whole = np.concatenate(list(model.decode_frames(latent, tiling, noise=draws(2))))
    chunks = list(model.stream_frames(latent, tiling, noise=draws(2)))
    np.testing.assert_array_equal(np.concatenate(chunks), whole)


@pytest.mark.parametrize(
    ("name", "tiling"), [("conditioned", None), ("conditioned", Tiling.of(spatial=(16, 8))), ("19b", None)]
)
def test_the_draws_of_a_decoder_are_known_beforehand(name: str, tiling: Tiling | None) -> None:
    model = decoder((CONFIGS | PUBLISHED)[name], mx.float32)
    shapes: list[tuple[int, ...]] = []
    source = draws(2)

    def noted(shape: tuple[int, ...]) -> np.ndarray:
        shapes.append(shape)
        return source(shape)

    list(model.stream_frames(mx.array(normal(5, 1, 3, 2, 4, 6)), tiling, noise=noted))
    assert ConvolutionalDecoder(model.config).draws((3, 2, 4), {"tiling": tiling}, None) == shapes
    assert (name == "19b") == (shapes == [])


@pytest.mark.parametrize("name", [slow("19b"), "2.3", "attention"])
def test_streamed_encode_has_the_bits_of_the_whole(name: str) -> None:
    model = encoder((PUBLISHED | OTHERS)[name])
    factor, cell = model.config.temporal_factor, model.config.spatial_factor
    for length in (1, 2, 4):
        clip = normal(length, factor * (length - 1) + 1, 2 * cell, 3 * cell, 3)
        whole = np.array(model(clip[None]).astype(mx.float32))
        assert whole.shape == (1, length, 2, 3, 6)
        for frames_per_push, given in ((1, 1), (3, 2), (20, len(clip))):
            streamed = mx.concatenate(
                list(model.encode_stream(pieces(clip, given), frames_per_push=frames_per_push)), 1
            )
            np.testing.assert_array_equal(np.array(streamed.astype(mx.float32)), whole)


def test_streamed_encode_drops_an_incomplete_group(caplog: pytest.LogCaptureFixture) -> None:
    model = encoder(PUBLISHED["19b"])
    clip = normal(0, 14, 64, 64, 3)
    with caplog.at_level(logging.WARNING):
        latent = mx.concatenate(list(model.encode_stream(pieces(clip, 3))), axis=1)
    assert "14 frames cannot be encoded: the last 5 are dropped, leaving 9" in caplog.text
    assert mx.array_equal(latent, model(clip[None, :9]))


def peak_of(run: Callable[[], object], expected: int) -> int:
    """The highest of up to three runs, of one if it comes near what is expected.

    MLX allocates while kernels run: with that thread held up, a buffer may be given back before the next is asked for.
    """
    peak = 0
    for _ in range(3):
        mx.clear_cache()  # free buffers of other sizes would be counted whole when they are used again
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        run()
        peak = max(peak, mx.get_peak_memory() - before)
        if peak > 0.95 * expected:
            break
    return peak


def consume(frames: Iterator[Array]) -> None:
    for _ in frames:
        pass


@needs_kernels
def test_decode_memory_is_predicted_and_does_not_grow_with_the_clip() -> None:
    model = decoder(PUBLISHED["19b"] | {"decoder_base_channels": 16})
    peaks = {}
    for length in (4, 10):
        latent = mx.zeros((1, length, 4, 4, 6), dtype=mx.bfloat16)
        mx.eval(latent)
        predicted = decode_bytes(model.config, (length, 4, 4), frames_per_push=2).arrays
        peaks[length] = peak_of(
            lambda latent=latent: consume(model.stream_frames(latent, frames_per_push=2)), predicted
        )
        assert 0.98 <= predicted / peaks[length] <= 1.05
    assert 0.95 <= peaks[10] / peaks[4] <= 1.05


@needs_kernels
@pytest.mark.parametrize(
    ("generation", "itemsize", "tiling", "frames_per_push", "base"),
    [
        slow("2.3", 2, None, 2, 16),
        slow("19b", 2, None, None, 24),
        ("19b", 4, None, None, 4),
        slow("19b", 2, Tiling.of(spatial=(64, 32), temporal=(16, 8)), None, 16),
        ("19b", 2, Tiling.of(spatial=(64, 32)), 2, 4),
    ],
)
def test_decode_memory_is_predicted(
    generation: str, itemsize: int, tiling: Tiling | None, frames_per_push: int | None, base: int
) -> None:
    dtype = {2: mx.bfloat16, 4: mx.float32}[itemsize]
    model = decoder(PUBLISHED[generation] | {"decoder_base_channels": base}, dtype)
    latent = mx.zeros((1, 4, 4, 3, 6), dtype=dtype)
    mx.eval(latent)
    predicted = decode_bytes(model.config, (4, 4, 3), itemsize, tiling, frames_per_push).arrays

    def run() -> None:
        if frames_per_push is None:
            consume(model.decode_frames(latent, tiling))
        else:
            consume(model.stream_frames(latent, tiling, frames_per_push=frames_per_push))

    assert 0.98 <= predicted / peak_of(run, predicted) <= 1.07


@needs_kernels
@pytest.mark.parametrize(("frames_per_push", "tile"), [slow(None, None), slow(1, None), slow(4, None), (4, 96)])
def test_encode_memory_is_predicted(frames_per_push: int | None, tile: int | None) -> None:
    model = encoder(PUBLISHED["19b"] | {"encoder_base_channels": 16})
    clip = np.zeros((25, 128, 128, 3), np.float32)
    tiling = None if tile is None else Tiling.of(spatial=(tile, 64))

    def run() -> None:
        if frames_per_push is None:
            mx.eval(model(clip[None]))
        elif tiling is not None:
            mx.eval(model.encode_tiles(iter(clip), (25, 128, 128), tiling, frames_per_push=frames_per_push))
        else:
            for latent in model.encode_stream(pieces(clip, 1), frames_per_push=frames_per_push):
                mx.eval(latent)

    predicted = encode_bytes(model.config, (25, 128, 128), tiling=tiling, frames_per_push=frames_per_push).arrays
    assert 0.98 <= predicted / peak_of(run, predicted) <= 1.07


def test_predictions_at_published_sizes() -> None:
    config = VideoVaeConfig.from_dict(PUBLISHED_19B)
    pixels = 512 * 768
    short, long = (decode_bytes(config, (length, 16, 24), frames_per_push=4) for length in (4, 16))
    assert short.arrays == pytest.approx(long.arrays, rel=0.01)
    # 22 convolutions at each level keep two frames of 8, 4, 2, 1 values of two bytes per pixel; a few frames more.
    assert 660 * pixels < long.arrays < 1100 * pixels
    # A level-3 residual layer: input, hidden and result, 8 values of two bytes each.
    whole = decode_bytes(config, (16, 16, 24))
    assert whole.arrays == pytest.approx(3 * 8 * 2 * 121 * pixels, rel=0.02)
    assert whole.footprint.activations == whole.arrays
    assert whole.footprint.host == 0
    tiled = decode_bytes(config, (16, 16, 24), tiling=Tiling.of(spatial=(256, 64), temporal=(80, 24)))
    # In numpy: a group of frames, and one that has left it with its copy.
    assert tiled.footprint.host == (73 + 2) * pixels * 3 * 4


def test_refuses_what_cannot_be_streamed() -> None:
    rare = decoder(CONFIGS["rare blocks, replicate"])
    latent = mx.zeros((1, 2, 2, 2, 6))
    with pytest.raises(UsageError, match=r"up_blocks\.3 normalises over the whole clip"):
        next(rare.stream_frames(latent))
    with pytest.raises(UsageError, match=r"down_blocks\.0 normalises over the whole clip"):
        next(encoder(CONFIGS["rare blocks, replicate"]).encode_stream([np.zeros((1, 32, 32, 3), np.float32)]))
    model = decoder(PUBLISHED["19b"])
    with pytest.raises(UsageError, match="frames_per_push must be at least 1, got 0"):
        next(model.stream_frames(latent, frames_per_push=0))
    with pytest.raises(UsageError, match="a streamed decode is not cut in time"):
        next(model.stream_frames(latent, Tiling.of(temporal=(80, 24))))
    with pytest.raises(UsageError, match=r"latent must be \(1, f, h, w, 6\)"):
        next(model.stream_frames(mx.zeros((2, 2, 2, 2, 6))))
    with pytest.raises(UsageError, match="got noise=None"):
        next(decoder(CONFIGS["conditioned"]).stream_frames(latent))


def test_refuses_frames_that_do_not_fit() -> None:
    model = encoder(PUBLISHED["19b"])
    frame = np.zeros((1, 64, 64, 3), np.float32)
    with pytest.raises(UsageError, match="there are no frames to read"):
        next(model.encode_stream([]))
    with pytest.raises(UsageError, match="frames_per_push must be at least 1, got -1"):
        next(model.encode_stream([frame], frames_per_push=-1))
    with pytest.raises(UsageError, match="multiples of 32"):
        next(model.encode_stream([frame[:, :60]]))
    with pytest.raises(UsageError, match=r"all frames must have one size, got \(64, 64\) and \(64, 96\)"):
        list(model.encode_stream([frame, np.zeros((8, 64, 96, 3), np.float32)]))
