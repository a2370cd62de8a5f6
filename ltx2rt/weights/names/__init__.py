"""From the names in a file to those of the model: one module per family of files.

A family says which official name a stored tensor stands for and what makes the official tensor of it (`Origin`);
`assign` sorts the result into components.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ltx2rt.errors import CheckpointError
from ltx2rt.weights.names import diffusers, diffusion_decoder, duration_head, llama_cpp, mlx_packs, official
from ltx2rt.weights.names.official import IGNORED, is_statistic, is_unused, locate
from ltx2rt.weights.names.origin import Origin, keeps_channels_last
from ltx2rt.weights.tensor_source import TensorInfo

__all__ = ["Assignment", "Origin", "assign", "is_statistic", "is_unused", "locate"]


@dataclass
class Assignment:
    """Every tensor of a file, sorted out.

    Attributes:
        components: component -> local name -> where it is in the file.
        ignored: known tensors that nothing uses (vision tower, markers).
        unknown: names that fit no rule.
    """

    components: dict[str, dict[str, Origin]] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


def assign(tensors: Mapping[str, TensorInfo], where: str, metadata: Mapping[str, str] | None = None) -> Assignment:
    """Sort the tensors of one file into components.

    Args:
        tensors: name in the file -> entry.
        where: names the file in errors.
        metadata: strings of its header.

    Raises:
        CheckpointError: two tensors of the file would have the same name in a component.
    """
    result = Assignment()
    for name, origin in _official_names(tensors, metadata or {}):
        place = locate(name)
        if place is None:
            result.unknown.append(origin.name)
        elif place[0] == IGNORED:
            result.ignored.append(origin.name)
        else:
            component, local = place
            taken = result.components.setdefault(component, {}).setdefault(local, origin)
            if taken is origin:
                continue
            if is_statistic(local) and tensors[taken.name].shape == tensors[origin.name].shape:
                result.ignored.append(origin.name)  # of the other half of a VAE, which has its own
            else:
                raise CheckpointError(
                    f"{where}: tensors {taken.name!r} and {origin.name!r} are both {local!r} of the {component}."
                )
    for component, origins in result.components.items():
        join = _JOINED.get(component)
        result.components[component] = _in_one_order(origins if join is None else join(origins), tensors)
    return result


# Components of which some files keep in parts what is one tensor officially.
_JOINED: dict[str, Callable[[Mapping[str, Origin]], dict[str, Origin]]] = {
    "duration_head": duration_head.joined,
    "video_vae": diffusion_decoder.joined,
}


def _official_names(tensors: Mapping[str, TensorInfo], metadata: Mapping[str, str]) -> list[tuple[str, Origin]]:
    if llama_cpp.is_gemma(metadata):
        return llama_cpp.official_names(tensors, metadata)
    kind = diffusers.component(tensors)
    if kind is not None:
        return diffusers.official_names(tensors, kind)
    if mlx_packs.recognises(tensors, metadata):
        return mlx_packs.official_names(tensors)
    return official.official_names(tensors)


def _in_one_order(origins: dict[str, Origin], tensors: Mapping[str, TensorInfo]) -> dict[str, Origin]:
    """The origins of a component; convolutions of packs that left them in official order are taken so."""
    shapes = [tensors[origin.name].shape for origin in origins.values() if origin.channels_last]
    if not any(len(shape) >= 3 for shape in shapes) or keeps_channels_last(shapes):
        return origins
    return {local: origin._replace(channels_last=False) for local, origin in origins.items()}
