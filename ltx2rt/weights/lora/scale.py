"""What a LoRA's product is multiplied by: alpha / rank, which may be stated in several places."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ltx2rt.errors import CheckpointError

CONFIG_FILE = "adapter_config.json"
_DIFFUSERS_KEY = "lora_adapter_metadata"
# (alpha, rank), the surest first.
_PLAIN_KEYS = (("lora_alpha", "lora_rank"), ("ss_network_alpha", "ss_network_dim"))
# What stands for "not stated" in the metadata of trainers, and of tools that gave every module a rank of its own.
_NOT_STATED = ("", "none", "null", "dynamic")


class Scale(NamedTuple):
    """The factor, and where it is stated; empty where nothing states it."""

    value: float
    source: str = ""


class _Plain(NamedTuple):
    """An alpha of the whole file, and the rank that goes with it; None: that of each module. (A file whose modules were
    cut to smaller ranks afterwards states the rank that it was trained with, as the official LoRA of 2.5 does.)"""

    source: str
    alpha: float
    rank: float | None

    def scale(self, rank: int) -> Scale:
        return Scale(self.alpha / (self.rank or rank), self.source)


@dataclass(frozen=True)
class _Adapter:
    """What PEFT says about an adapter: alpha, alpha of some modules, and whether the root of the rank divides it."""

    source: str
    alpha: float
    alphas: Mapping[str, float] = field(default_factory=dict)
    by_root: bool = False

    def scale(self, module: str, rank: int) -> Scale:
        alpha = next((a for key, a in self.alphas.items() if _names(key, module)), self.alpha)
        return Scale(alpha / (math.sqrt(rank) if self.by_root else rank), self.source)


class Scales:
    """Of the modules of one file.

    Args:
        path: of the file, for errors.
        metadata: of its header.
        config: ``adapter_config.json`` that goes with it; None: none.

    Raises:
        CheckpointError: something that states an alpha is no number, or is not supported.
    """

    def __init__(self, path: Path, metadata: Mapping[str, str], config: Mapping[str, Any] | None) -> None:
        self._path = path
        self._packed = self._read_packed(metadata)
        self._plain = next(filter(None, (self._read_plain(metadata, *keys) for keys in _PLAIN_KEYS)), None)
        self._config = None if config is None else self._adapter(CONFIG_FILE, config)

    def of(self, module: str, rank: int, alpha: float | None) -> Scale:
        """The first that is stated: by the tensor, by the metadata of diffusers, by plain metadata, by PEFT's file.

        Args:
            module: as the file writes it.
            rank: of its factors.
            alpha: of its own tensor; None if it has none.
        """
        if alpha is not None:
            return Scale(alpha / rank, "its alpha tensors")
        packed = self._packed_for(module)
        if packed is not None:
            return packed[1].scale(module.removeprefix(f"{packed[0]}."), rank)
        if self._plain is not None:
            return self._plain.scale(rank)
        return Scale(1.0) if self._config is None else self._config.scale(module, rank)

    def _packed_for(self, module: str) -> tuple[str, _Adapter] | None:
        """The adapter in diffusers' metadata that a module belongs to: the one of its prefix, the longest first, or the
        only one, whose prefix another program may have taken off."""
        found = ((p, adapter) for p, adapter in self._packed.items() if not p or module.startswith(f"{p}."))
        only = next(iter(self._packed.items())) if len(self._packed) == 1 else None
        return next(found, None if only is None or only[0].startswith("text_encoder") else only)

    def _read_plain(self, metadata: Mapping[str, str], alpha: str, rank: str) -> _Plain | None:
        """What two keys of the metadata state; None where they state no alpha."""
        stated = [metadata.get(key, "") for key in (alpha, rank)]
        numbers = [
            None if text.strip().lower() in _NOT_STATED else self._number(f"metadata {key}", text)
            for key, text in zip((alpha, rank), stated, strict=True)
        ]
        if numbers[0] is None:
            return None
        if numbers[1] is not None and numbers[1] <= 0:
            raise CheckpointError(f"{self._path}: metadata {rank} must be above 0, got {stated[1]!r}.")
        return _Plain(f"metadata {alpha}", numbers[0], numbers[1])

    def _read_packed(self, metadata: Mapping[str, str]) -> dict[str, _Adapter]:
        """Prefix of a component -> what diffusers' metadata say about its adapter."""
        text = metadata.get(_DIFFUSERS_KEY, "")
        if text.strip().lower() in _NOT_STATED:
            return {}
        try:
            stated = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{self._path}: metadata {_DIFFUSERS_KEY} is not valid JSON ({error}).") from error
        if not isinstance(stated, dict):
            raise CheckpointError(f"{self._path}: metadata {_DIFFUSERS_KEY} must be a JSON object.")
        parts: dict[str, dict[str, Any]] = {}
        for key, value in stated.items():
            prefix, _, leaf = key.rpartition(".")
            parts.setdefault(prefix, {})[leaf] = value
        found = {prefix: self._adapter(f"metadata {_DIFFUSERS_KEY}", values) for prefix, values in parts.items()}
        ordered = sorted(found.items(), key=lambda item: -len(item[0]))
        return {prefix: adapter for prefix, adapter in ordered if adapter is not None}

    def _adapter(self, source: str, values: Mapping[str, Any]) -> _Adapter | None:
        """None where no alpha is stated."""
        alpha = values.get("lora_alpha", values.get("alpha"))
        if alpha is None:
            return None
        patterns = values.get("alpha_pattern") or {}
        if not isinstance(patterns, dict):
            raise CheckpointError(f"{self._path}: alpha_pattern of {source} must map modules to numbers.")
        for key in patterns:
            _check_pattern(self._path, source, key)
        return _Adapter(
            source,
            self._number(f"lora_alpha of {source}", alpha),
            {key: self._number(f"alpha_pattern of {source}", value) for key, value in patterns.items()},
            by_root=bool(values.get("use_rslora")),
        )

    def _number(self, what: str, value: Any) -> float:
        try:
            number = float("nan") if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            number = float("nan")
        if not math.isfinite(number):
            raise CheckpointError(
                f"{self._path}: {what} must be a finite number, got {value!r}; correct it or use another file."
            )
        return number


def _check_pattern(path: Path, source: str, key: str) -> None:
    """Refuse what is no regular expression, and what may take forever to match."""
    try:
        re.compile(key)
        usable = len(key) <= 200 and re.search(r"\)\s*[*+{?]|\*.*\*.*\*", key) is None
    except (re.error, RecursionError, OverflowError):
        usable = False
    if not usable:
        raise CheckpointError(
            f"{path}: alpha_pattern of {source} has {key[:200]!r}, which is not supported; use names of modules."
        )


def _names(key: str, module: str) -> bool:
    """Whether a key of PEFT's patterns means a module: the whole name or its end."""
    return re.fullmatch(rf"(.*\.)?({key})", module) is not None
