"""Which generation of the model a LoRA is for: what its metadata state, and what its modules show."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ltx2rt.weights.generations import GENERATIONS, LTX_2, LTX_2_3, LTX_2_5, Generation, parse_version
from ltx2rt.weights.lora.file import LoraFile

# Keys of metadata, and of ``adapter_config.json``, that say which model a LoRA was trained on; the surest first.
_KEYS = (
    "model_version",
    "ss_base_model_version",
    "base_model",
    "modelspec.base_model",
    "base_model_name_or_path",
    "modelspec.architecture",
)
_LTX_VIDEO = re.compile(r"ltx-?video|ltxv(?!-?_?2)|(?<!\d)0\.9|(?<!\d)13b")
_WITH_MINOR = re.compile(r"(?<![\d.])2[._-](\d)(?!\d)|ltxv?[-_]?2(\d)(?![\d]|b)")
_HUB_NAME_OF_FIRST = re.compile(r"(?:.*/)?lightricks/ltx-2/?")

# Part of a module -> the generations that have it.
_MARKS: Mapping[str, tuple[Generation, ...]] = {
    "caption_projection": (LTX_2,),
    "to_gate_logits": (LTX_2_3, LTX_2_5),
    "prompt_adaln_single": (LTX_2_3, LTX_2_5),
    "prompt_scale_shift_table": (LTX_2_3, LTX_2_5),
    "keyframes_abs_pos_embedding": (LTX_2_5,),
}


class Evidence(NamedTuple):
    """Which generations a LoRA can be for, none of ours included, and what says so, in words."""

    generations: tuple[Generation, ...]
    source: str

    def contradicts(self, generation: Generation) -> bool:
        return generation not in self.generations

    @property
    def named(self) -> str:
        """The generations in words."""
        return " or ".join(generation.name for generation in self.generations) or "LTX-Video"


def stated(lora: LoraFile) -> Evidence | None:
    """By metadata; None where they do not tell."""
    for key in _KEYS:
        text = lora.metadata.get(key) or lora.config.get(key)
        if not isinstance(text, str):
            continue
        found = _generations_in(text, is_version=key == "model_version")
        if found == () and any("audio" in module for module in lora.modules):
            continue  # some trainers state LTX-Video for LTX-2, which alone has sound
        if found is not None:
            return Evidence(found, f"{key} = {text}")
    return None


def shown(modules: Iterable[str]) -> Evidence | None:
    """By modules (`keys.identity`) that only some generations have; None where all have them."""
    for module in modules:
        for mark, generations in _MARKS.items():
            if mark in module:
                return Evidence(generations, mark)
    return None


def _generations_in(text: str, *, is_version: bool) -> tuple[Generation, ...] | None:
    """Those that a text means: a version, the name of a file, a repository or an architecture; None: it tells none."""
    text = text.strip().lower()
    version = parse_version(text) if is_version else ()
    if version:
        return () if version < (1,) else (next(g for g in reversed(GENERATIONS) if version >= g.since),)
    if _LTX_VIDEO.search(text):
        return ()
    minor = _WITH_MINOR.search(text)
    if minor is not None:
        version = (2, int(minor[1] or minor[2]))
        return (next(g for g in reversed(GENERATIONS) if version >= g.since),)
    if "19b" in text or _HUB_NAME_OF_FIRST.fullmatch(text):
        return (LTX_2,)
    return (LTX_2_3, LTX_2_5) if "22b" in text else None
