"""Names of the diffusion video decoder in diffusers' form, whose projections of queries, keys and values are apart."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ltx2rt.weights.names.origin import Origin

_PROJECTION = re.compile(r"(decoder\.(?:det_stages|diff_blocks)\..+\.attn)\.to_([qkv])\.(weight|bias)")
_RENAMED = (
    (re.compile(r"(decoder\.(?:det_stages|diff_blocks)\..+\.attn)\.to_out\.0\."), r"\1.proj."),
    (re.compile(r"(decoder\.(?:det_stages|diff_blocks)\..+\.attn)\.norm_([qk])\."), r"\1.\2_norm."),
    (re.compile(r"(decoder\.t_embedder)\.timestep_embedder\.linear_1\."), r"\1.mlp.0."),
    (re.compile(r"(decoder\.t_embedder)\.timestep_embedder\.linear_2\."), r"\1.mlp.2."),
)


def joined(origins: Mapping[str, Origin]) -> dict[str, Origin]:
    """Local name -> origin of the official tensors of a video VAE: the three projections are one, queries first."""
    result: dict[str, Origin] = {}
    parts: dict[tuple[str, str], dict[str, Origin]] = {}
    for name, origin in origins.items():
        projection = _PROJECTION.fullmatch(name)
        if projection:
            parts.setdefault((projection[1], projection[3]), {})[projection[2]] = origin
            continue
        for pattern, official in _RENAMED:
            name = pattern.sub(official, name)
        result[name] = origin
    for (attention, kind), found in parts.items():
        if len(found) == 3:
            q, k, v = (found[letter].name for letter in "qkv")
            result[f"{attention}.qkv.{kind}"] = Origin(q, joined=(k, v))
        else:  # the file is incomplete, which the missing tensor tells
            result |= {f"{attention}.to_{letter}.{kind}": origin for letter, origin in found.items()}
    return result
