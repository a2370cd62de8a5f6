"""Inputs that lie in memory and in no file: what a record says about them in place of a path."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from PIL import Image

from ltx2rt.graph.diffusion.noise import NoiseSource, RecordedNoise
from ltx2rt.kernels.host import to_numpy
from ltx2rt.weights.embedding_file import TextEmbedding

# A source of noise that is no list of arrays is known by its next values.
_VALUES = 4096


def digest(value: Any) -> str:
    """Hexadecimal SHA-256 of an array, a PIL image, a text embedding or a source of noise, with its kind and shape."""
    found = hashlib.sha256()
    if isinstance(value, np.ndarray):
        _add(found, value)
    elif isinstance(value, Image.Image):
        found.update(f"{value.mode} {value.size}".encode())
        found.update(value.tobytes())
    elif isinstance(value, TextEmbedding):
        found.update(value.generation.encode())
        for name, context in value.contexts().items():
            found.update(name.encode())
            _add(found, to_numpy(context))
    elif isinstance(value, RecordedNoise):
        for draw in value.draws:
            _add(found, draw)
    elif isinstance(value, NoiseSource):
        _add(found, value.fork().normal((_VALUES,)))
    else:
        raise TypeError(f"what lies in memory as a {type(value).__name__} has no SHA-256 here")
    return found.hexdigest()


def described(value: Any) -> str:
    """What settings show of it as text: its kind and its SHA-256."""
    return f"<{type(value).__name__} in memory, SHA-256 {digest(value)}>"


def _add(found: Any, array: np.ndarray[Any, np.dtype[Any]]) -> None:
    found.update(f"{array.dtype.str} {array.shape}".encode())
    found.update(array.tobytes())
