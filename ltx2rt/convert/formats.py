"""The formats that files can be converted to, in one table."""

from __future__ import annotations

from typing import NamedTuple

from ltx2rt.convert.containers import GGUF, SAFETENSORS, Container
from ltx2rt.convert.encoders.affine4 import Affine4
from ltx2rt.convert.encoders.encoder import Encoder
from ltx2rt.convert.encoders.float8 import Float8
from ltx2rt.convert.encoders.int8_convrot import Int8Convrot
from ltx2rt.convert.encoders.q8_0 import Q8_0
from ltx2rt.convert.layer_choice import CONNECTORS, LayerChoice


class Target(NamedTuple):
    """A format of files.

    Attributes:
        encoder: of the chosen weights; None: everything becomes what the published bfloat16 file holds.
        choice: which weights these are.
        container: what the file is.
        components: that such files hold; empty: all.
        summary: for help.
    """

    encoder: Encoder | None
    choice: LayerChoice
    container: Container
    components: tuple[str, ...]
    summary: str


TARGETS = {
    "int8-convrot": Target(
        Int8Convrot(),
        LayerChoice(connectors=True),
        SAFETENSORS,
        (),
        "8-bit integers with rotated inputs, the official form of LTX-2.5: half the size, the least error",
    ),
    "fp8": Target(
        Float8(),
        LayerChoice(gates=True, inner_blocks=True),
        SAFETENSORS,
        (),
        "scaled E4M3 as in the official FP8 files, the outer blocks in bfloat16",
    ),
    "mlx-int4": Target(
        Affine4(), LayerChoice(), SAFETENSORS, (), "MLX's 4-bit integers in groups of 64: a quarter of the size"
    ),
    "bf16": Target(None, LayerChoice(), SAFETENSORS, (), "any readable file expanded"),
    "gguf-q8_0": Target(
        Q8_0(),
        LayerChoice(everything=True),
        GGUF,
        ("transformer", *CONNECTORS),
        "a GGUF file of the transformer and its connectors, matrices in Q8_0",
    ),
}
