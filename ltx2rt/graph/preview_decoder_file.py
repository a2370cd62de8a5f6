"""The file of a tiny preview decoder: what it is, and its weights."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

from ltx2rt.errors import CheckpointError
from ltx2rt.graph.models.layers.params import Params
from ltx2rt.graph.models.preview_decoder.model import PreviewDecoder, PreviewDecoderConfig
from ltx2rt.paths import expanded
from ltx2rt.weights.detection import is_preview_decoder
from ltx2rt.weights.tensor_source import WeightFile
from ltx2rt.weights.weight_file import open_weight_file

_LATENT_CHANNELS = 128
_PREFIX = "taehv."


@dataclass(frozen=True)
class PreviewDecoderFile:
    """An opened file; only its header has been read.

    Attributes:
        file: as it was opened.
        decoder: what is in it.
        missing, misshapen, unexpected: what is wrong with its tensors, in words or by name; those of an encoder, which
            such files have, too, are nothing wrong.
        prefix: of its names.
    """

    file: WeightFile
    decoder: PreviewDecoder
    missing: list[str]
    misshapen: list[str]
    unexpected: list[str]
    prefix: str

    @property
    def path(self) -> Path:
        return self.file.path

    @classmethod
    def find(cls, file: WeightFile) -> PreviewDecoderFile | None:
        """The decoder in an opened file; None: it is something else.

        Raises:
            CheckpointError: it is a tiny decoder of another model.
        """
        if not is_preview_decoder(file.tensors):
            return None
        prefix = _PREFIX if any(name.startswith(_PREFIX) for name in file.tensors) else ""
        shapes = {name.removeprefix(prefix): info.shape for name, info in file.tensors.items()}
        config = PreviewDecoderConfig.of(shapes)
        if config is None or config.latent_channels != _LATENT_CHANNELS:
            raise CheckpointError(
                f"{file.path}: a preview decoder (tiny autoencoder, taehv) of another model; LTX-2 has latents of "
                f"{_LATENT_CHANNELS} channels: give taeltx_2, taeltx2_3 or taeltx2_3_wide."
            )
        decoder = PreviewDecoder(config)
        wanted = {spec.name: spec.shape for spec in decoder.specs()}
        return cls(
            file,
            decoder,
            missing=[name for name in wanted if name not in shapes],
            misshapen=[
                f"{name}: {list(shapes[name])} in place of {list(shape)}"
                for name, shape in wanted.items()
                if name in shapes and shapes[name] != shape
            ],
            unexpected=[name for name in shapes if name not in wanted and not name.startswith("encoder.")],
            prefix=prefix,
        )

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> PreviewDecoderFile:
        """Open a file that decodes previews.

        Raises:
            CheckpointError: it cannot be read, is something else, or lacks tensors.
        """
        file = open_weight_file(expanded(path))
        found = cls.find(file)
        if found is None:
            raise CheckpointError(
                f"{path}: no preview decoder; give taeltx_2, taeltx2_3 or taeltx2_3_wide as .safetensors."
            )
        wrong = [*(f"{name} is missing" for name in found.missing), *found.misshapen]
        if wrong:
            raise CheckpointError(f"{path}: a preview decoder that is not whole: {'; '.join(wrong[:10])}.")
        return found

    def load(self, dtype: mx.Dtype) -> Params:
        """Its weights, which the caller keeps as long as it needs them."""
        arrays = {}
        for spec in self.decoder.specs():
            array = self.file.mlx(self.prefix + spec.name).astype(dtype)
            arrays[spec.name] = mx.contiguous(array.transpose(0, 2, 3, 1)) if spec.layout == "conv" else array
        mx.eval(list(arrays.values()))
        return Params(arrays)

    def working_bytes(self, height: int, width: int, dtype: mx.Dtype) -> int:
        """What weights and values take while a preview of so many pixels is made."""
        weights = sum(self.file.info(self.prefix + spec.name).size for spec in self.decoder.specs()) * dtype.size
        return weights + self.decoder.footprint(-(-height // 32), -(-width // 32), dtype.size).total
