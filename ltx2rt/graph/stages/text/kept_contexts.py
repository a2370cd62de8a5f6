"""The contexts of prompts that an earlier run has encoded, where runs keep them on disk."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence

import mlx.core as mx

from ltx2rt.graph.components import CONNECTORS, TEXT_ENCODER, TEXT_PROJECTION
from ltx2rt.graph.stages.inputs import PromptContext
from ltx2rt.graph.stages.run import Run
from ltx2rt.kernels.kernel_choice import build_digest
from ltx2rt.kernels.selection import ext, use_reference
from ltx2rt.types import Array
from ltx2rt.weights.fingerprint import fingerprint
from ltx2rt.weights.kept_prompts import key_of
from ltx2rt.weights.kept_weights import StageWeights


def context_key(run: Run, text: str, ids: Array, changed: Sequence[StageWeights]) -> str:
    """What decides the bits of a prompt's contexts, as a name.

    Args:
        run: its files, dtype and device.
        text: of the prompt.
        ids: its tokens, (n,) int32.
        changed: the weights of the text path that LoRAs may change.
    """
    files = run.files
    components = (TEXT_ENCODER, TEXT_PROJECTION, *CONNECTORS)
    of_tensors = (weights.key(spec).loras for weights in changed for spec in weights.specs)
    loras = {lora: strength for those in of_tensors for lora, strength in those}
    return key_of(
        {
            "text": text,
            "tokens": [int(token) for token in ids],
            "weights": {component.name: fingerprint(files.source(component).path) for component in components},
            "loras": [(fingerprint(lora.path), loras[lora]) for lora, _ in files.loras if lora in loras],
            "dtype": str(run.inputs.dtype),
            "mlx": importlib.metadata.version("mlx"),
            "build": build_digest(),
            "kernels": "reference" if use_reference() or ext is None else ext.isa(),
            "device": str(mx.default_device()),
        }
    )


def kept_context(run: Run, key: str) -> PromptContext | None:
    """The contexts under a key; None: there are none."""
    kept = run.inputs.kept_prompts
    found = None if kept is None else kept.get(key)
    if found is None or found.keys() != set(PromptContext._fields):
        return None
    return PromptContext(**found)


def keep_context(run: Run, key: str, context: PromptContext) -> None:
    """Keep the contexts of a prompt for later runs."""
    if run.inputs.kept_prompts is not None:
        run.inputs.kept_prompts.put(key, context._asdict())
