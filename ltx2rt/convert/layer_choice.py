"""Which weights a format changes: the choice of the published files, and the classes of layers in reports."""

from __future__ import annotations

import re

from ltx2rt.types import ParamSpec

_ATTENTIONS = "attn1|attn2|audio_attn1|audio_attn2|audio_to_video_attn|video_to_audio_attn"
_PROJECTIONS = r"to_q|to_k|to_v|to_out\.0"
_FEED_FORWARDS = r"(?:ff|audio_ff)\.net\.(?:0\.proj|2)"
_BLOCK = re.compile(r"transformer_blocks\.(\d+)\.")
_BLOCK_LINEAR = re.compile(
    rf"transformer_blocks\.\d+\.(?:(?:{_ATTENTIONS})\.(?:{_PROJECTIONS})|{_FEED_FORWARDS})\.weight"
)
_GATE = re.compile(rf"transformer_blocks\.\d+\.(?:{_ATTENTIONS})\.to_gate_logits\.weight")
_CONNECTOR_LINEAR = re.compile(rf"transformer_1d_blocks\.\d+\.(?:attn1\.(?:{_PROJECTIONS})|{_FEED_FORWARDS})\.weight")
_ENCODER_LINEAR = re.compile(r"layers\.\d+\.\w+\.\w+_proj\.weight")
CONNECTORS = ("video_connector", "audio_connector")


class LayerChoice:
    """Which weights are written in a format.

    Args:
        connectors: the six linear layers of each connector block, too.
        gates: the gates of attention, too.
        inner_blocks: not the first block of the transformer, and not the last 5 of 48 (as many of fewer).
        everything: of the transformer and its connectors every matrix of a linear layer with more than 1024 values.

    Source: the official int8 and FP8 files, and what converters to GGUF write.
    """

    def __init__(
        self,
        *,
        connectors: bool = False,
        gates: bool = False,
        inner_blocks: bool = False,
        everything: bool = False,
    ) -> None:
        self._connectors = connectors
        self._gates = gates
        self._inner_blocks = inner_blocks
        self._everything = everything

    @property
    def words(self) -> str:
        """The weights in words."""
        if self._everything:
            return "matrices of the transformer and its connectors"
        blocks = "inner transformer blocks" if self._inner_blocks else "transformer blocks"
        return f"the linear layers of {blocks}{', connectors' if self._connectors else ''} and text encoders"

    def includes(self, component: str, name: str, shape: tuple[int, ...], spec: ParamSpec | None, depth: int) -> bool:
        """Whether a tensor is written in the format.

        Args:
            component: that it belongs to.
            name: in the component.
            shape: logical.
            spec: what the model says about it; None where we have no model.
            depth: blocks of the transformer.
        """
        if self._everything and component in ("transformer", *CONNECTORS):
            linear = spec is None or spec.layout == "linear"
            return linear and name.endswith(".weight") and len(shape) == 2 and shape[0] * shape[1] > 1024
        if component == "transformer":
            chosen = _BLOCK_LINEAR.fullmatch(name) or (self._gates and _GATE.fullmatch(name))
            return bool(chosen) and (not self._inner_blocks or self._is_inner(name, depth))
        if component in CONNECTORS:
            return self._connectors and _CONNECTOR_LINEAR.fullmatch(name) is not None
        return component == "text_encoder" and _ENCODER_LINEAR.fullmatch(name) is not None

    @staticmethod
    def _is_inner(name: str, depth: int) -> bool:
        found = _BLOCK.match(name)
        return found is not None and 1 <= int(found[1]) < depth - depth * 5 // 48


def depth_of(names: list[str]) -> int:
    """Blocks of the transformer with tensors of these names."""
    return 1 + max((int(found[1]) for name in names if (found := _BLOCK.match(name))), default=-1)


def layer_class(component: str, name: str) -> str:
    """The class of layers under which the error of a weight is reported: its component and its module of a block."""
    found = re.match(r"(?:transformer_blocks|transformer_1d_blocks|layers)\.\d+\.(\w+)", name)
    if found is None:
        return component
    return f"{component} {'gates' if '.to_gate_logits.' in name else found[1]}"
