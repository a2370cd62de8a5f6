"""Names of the duration head in diffusers' and MLX form, whose projections of queries, keys and values are apart."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ltx2rt.weights.names.origin import Origin

_PROJECTION = re.compile(r"attention_pooler\.(?:cross_attn\.)?to_([qkv])\.(weight|bias)")
_OUT = re.compile(r"attention_pooler\.(?:cross_attn\.)?to_out\.(?:0\.)?(weight|bias)")
_ATTENTION = "attention_pooler.cross_attn."


def joined(origins: Mapping[str, Origin]) -> dict[str, Origin]:
    """Local name -> origin of the official tensors: the three projections are one tensor, queries first."""
    result: dict[str, Origin] = {}
    parts: dict[str, dict[str, str]] = {}
    for name, origin in origins.items():
        projection, out = _PROJECTION.fullmatch(name), _OUT.fullmatch(name)
        if projection:
            parts.setdefault(projection[2], {})[projection[1]] = origin.name
        elif out:
            result[f"{_ATTENTION}out_proj.{out[1]}"] = origin
        else:
            result[name] = origin
    for kind, found in parts.items():
        names = [found[letter] for letter in "qkv" if letter in found]
        whole = len(names) == 3  # otherwise the file is incomplete, which the missing tensor tells
        target = f"{_ATTENTION}in_proj_{kind}" if whole else f"{_ATTENTION}to_{next(iter(found))}.{kind}"
        result[target] = Origin(names[0], joined=tuple(names[1:]) if whole else ())
    return result
