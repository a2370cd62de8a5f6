"""Text embedding files: the contexts of a prompt, saved so that later runs need no text encoder."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from ltx2rt.atomic_file import AtomicFile
from ltx2rt.errors import CheckpointError, UsageError, write_failure
from ltx2rt.kernels.host import to_numpy
from ltx2rt.types import Array
from ltx2rt.weights.generations import LTX_2
from ltx2rt.weights.safetensors import SafetensorsFile, write_safetensors

FORMAT = "ltx2rt-embedding"
FORMAT_VERSION = 1

_CONTEXTS = ("video_context", "audio_context", "negative_video_context", "negative_audio_context")
# In safetensors files of the official HDR pipeline and of its trainer, the better one first: ours -> theirs.
_OFFICIAL_NAMES = {
    "video_context": ("video_context", "video_prompt_embeds"),
    "audio_context": ("audio_context", "audio_prompt_embeds"),
}
_SHOWN_KEYS = 8
_FOREIGN_NAMES = ("embedding", "attention_mask", "text_encoding", "text_mask")
_TEXTS = ("generation", "model_version", "encoder_id", "prompt", "negative_prompt")


@dataclass(frozen=True)
class TextEmbedding:
    """What the connectors made of a prompt, and of the negative prompt if there was one.

    Attributes:
        generation: ``19b``, ``2.3`` or ``2.5``: contexts of one generation mean nothing to another; "" if the file does
            not say.
        video_context: (1, T, Cv) float, of MLX or numpy; T = 1024 except in files of other programs.
        audio_context: (1, T, Ca) float; None in files of other programs.
        negative_video_context: (1, T, Cv) or None.
        negative_audio_context: (1, T, Ca) or None.
        model_version: of the checkpoint whose connectors made it, as its header says ("" if it does not).
        encoder_id: the text encoder, in words.
        num_tokens: real tokens of the prompt; 0 if unknown.
    """

    generation: str
    video_context: mx.array
    audio_context: mx.array | None = None
    negative_video_context: mx.array | None = None
    negative_audio_context: mx.array | None = None
    model_version: str = ""
    encoder_id: str = ""
    prompt: str = ""
    negative_prompt: str = ""
    num_tokens: int = 0

    def __post_init__(self) -> None:
        for name in _CONTEXTS:
            if isinstance(value := getattr(self, name), np.ndarray):
                object.__setattr__(self, name, mx.array(value))

    def contexts(self) -> dict[str, mx.array]:
        """The contexts that are present, by attribute name."""
        return {name: value for name in _CONTEXTS if (value := getattr(self, name)) is not None}

    def check(self, origin: str) -> None:
        """Raise CheckpointError for contexts of impossible shapes or values; ``origin`` says whose they are."""
        for name, context in self.contexts().items():
            if context.ndim != 3 or context.shape[0] != 1 or 0 in context.shape:
                raise CheckpointError(f"{origin}: {name} must have shape (1, rows, channels), got {context.shape}.")
            if not mx.issubdtype(context.dtype, mx.floating) or not bool(mx.isfinite(context).all()):
                raise CheckpointError(
                    f"{origin}: {name} holds values that are not finite numbers; encode the prompt again."
                )

    def require_match(self, origin: str, *, generation: str, video_width: int, audio_width: int | None) -> None:
        """Check that a transformer can use this embedding.

        Args:
            origin: the file, for the error.
            generation: of the transformer.
            video_width: channels of the video context that it reads.
            audio_width: channels of the audio context that it reads; None if the run makes no sound.

        Raises:
            CheckpointError: another generation, other widths, or no audio context where one is needed.
        """
        if self.generation and self.generation != generation:
            raise CheckpointError(
                f"{origin}: a text embedding for generation {self.generation}, but the checkpoint is {generation}; "
                "encode the prompt again with this checkpoint."
            )
        for name, width in (("video_context", video_width), ("audio_context", audio_width)):
            if width is None:
                continue
            for key in (name, f"negative_{name}"):
                context = getattr(self, key)
                if context is not None and context.shape[2] != width:
                    raise CheckpointError(
                        f"{origin}: {key} has {context.shape[2]} channels, the checkpoint reads {width}; "
                        "encode the prompt again with this checkpoint."
                    )
        if audio_width is not None and self.audio_context is None:
            raise CheckpointError(
                f"{origin}: has no audio context, which a clip with sound needs; "
                "encode the prompt again with `ltx2rt encode`, or make the clip without audio."
            )


def write_embedding(path: str | os.PathLike[str], embedding: TextEmbedding) -> None:
    """Write an embedding; the file appears complete or not at all.

    ``.safetensors`` keeps the dtype of the contexts. ``.npz`` holds float32 (float16 stays) and, under the names
    ``embedding`` and ``attention_mask``, what readers of older programs look for.

    Raises:
        UsageError: another file name extension.
        MediaError: the file cannot be written.
    """
    path = Path(path)
    texts = {name: str(getattr(embedding, name)) for name in _TEXTS}
    try:
        if path.suffix == ".safetensors":
            numbers = {"format_version": str(FORMAT_VERSION), "num_tokens": str(embedding.num_tokens)}
            write_safetensors(path, embedding.contexts(), {"format": FORMAT, **numbers, **texts})
        elif path.suffix == ".npz":
            arrays = {name: to_numpy(value) for name, value in embedding.contexts().items()}
            numbers_npz = {"format_version": FORMAT_VERSION, "num_tokens": embedding.num_tokens}
            mask = np.ones(embedding.video_context.shape[:2], dtype=np.int32)
            aliases = {"embedding": arrays["video_context"], "attention_mask": mask}
            entries: dict[str, Any] = {"format": FORMAT, **numbers_npz, **texts, **arrays, **aliases}
            with AtomicFile(path, shared=True) as file:
                np.savez(file, **entries)
        else:
            raise UsageError(f"a text embedding file must end in .safetensors or .npz, got {path.name!r}.")
    except OSError as error:
        raise write_failure(path, error) from error


def read_embedding(path: str | os.PathLike[str]) -> TextEmbedding:
    """Read an embedding file: ours (``.safetensors`` or ``.npz``), the safetensors of the official HDR pipeline with
    ``video_context`` or ``video_prompt_embeds``, or the ``.npz`` of the LTX-2 MLX ports.

    Those ports save one context, of the video connector of a 19B checkpoint; rows that their mask hides are left out,
    which is the same as masking them.

    Raises:
        CheckpointError: the file is missing, damaged, of another kind, or its contexts have impossible shapes or
            values.
    """
    path = Path(path)
    embedding = _read_npz(path) if path.suffix == ".npz" else _read_safetensors(path)
    embedding.check(str(path))
    return embedding


def _read_safetensors(path: Path) -> TextEmbedding:
    with closing(SafetensorsFile(path)) as file:
        if file.metadata.get("format") != FORMAT:
            return _official(path, file)
        contexts = {name: file.mlx(name) for name in _CONTEXTS if name in file.tensors}
        return _ours(path, contexts, file.metadata)


def _official(path: Path, file: SafetensorsFile) -> TextEmbedding:
    """Contexts without anything about their model."""
    found = {
        name: next((theirs for theirs in names if theirs in file.tensors), None)
        for name, names in _OFFICIAL_NAMES.items()
    }
    if found["video_context"] is None:
        keys = sorted(file.tensors)
        shown = ", ".join(keys[:_SHOWN_KEYS]) + (", ..." if len(keys) > _SHOWN_KEYS else "")
        raise CheckpointError(
            f"{path}: not a text embedding file: {'/'.join(_OFFICIAL_NAMES['video_context'])} not found in it "
            f"(keys={shown or 'none'}); make one with `ltx2rt encode`, or give a checkpoint as --weights."
        )
    contexts = {name: _batched(file.mlx(theirs)) for name, theirs in found.items() if theirs is not None}
    return TextEmbedding("", contexts["video_context"], contexts.get("audio_context"))


def _batched(context: mx.array) -> mx.array:
    """Trainers save contexts without the batch axis."""
    return context[None] if context.ndim == 2 else context


def _ours(path: Path, contexts: Mapping[str, mx.array], fields: Mapping[str, Any]) -> TextEmbedding:
    try:
        version, num_tokens = int(fields["format_version"]), int(fields["num_tokens"])
        texts = {name: str(fields[name]) for name in _TEXTS}
    except (KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: damaged text embedding file ({error}); encode the prompt again.") from error
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: text embedding format {version}, this ltx2rt reads {FORMAT_VERSION}; encode the prompt again."
        )
    if "video_context" not in contexts:
        raise CheckpointError(f"{path}: has no video context; encode the prompt again.")
    return TextEmbedding(
        texts["generation"],
        contexts["video_context"],
        contexts.get("audio_context"),
        contexts.get("negative_video_context"),
        contexts.get("negative_audio_context"),
        model_version=texts["model_version"],
        encoder_id=texts["encoder_id"],
        prompt=texts["prompt"],
        negative_prompt=texts["negative_prompt"],
        num_tokens=num_tokens,
    )


def _read_npz(path: Path) -> TextEmbedding:
    try:
        # Object arrays would need pickle, which can run code; what we ask for is never one.
        with np.load(path, allow_pickle=False) as archive:
            ours = "format" in archive.files and str(archive["format"]) == FORMAT
            wanted = (*_CONTEXTS, *_TEXTS, "format_version", "num_tokens") if ours else _FOREIGN_NAMES
            entries = {name: archive[name] for name in wanted if name in archive.files}
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error}); check the path.") from error
    except (ValueError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        # TypeError or AttributeError: np.load gives an array, which is no context manager, for a renamed .npy file.
        raise CheckpointError(f"{path}: not a readable .npz file ({error}); make the embedding again.") from error
    if ours:
        contexts = {name: mx.array(_float(path, name, entries[name])) for name in _CONTEXTS if name in entries}
        return _ours(path, contexts, entries)
    for name, mask_name in (("embedding", "attention_mask"), ("text_encoding", "text_mask")):
        if name in entries:
            context = _float(path, name, entries[name])
            return TextEmbedding(LTX_2.name, mx.array(_unmasked(path, context, entries.get(mask_name))))
    raise CheckpointError(f"{path}: holds no text embedding (no array `embedding`); make one with `ltx2rt encode`.")


def _float(path: Path, name: str, array: Array) -> Array:
    if array.dtype.kind != "f":
        raise CheckpointError(f"{path}: {name} must hold floating-point numbers, got {array.dtype}.")
    return array if array.dtype == np.float16 else array.astype(np.float32)


def _unmasked(path: Path, context: Array, mask: Array | None) -> Array:
    """The rows of (1, T, C) that the (1, T) mask lets through."""
    if mask is None:
        return context
    if mask.shape != context.shape[:2]:
        raise CheckpointError(f"{path}: the mask has shape {mask.shape}, the embedding {context.shape}; make it again.")
    return context[:, mask[0] != 0]
