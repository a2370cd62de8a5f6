"""Whether LoRAs fit a model: by what they state, by the names and by the shapes of what they change."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ltx2rt.errors import CheckpointError, UsageError
from ltx2rt.graph.components import CONNECTORS, TEXT_PROJECTION, TRANSFORMER, Component
from ltx2rt.weights.generations import Generation
from ltx2rt.weights.lora.file import LoraFile
from ltx2rt.weights.lora.generation import shown, stated
from ltx2rt.weights.lora.keys import Target, component_of, target
from ltx2rt.weights.lora.kinds import DoRA

log = logging.getLogger(__name__)

# What LoRAs change.
LORA_COMPONENTS: tuple[Component[Any], ...] = (TRANSFORMER, *CONNECTORS, TEXT_PROJECTION)
_NAMES_SHOWN = 10
_SCALES_SHOWN = 3


@dataclass(frozen=True)
class LoraTarget:
    """A model that LoRAs are added to.

    Attributes:
        name: of its file.
        generation: None where neither its header nor a tensor tells.
        shapes: component -> tensor -> shape.
    """

    name: str
    generation: Generation | None
    shapes: Mapping[str, Mapping[str, tuple[int, ...]]]


def check_lora(lora: LoraFile, strength: float, model: LoraTarget, *, text: bool) -> None:
    """Refuse a LoRA that cannot be added, and say what of it is not applied, and how its strength is scaled.

    Args:
        lora, strength: what is added.
        model: to what.
        text: what it changes in connectors and text projection is applied, too.

    Raises:
        CheckpointError: nothing of it exists in the model, or a tensor has another shape.
        UsageError: it replaces weights, which no other strength than 1 is for.
    """
    places = {
        place: (component, shape)
        for component, shapes in model.shapes.items()
        for name, shape in shapes.items()
        if (place := target(component, name)) is not None
    }
    known = {place: change for place, change in lora.changes.items() if place in places}
    lacking = [place for place in lora.changes if place not in places]
    against = _other_generation(lora, model, lacking)
    if not known:
        raise CheckpointError(
            f"{lora.path}: none of the {len(lora.modules)} modules of this LoRA exists in {model.name} "
            f"({_shortened(lora, lacking)}){f': {against}' if against else ''}; use a LoRA made for this model."
        )
    for place, change in known.items():
        component, shape = places[place]
        change.check(shape, lora.where(place.module), against)
        if component == TEXT_PROJECTION.name and isinstance(change, DoRA) and change.by_columns:
            raise CheckpointError(
                f"{lora.where(place.module)}: DoRA by columns of the text projection is not supported; merge it into "
                "the projection."
            )
        if change.replaces and strength not in (0.0, 1.0):
            raise UsageError(
                f"{lora.where(place.module)} replaces a weight, which has no strength but 1; got {strength:g}."
            )
    if against:
        log.warning("%s: %s; it is applied, but the result may be spoilt", lora.path, against)
    if lacking:
        log.warning(
            "%s: %d of its %d LoRA modules %s in %s and not applied (%s)",
            lora.path,
            _modules(lacking),
            len(lora.modules),
            "is not" if _modules(lacking) == 1 else "are not",
            model.name,
            _shortened(lora, lacking),
        )
    unused = [place for place in known if places[place][0] != TRANSFORMER.name and not text]
    if unused:
        log.warning(
            "%s: what it changes in connectors and text projection is not applied, %d modules (%s): the text is "
            "encoded once for all stages",
            lora.path,
            _modules(unused),
            _shortened(lora, unused),
        )
    if lora.text_encoder:
        log.warning(
            "%s: %d of its modules belong to a text encoder and are not applied (%s)",
            lora.path,
            len(lora.text_encoder),
            lora.text_encoder[0],
        )
    if lora.strangers:
        log.warning(
            "%s: %d of its tensors are part of no LoRA and not applied (%s)",
            lora.path,
            len(lora.strangers),
            ", ".join(lora.strangers[:_NAMES_SHOWN]),
        )
    _say_scale(lora)


def text_modules(lora: LoraFile) -> list[str]:
    """What a LoRA changes in connectors and text projection, as messages name it."""
    return [lora.label(module) for module in lora.modules if component_of(module) not in (TRANSFORMER.name, None)]


def _other_generation(lora: LoraFile, model: LoraTarget, lacking: list[Target]) -> str:
    """That a LoRA is for another generation, in words; empty if nothing says so."""
    if model.generation is None:
        return ""
    for evidence in (stated(lora), shown(place.module for place in lacking)):
        if evidence is not None and evidence.contradicts(model.generation):
            return f"it is for {evidence.named} ({evidence.source}), the model is {model.generation.name}"
    return ""


def _say_scale(lora: LoraFile) -> None:
    """Say what the strength is multiplied by where that is not 1."""
    scales = {scale for scale in lora.scales if scale.value != 1.0}
    if not scales:
        return
    values = sorted({scale.value for scale in scales})
    few = ", ".join(f"{value:g}" for value in values)
    told = few if len(values) <= _SCALES_SHOWN else f"{values[0]:g} to {values[-1]:g}"
    sources = " and ".join(sorted({scale.source for scale in scales}))
    log.warning("%s: its strength is multiplied by alpha / rank = %s (%s)", lora.path, told, sources)


def _modules(places: list[Target]) -> int:
    return len({place.module for place in places})


def _shortened(lora: LoraFile, places: list[Target]) -> str:
    named = (lora.label(place.module) + (".bias" if place.part == "bias" else "") for place in places)
    names = list(dict.fromkeys(named))
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
