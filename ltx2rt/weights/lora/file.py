"""One LoRA file or one of its relatives: what it changes, and what its metadata say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from ltx2rt.errors import CheckpointError
from ltx2rt.weights.finite import find_not_finite
from ltx2rt.weights.formats import companion_of, companions, encoding_of
from ltx2rt.weights.lora.factor import NO_VALUES, Factor
from ltx2rt.weights.lora.keys import (
    Key,
    Target,
    foreign_method,
    identity,
    is_lora,
    is_of_text_encoder,
    parse,
    readable,
    target,
)
from ltx2rt.weights.lora.kinds import Bias, Change, Difference, DoRA, LoHa, LoKr, PlainLora, Replacement
from ltx2rt.weights.lora.scale import Scale, Scales
from ltx2rt.weights.names import assign
from ltx2rt.weights.tensor_source import TensorInfo, WeightFile

_LORA_PARTS = ("A", "B")
_LOHA_PARTS = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
_LOKR_PARTS = tuple(f"lokr_w{i}{half}" for i in (1, 2) for half in ("", "_a", "_b"))
# Of the kinds that a weight can have one of.
_PRODUCTS = {"LoRA": _LORA_PARTS, "LoHa": _LOHA_PARTS, "LoKr": _LOKR_PARTS}
_PRODUCT_PARTS = {*_LORA_PARTS, *_LOHA_PARTS, *_LOKR_PARTS}

_FACTOR_KEYS = {
    "spatial": "reference_downscale_factor",
    "temporal": "reference_temporal_scale_factor",
}


class LoraFile:
    """What a file changes. Opening it reads its header and the alpha values; factors are read when they are used.

    Args:
        path: the file.
        tensors: entries of its tensors.
        metadata: the ``__metadata__`` strings.
        file: that values are read from; None: a manifest.
        config: what ``adapter_config.json`` beside the file says; None: there is none.
        markers: name of a weight -> what the file declares about how it is stored.

    Attributes:
        changes: tensor of the model -> what becomes of it.
        text_encoder: modules that belong to a text encoder, which no LoRA is applied to.
        strangers: names of tensors that are part of no change.
        of_text_encoder: names of the tensors of those modules.

    Raises:
        CheckpointError: no LoRA, a kind that is not supported, factors missing or of contradicting shapes.
    """

    def __init__(
        self,
        path: Path,
        tensors: Mapping[str, TensorInfo],
        metadata: Mapping[str, str],
        file: WeightFile | None = None,
        config: Mapping[str, Any] | None = None,
        markers: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.path = path
        self.tensors = tensors
        self.metadata = metadata
        self.config = config or {}
        self.file = file
        self.strangers: list[str] = []
        self.text_encoder: list[str] = []
        self.of_text_encoder: list[str] = []
        self.changes: dict[Target, Change] = {}
        self._labels: dict[str, str] = {}
        self._markers = markers or {}
        self._checked = False
        self._refuse_foreign()
        scales = Scales(path, metadata, config)
        for module, parts in self._modules().items():
            self._add(module, parts, scales)
        if not self.changes:
            self._refuse_empty()

    @property
    def modules(self) -> list[str]:
        """`identity` of every module of the model that is changed."""
        return list(dict.fromkeys(place.module for place in self.changes))

    @property
    def rank(self) -> int:
        """The largest rank in the file; 0 if nothing has one."""
        return max(change.rank for change in self.changes.values())

    @property
    def methods(self) -> dict[str, int]:
        """Method -> how many tensors of the model are changed in that way."""
        return dict(Counter(change.method for change in self.changes.values()))

    @property
    def scales(self) -> dict[Scale, int]:
        """What products are multiplied by -> how many of them."""
        return dict(Counter(change.scale for change in self.changes.values() if change.rank))

    @property
    def is_manifest(self) -> bool:
        """Whether only names, dtypes and shapes are known."""
        return self.file is None

    def label(self, module: str) -> str:
        """How messages name a module, given its `identity`."""
        return readable(self._labels[module])

    def where(self, module: str) -> str:
        """The same with the file, and the name as it is there."""
        return f"{self.path}: {self._labels[module]}"

    def change(self, component: str, name: str) -> Change | None:
        """What becomes of the tensor ``name`` of a component; None: nothing."""
        place = target(component, name)
        return None if place is None else self.changes.get(place)

    def stated_factor(self, axis: str) -> int | None:
        """How much smaller (``spatial``) or slower (``temporal``) than the output reference videos are (IC-LoRA).

        Trainers put prefixes of their own before the official key. None: nothing is stated.

        Raises:
            CheckpointError: it is no whole number, or stated twice and differently.
        """
        official = _FACTOR_KEYS[axis]
        found = {key: self._whole(key) for key in self.metadata if key.lower().endswith(official)}
        if len(set(found.values())) > 1:
            stated = ", ".join(f"{key} = {value}" for key, value in found.items())
            raise CheckpointError(f"{self.path}: metadata contradict each other: {stated}; correct the file.")
        return next(iter(found.values()), None)

    def require_finite(self) -> None:
        """Look at every value that is used, once. Reads the file in bounded memory.

        Raises:
            CheckpointError: a value is NaN or infinite; the message names file and tensor. Or there are no values, but
                only a manifest.
        """
        if self._checked:
            return
        if self.file is None:
            raise CheckpointError(f"{self.path}: {NO_VALUES}.")
        used = {name for change in self.changes.values() for name in _names(change)}
        bad = next(find_not_finite(self.file, used), None)
        if bad is not None:
            raise CheckpointError(
                f"{self.file.where(bad.name)}: {bad.values} of {bad.size} values are not finite numbers; its training "
                "broke down, or the file is damaged: use an earlier state of the training, or download it again."
            )
        self._checked = True

    def _whole(self, key: str) -> int:
        text = self.metadata[key]
        try:
            value = float(text)
        except ValueError:
            value = 0.0
        if not 1 <= value < 1 << 31 or value != int(value):
            raise CheckpointError(f"{self.path}: metadata {key} must be a whole number of at least 1, got {text!r}.")
        return int(value)

    def _refuse_foreign(self) -> None:
        """Raise CheckpointError for files of methods that are not supported, and for what is no LoRA at all."""
        if not is_lora(self.tensors):
            held = sorted(assign(self.tensors, str(self.path), self.metadata).components)
            if held:
                raise CheckpointError(
                    f"{self.path}: a checkpoint (it holds {', '.join(held)}), not a LoRA; give it as the checkpoint."
                )
            raise CheckpointError(
                f"{self.path}: not a LoRA file: no tensor ends in lora_A/lora_B, lora_down/lora_up or the like."
            )
        for name in self.tensors:
            method = foreign_method(name)
            if method is None:
                continue
            if method == "Tucker":
                raise CheckpointError(
                    f"{self.path}: tensor {name!r}: the Tucker form is not supported; train or convert the LoRA "
                    "without it (it is meant for convolutions)."
                )
            raise CheckpointError(
                f"{self.path}: tensor {name!r}: {method} adapters are not supported; merge it into a checkpoint, or "
                "extract it as a LoRA."
            )

    def _modules(self) -> dict[str, dict[str, Factor]]:
        """Module by its `identity` -> part -> tensor; what is none is noted."""
        modules: dict[str, dict[str, Factor]] = {}
        for name in self.tensors:
            owner = companion_of(name)
            if owner != name and owner in self.tensors:
                continue
            key = parse(name)
            if key is None:
                self._note_stranger(name)
                continue
            module = identity(key.module)
            if is_of_text_encoder(module):
                self.text_encoder.append(key.module)
                self.of_text_encoder.append(name)
                continue
            self._labels.setdefault(module, key.module)
            taken = modules.setdefault(module, {})
            if key.part in taken:
                raise CheckpointError(self._twice(taken[key.part].name, name, key))
            taken[key.part] = self._factor(name)
        self.text_encoder = list(dict.fromkeys(self.text_encoder))
        return modules

    def _note_stranger(self, name: str) -> None:
        """Raise CheckpointError for what looks like the scale of a factor that is stored in an unknown way."""
        module = name.rpartition(".")[0]
        owner = next((other for other in (module, f"{module}.weight") if other in self.tensors), None)
        quantised = owner is not None and self.tensors[owner].dtype in ("F8_E4M3", "F8_E5M2", "I8", "U8")
        if quantised and "scale" in name.rpartition(".")[2] and not name.endswith((".input_scale", ".scale_input")):
            raise CheckpointError(
                f"{self.path}: tensor {name!r} looks like a scale of {owner!r}, but is none that is known; use the "
                "LoRA in bf16."
            )
        self.strangers.append(name)

    def _twice(self, first: str, second: str, key: Key) -> str:
        other = parse(first)
        if other is not None and other.adapter != key.adapter:
            return (
                f"{self.path}: holds several adapters ({other.adapter or 'one without a name'}, "
                f"{key.adapter or 'one without a name'}); give a file with one."
            )
        return (
            f"{self.path}: tensors {first!r} and {second!r} are the same factor of {readable(key.module)}; "
            "give a file with one of them."
        )

    def _factor(self, name: str) -> Factor:
        encoding = encoding_of(name, self.tensors, self._markers.get(name))
        return Factor(self.path, self.file, name, encoding, companions(name, self.tensors))

    def _add(self, module: str, parts: dict[str, Factor], scales: Scales) -> None:
        """The changes of one module."""
        where = self.where(module)
        kinds = [kind for kind, names in _PRODUCTS.items() if any(name in parts for name in names)]
        whole = [part for part in ("diff", "set_weight") if part in parts]
        if len(kinds) + len(whole) > 1:
            raise CheckpointError(f"{where}: changed in two ways, {' and '.join([*kinds, *whole])}; give one of them.")
        alpha = parts["alpha"].number() if "alpha" in parts else None
        if kinds:
            change = _PRODUCT_READERS[kinds[0]](where, self._labels[module], parts, scales, alpha)
            if "magnitude" in parts:
                change = DoRA(change, parts["magnitude"])
            self.changes[Target(module, "weight")] = change
        elif "magnitude" in parts:
            raise CheckpointError(f"{where}: {parts['magnitude'].name!r} comes without a LoRA; the file is incomplete.")
        if "diff" in parts:
            self.changes[Target(module, "weight")] = Difference({"diff": parts["diff"]})
        if "set_weight" in parts:
            self.changes[Target(module, "weight")] = Replacement({"set_weight": parts["set_weight"]})
        biases = [part for part in ("diff_b", "B_bias") if part in parts]
        if len(biases) > 1:
            raise CheckpointError(f"{where}: its bias is changed twice; give a file with one change.")
        if "diff_b" in parts:
            self.changes[Target(module, "bias")] = Difference({"diff_b": parts["diff_b"]})
        if "B_bias" in parts:
            rank = self.changes[Target(module, "weight")].rank if kinds == ["LoRA"] else 1
            scale = scales.of(self._labels[module], rank, alpha)
            self.changes[Target(module, "bias")] = Bias({"B_bias": parts["B_bias"]}, scale)
        for part in ("weight", "bias"):
            changed = self.changes.get(Target(module, part))
            _ = changed and changed.shape  # raises for factors that cannot be used
        if not kinds and not whole and not biases:
            self.strangers += [factor.name for factor in parts.values()]

    def _refuse_empty(self) -> None:
        if self.text_encoder:
            raise CheckpointError(
                f"{self.path}: this LoRA changes a text encoder alone ({self.text_encoder[0]}), which LoRAs are not "
                "applied to; use a LoRA of the transformer."
            )
        raise CheckpointError(f"{self.path}: holds no factor of a LoRA ({len(self.tensors)} tensors).")


def _lora(where: str, module: str, parts: Mapping[str, Factor], scales: Scales, alpha: float | None) -> Change:
    _require(where, parts, _LORA_PARTS)
    a, b = parts["A"], parts["B"]
    _same_rank(where, a, a.shape[0], b, b.shape[1])
    return PlainLora({"A": a, "B": b}, scales.of(module, a.shape[0], alpha))


def _loha(where: str, module: str, parts: Mapping[str, Factor], scales: Scales, alpha: float | None) -> Change:
    _require(where, parts, _LOHA_PARTS)
    a1, b1, a2, b2 = (parts[name] for name in _LOHA_PARTS)
    _same_rank(where, a1, a1.shape[1], b1, b1.shape[0])
    _same_rank(where, a2, a2.shape[1], b2, b2.shape[0])
    if (a1.shape[0], b1.shape[1]) != (a2.shape[0], b2.shape[1]):
        raise CheckpointError(
            f"{where}: the products of hada_w1 [{a1.shape[0]}, {b1.shape[1]}] and hada_w2 "
            f"[{a2.shape[0]}, {b2.shape[1]}] have different shapes; the file is damaged."
        )
    return LoHa({name: parts[name] for name in _LOHA_PARTS}, scales.of(module, b1.shape[0], alpha))


def _lokr(where: str, module: str, parts: Mapping[str, Factor], scales: Scales, alpha: float | None) -> Change:
    used: dict[str, Factor] = {}
    rank = 0
    for name in ("lokr_w2", "lokr_w1"):  # the rank of the first counts where both are products
        halves = (f"{name}_a", f"{name}_b")
        if name in parts:
            if any(half in parts for half in halves):
                raise CheckpointError(f"{where}: {name} is there whole and in factors; the file is damaged.")
            used[name] = parts[name]
            continue
        _require(where, parts, halves if any(half in parts for half in halves) else (name,))
        a, b = (parts[half] for half in halves)
        _same_rank(where, a, a.shape[1], b, b.shape[0])
        used |= {halves[0]: a, halves[1]: b}
        rank = b.shape[0]
    scale = scales.of(module, rank, alpha) if rank else Scale(1.0)
    return LoKr(used, scale, rank)


_PRODUCT_READERS = {"LoRA": _lora, "LoHa": _loha, "LoKr": _lokr}


def _require(where: str, parts: Mapping[str, Factor], names: Collection[str]) -> None:
    """Raise CheckpointError when one of the tensors that make a product is missing."""
    lacking = [name for name in names if name not in parts]
    if lacking:
        there = next(factor.name for part, factor in parts.items() if part in _PRODUCT_PARTS)
        raise CheckpointError(
            f"{where} has no {_ROLES.get(lacking[0], lacking[0])} factor: {there!r} comes without "
            f"{' and '.join(_spelled(part, there) for part in lacking)}; the LoRA file is incomplete, "
            "download it again."
        )


def _spelled(part: str, other: str) -> str:
    """A missing part as the file would call it, which calls another one ``other``."""
    if part not in _LORA_PARTS:
        return part
    mine = _LORA_PARTS.index(part)
    return next(pair[mine] for pair in _LORA_SPELLINGS if pair[1 - mine] in other)


_ROLES = {"A": "down (A)", "B": "up (B)"}
# Of the two factors of a LoRA; the longest first.
_LORA_SPELLINGS = (
    ("lora_linear_layer.down", "lora_linear_layer.up"),
    ("lora.down", "lora.up"),
    ("lora_down", "lora_up"),
    ("lora_A", "lora_B"),
)


def _same_rank(where: str, a: Factor, rank_a: int, b: Factor, rank_b: int) -> None:
    """Raise CheckpointError when the inner sides of two factors differ."""
    if rank_a != rank_b or rank_a == 0:
        raise CheckpointError(
            f"{where}: the ranks of A {list(a.shape)} and B {list(b.shape)} differ: {rank_a} in {_last(a.name)}, "
            f"{rank_b} in {_last(b.name)}; the LoRA file is damaged, download it again."
        )


def _last(name: str) -> str:
    """The factor's own part of a tensor name."""
    return name.removesuffix(".weight").rpartition(".")[2]


def _names(change: Change) -> Iterator[str]:
    """Every tensor that a change reads."""
    for factor in change.factors.values():
        yield factor.name
        yield from factor.companions.values()
