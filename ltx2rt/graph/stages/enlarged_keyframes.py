"""The stages that bring key frames to twice the size as pictures: decoded, enlarged and encoded one by one."""

from __future__ import annotations

from collections.abc import Generator
from functools import partial

import mlx.core as mx
import numpy as np

from ltx2rt.graph.components import VIDEO_VAE, video_decoder
from ltx2rt.graph.diffusion.noise import FrameNoise
from ltx2rt.graph.diffusion.precision import Float32Array
from ltx2rt.graph.models.layers.params import Params
from ltx2rt.graph.stages.decode.needs import video_decoder_options
from ltx2rt.graph.stages.encode.stage import encode_pixels
from ltx2rt.graph.stages.events import KeyFrameDecoded
from ltx2rt.graph.stages.finite import require_finite
from ltx2rt.graph.stages.inputs import FrameStream
from ltx2rt.graph.stages.journal import Arrays
from ltx2rt.graph.stages.run import Run
from ltx2rt.kernels.host import to_numpy
from ltx2rt.media.resize import lanczos
from ltx2rt.types import Array

# Added to the user's seed for the noise of the decoder, one more for each key frame.
_DECODER_SEED = 4000


def enlarged_keyframes(run: Run, latents: Float32Array) -> Float32Array:
    """Key frames (1, P, h, w, 128), each a clip of its own, at twice the size: (1, P, 2h, 2w, 128), normalised."""
    found = run.remember("enlarged key frames", lambda: _enlarged(run, latents))
    return to_numpy(found["keyframes"])


def _enlarged(run: Run, latents: Float32Array) -> Arrays:
    pictures = _decoded(run, latents)
    rows, columns = (2 * side for side in pictures[0].shape[:2])
    # A picture is enlarged when its turn comes.
    streams = [FrameStream((1, rows, columns, 3), partial(_once, picture)) for picture in pictures]
    beside = sum(picture.nbytes for picture in pictures) + 3 * rows * columns
    return {"keyframes": np.concatenate(encode_pixels(run, "key frame encoder", streams, beside), axis=1)}


def _once(picture: Array) -> Generator[Array, None, None]:
    yield enlarged_picture(picture)


def as_bytes(picture: Array) -> Array:
    """[0, 1] -> uint8, to the nearest, half to even."""
    levels: Array = np.rint(picture * np.float32(255)).astype(np.uint8)
    return levels


def enlarged_picture(picture: Array) -> Array:
    """(H, W, 3) uint8 at twice the size."""
    return lanczos(picture, 2 * picture.shape[0], 2 * picture.shape[1])


def _decoded(run: Run, latents: Float32Array) -> list[Array]:
    """Every key frame as a picture, (H, W, 3) uint8, each with noise of its own."""
    files, dtype = run.files, run.inputs.dtype
    config, count = files.config(VIDEO_VAE), latents.shape[1]
    decoder = video_decoder(config)
    weights = files.weights(VIDEO_VAE, decoder.specs())
    tiling = None if run.inputs.settings.tiling == "none" else run.inputs.settings.tiling
    rows, columns = (cells * config.spatial_factor for cells in latents.shape[2:4])
    options = video_decoder_options(
        files.source(VIDEO_VAE),
        config,
        (1, *latents.shape[2:4]),
        tiling,
        dtype,
        count * rows * columns * 3,
        name="key frame decoder",
        clips=count,
        writes=False,
    )
    need = run.choose(options, weights)
    if run.planning:
        return [np.zeros((rows, columns, 3), np.uint8)] * count
    pictures = []
    with run.stage(need) as stage:
        params = Params(run.load(stage, weights))

        for index in range(count):
            latent = latents[:, index : index + 1]
            noise = run.seeded_noise(_DECODER_SEED + index) if run.decoder_noise is None else run.decoder_noise.fork()
            values = mx.array(latent).astype(dtype)
            chunks = decoder.frames(params, dtype, values, need.settings, FrameNoise(noise))
            (picture,) = np.concatenate(list(chunks))
            require_finite(need.name, "a key frame", picture)
            run.emit(KeyFrameDecoded(latent, picture))
            pictures.append(as_bytes(picture))
    return pictures
