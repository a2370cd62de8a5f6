"""A text encoder of one layer as transformers writes it."""

from __future__ import annotations

from typing import Any

from ltx2rt.bench.case import DTYPES, TORCH, Call, Way
from ltx2rt.bench.text_cases import TextLayer, TextLayerCase

from .arrays import installed, torch_module, torch_weights


def layer_ways(case: TextLayerCase, part: TextLayer) -> dict[str, Way]:
    if case.form not in DTYPES or not installed("transformers"):
        return {}
    return {TORCH: Way(lambda share: layer_call(part))}


def layer_call(part: TextLayer) -> Call:
    """The text encoder of transformers with the same weights and tokens."""
    from transformers.models.gemma3.configuration_gemma3 import Gemma3TextConfig
    from transformers.models.gemma3.modeling_gemma3 import Gemma3TextModel

    torch = torch_module()
    # Made for real and not on the meta device: the rotary frequencies are no weights.
    model = Gemma3TextModel(Gemma3TextConfig(**part.section))
    model.load_state_dict(torch_weights(part.params, part.specs, str, part.case.dtype), strict=False, assign=True)
    model.eval()
    ids = torch.from_numpy(part.ids[None])

    def call() -> Any:
        with torch.inference_mode():
            return model(input_ids=ids, use_cache=False).last_hidden_state

    return call


WAYS: dict[type, Any] = {TextLayerCase: layer_ways}
