"""Which file each part of a model is taken from: what is named, then what is given, then what lies beside it."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ltx2rt.errors import CheckpointError
from ltx2rt.spelling import spelled
from ltx2rt.weights.checkpoint import Checkpoint
from ltx2rt.weights.sets import parts as roles
from ltx2rt.weights.sets.description import Description
from ltx2rt.weights.sets.parts import (
    CONNECTORS,
    NEEDED,
    OPTIONAL,
    ROLES,
    TEXT_ENCODER,
    TRANSFORMER,
    UPSCALERS,
    VIDEO_DECODERS,
    VIDEO_VAE,
    Found,
    Part,
    Role,
    find,
    look,
    wanted_vae,
)
from ltx2rt.weights.sets.units import (
    Unit,
    comfyui_root,
    followed,
    is_text_encoder_folder,
    layout_of,
    repository_of,
    units_of,
)

log = logging.getLogger(__name__)

_MAX_LISTED = 8


@dataclass(frozen=True)
class ModelSet:
    """The parts of a model, each from one place.

    Attributes:
        sources: component -> what holds it.
        gaps: setting of a role -> why nothing is taken for it.
        taken: setting of a role -> what was taken for it without having been named.
    """

    sources: Mapping[str, Checkpoint]
    gaps: Mapping[str, str] = field(default_factory=dict)
    taken: Mapping[str, Path] = field(default_factory=dict)


def resolve(
    model: Path | None,
    named: Mapping[str, Path | Sequence[Path]],
    variant: str | None = None,
    roles: Sequence[Role] = ROLES,
    decoder: str | None = None,
) -> ModelSet:
    """Find the parts of a model.

    Args:
        model: the file or folder that was given as the model.
        named: setting of a role -> the files or folders that were given for it.
        variant: ``dev`` or ``distilled``, where it was stated.
        decoder: of `VIDEO_DECODERS`, where it was stated.
        roles: what is wanted beside what was named; the headers of other parts only serve as descriptions. Where they
            are without the transformer and none is there, the first of them says which model it is.

    Raises:
        CheckpointError: there is no transformer, or several; a path is missing, damaged, or does not hold what it was
            given for; or parts do not belong together. What is missing otherwise is a gap.
    """
    given = None if model is None else find(model)
    explicit = {setting: _all_named(paths, _role(setting)) for setting, paths in named.items()}
    leading = _leading(given, explicit, roles)
    lead = _only(leading, given, explicit.get(leading.setting), variant, decoder)
    choice = _Choice(given, explicit, leading, lead, variant or lead.variant, decoder)
    for role in (*NEEDED, *OPTIONAL):
        if role is not leading:
            choice.choose(role)
    wanted = [role for role in ROLES if role in (leading, *roles) or role.setting in explicit]
    if CONNECTORS in wanted:
        choice.check()
    return choice.result(wanted)


class _Choice:
    """The parts that are chosen for the one that says which model it is, nearly always the transformer."""

    def __init__(
        self,
        given: Found | None,
        explicit: Mapping[str, Found],
        leading: Role,
        lead: Part,
        variant: str | None,
        decoder: str | None,
    ) -> None:
        self.given = given
        self.explicit = explicit
        self.lead = lead
        self.generation = lead.generations[0] if len(lead.generations) == 1 else None
        self.variant = variant
        self.decoder = decoder
        self.chosen: dict[str, Part] = {lead.component: lead}
        self.gaps: dict[str, str] = {}
        self.taken: dict[str, Path] = {}
        self._siblings: list[Found] | None = None
        if given is not None and given.path.is_dir() and leading.setting not in explicit:
            self.taken[leading.setting] = lead.path

    def choose(self, role: Role) -> None:
        """Take the part of a role from the first place that has one."""
        if role.setting in self.explicit:
            found = self.explicit[role.setting]
            parts = _decoding(found.of(role.components[0]), role, self.decoder)
            if not parts:
                raise _no_decoder(found, self.decoder)
            part = self._one(parts, role, required=True)
            self._require_fitting(part, role)
            self._take(role, part)
            return
        refused: list[Part] = []
        for place in self._places(role):
            parts = place.parts.of(role.components[0])
            fitting = _decoding(self._fitting(parts), role, self.decoder)
            if role is TEXT_ENCODER:
                fitting = self._of_its_size(fitting)
            refused += [part for part in parts if part not in fitting]
            if not fitting:
                continue
            try:
                part = self._one(fitting, role, required=role in NEEDED)
            except CheckpointError as error:
                self.gaps[role.setting] = str(error)
                return
            self._take(role, part)
            if place.is_new:
                self.taken[role.setting] = part.path
            return
        if role in NEEDED:
            self.gaps[role.setting] = self._missing(role, refused)

    def check(self) -> None:
        """Raise CheckpointError where chosen parts contradict each other; warn where that cannot be told."""
        connectors = self.chosen.get("video_connector")
        if connectors is None or connectors.checkpoint is self.lead.checkpoint:
            return
        told = len(connectors.generations) == 1
        if not told and connectors.path.parent != self.lead.path.parent:
            log.warning(
                "%s does not state its generation: the connectors of 2.3 and 2.5 cannot be told apart, and those of "
                "another one give clips that do not follow the prompt",
                connectors.path,
            )

    def result(self, roles: Sequence[Role]) -> ModelSet:
        """The set of these roles, its files described by each other and by those of other roles."""
        settings = {role.setting for role in roles}
        wanted = [name for role in roles for name in role.components if name in self.chosen]
        described = self._described()
        return ModelSet(
            sources={name: described[id(self.chosen[name].checkpoint)] for name in self.chosen if name in wanted},
            gaps={setting: why for setting, why in self.gaps.items() if setting in settings},
            taken={setting: path for setting, path in self.taken.items() if setting in settings},
        )

    def _described(self) -> dict[int, Checkpoint]:
        """Every checkpoint, by its identity, as the others describe it; a single one describes itself."""
        checkpoints = {id(part.checkpoint): part.checkpoint for part in self.chosen.values()}
        if len(checkpoints) == 1:
            return checkpoints
        description = Description(
            stated=[checkpoint.stated for checkpoint in checkpoints.values()],
            holders={name: part.checkpoint.stated for name, part in self.chosen.items()},
            tensors={name: part.checkpoint.names(part.stored) for name, part in self.chosen.items()},
        )
        return {key: checkpoint.described(description) for key, checkpoint in checkpoints.items()}

    def _take(self, role: Role, part: Part) -> None:
        for component in role.components:
            held = [other for other in parts_beside(part) if other.component == component]
            if held:
                self.chosen[component] = held[0]

    def _places(self, role: Role) -> Iterator[_Place]:
        """Where the part of a role may be, nearest first."""
        yield _Place(Found(self.lead.path, tuple(roles.parts_of(self.lead.checkpoint))), is_new=False)
        if self.given is not None:
            yield _Place(self.given, is_new=self.given.path.is_dir())
        named = [part for found in self.explicit.values() for part in found.parts]
        yield _Place(Found(self.lead.path, tuple(named)), is_new=False)
        if role in NEEDED or (role in UPSCALERS and self._siblings is not None):
            for found in self._look_around():
                yield _Place(found, is_new=True)

    def _look_around(self) -> list[Found]:
        """What lies beside the given files: in their folders, then in the ComfyUI tree, then in Gemma folders."""
        if self._siblings is None:
            needed = (TRANSFORMER.setting, *(role.setting for role in NEEDED))
            places = (self.given, *(found for setting, found in self.explicit.items() if setting in needed))
            named = [found.path for found in places if found is not None]
            self._siblings = list(_around(named))
        return self._siblings

    def _fitting(self, parts: Iterable[Part]) -> list[Part]:
        """The parts of the transformer's generation and variant; those that say so come before those that may be."""
        fitting = [part for part in parts if part.goes_with(self.generation, self.variant)]
        sure = [part for part in fitting if len(part.generations) == 1]
        return sure or fitting

    def _of_its_size(self, parts: list[Part]) -> list[Part]:
        """Of several text encoders those whose states the text projection takes, if there are any: folders may hold
        Gemma 3 in other sizes, too."""
        projection = self.chosen.get("text_projection")
        if projection is None or len(parts) < 2:
            return parts
        tensors = projection.checkpoint.names("text_projection").values()
        inputs = {info.shape[1] for info in tensors if len(info.shape) == 2}
        return [part for part in parts if _width_of_states(part) in inputs] or parts

    def _one(self, parts: Sequence[Part], role: Role, *, required: bool) -> Part:
        """The only part; of several that are equal the first.

        Raises:
            CheckpointError: there are several.
        """
        different = _different(parts)
        if len(different) == 1:
            return different[0]
        advice = f"; name one with {spelled(role.setting, 'FILE')}"
        raise CheckpointError(f"several {_plural(role)}: {_listed(different)}{advice}.")

    def _require_fitting(self, part: Part, role: Role) -> None:
        if self.generation is not None and self.generation not in part.generations:
            names = " or ".join(generation.name for generation in part.generations)
            hint = " (no gates)" if role.setting == "connectors" and names == "19b" else ""
            raise CheckpointError(
                f"{part.path}: {role.title} of generation {names}{hint}, but {self.lead.path.name} is of "
                f"{self.generation.name}; give the {role.title} of {self.generation.name}."
            )

    def _missing(self, role: Role, refused: Sequence[Part]) -> str:
        generation = f" of generation {self.generation.name}" if self.generation else ""
        if role is VIDEO_VAE and self.decoder is not None:
            said = spelled("video_decoder", self.decoder)
            text = f"{said} asks for a {wanted_vae(self.decoder)}: give it with {spelled(role.setting, 'FILE')}"
        else:
            text = (
                f"no {role.title}{generation}: give {spelled(role.setting, 'FILE')} "
                f"(usually {role.usual_file(self.generation)})"
            )
        if refused:
            others = [*dict.fromkeys(f"{part.path.name} ({_kind(part)})" for part in refused)]
            text += f"; not taken: {', '.join(others[:_MAX_LISTED])}"
        return text


@dataclass(frozen=True)
class _Place:
    """Where parts may be; ``is_new``: they were not named, and what is taken is told."""

    parts: Found
    is_new: bool


def parts_beside(part: Part) -> list[Part]:
    """All parts of the checkpoint that holds one."""
    return list(roles.parts_of(part.checkpoint))


def missing_parts(path: Path, gaps: Iterable[str]) -> CheckpointError:
    """The error for gaps that a run cannot do without."""
    found = list(gaps)
    instead = "folder with all files, or ComfyUI's models folder, can be given in place of"
    if len(found) == 1:
        return CheckpointError(f"{path}: {found[0]}. A {instead} it.")
    listed = "\n  ".join(found)
    return CheckpointError(
        f"{path}: parts of the model are missing, or are there more than once:\n  {listed}\nA {instead} them."
    )


def _width_of_states(encoder: Part) -> int | None:
    """Values per token of all hidden states of a text encoder; None where its tensors do not tell."""
    names = encoder.checkpoint.names("text_encoder")
    norm = names.get("norm.weight")
    layers = {int(found[1]) for name in names if (found := re.match(r"layers\.(\d{1,4})\.", name))}
    return (len(layers) + 1) * norm.shape[0] if norm is not None and norm.shape else None


def _role(setting: str) -> Role:
    return next(role for role in ROLES if role.setting == setting)


def _decoding(parts: Sequence[Part], role: Role, decoder: str | None) -> list[Part]:
    """The video VAEs with a decoder of a kind, of that which is taken by itself if none was asked for; other parts as
    they are."""
    if role is not VIDEO_VAE:
        return list(parts)
    if decoder is not None:
        return [part for part in parts if part.video_decoder == decoder]
    for kind in reversed(VIDEO_DECODERS):
        found = [part for part in parts if part.video_decoder == kind]
        if found:
            return found
    return list(parts)


def _no_decoder(found: Found, decoder: str | None) -> CheckpointError:
    assert decoder is not None  # without a wish every video VAE will do
    return CheckpointError(
        f"{found.path}: {spelled('video_decoder', decoder)} asks for a {wanted_vae(decoder)}, and this is another one; "
        f"give that file with {spelled(VIDEO_VAE.setting, 'FILE')}, or leave {spelled('video_decoder')} out."
    )


def _all_named(paths: Path | Sequence[Path], role: Role) -> Found:
    """What the paths hold that were given for a role; each must hold something of it."""
    found = [_named(path, role) for path in ((paths,) if isinstance(paths, Path) else paths)]
    if len(found) == 1:
        return found[0]
    refused = {path: why for one in found for path, why in one.refused.items()}
    return Found(found[0].path, tuple(part for one in found for part in one.parts), refused)


def _named(path: Path, role: Role) -> Found:
    """What a path holds that was given for a role.

    Raises:
        CheckpointError: nothing of that role.
    """
    found = find(path)
    if not found.of(role.components[0]):
        other = next((each for each in UPSCALERS if role in UPSCALERS and found.of(each.setting)), None)
        if other is not None:
            kinds = [each.setting.removesuffix("_upscaler") for each in (other, role)]
            raise CheckpointError(
                f"{found.path}: a {kinds[0]} upscaler, but a {kinds[1]} one is needed; give the other file."
            )
        raise CheckpointError(
            f"{found.path}: not a {role.title}: it holds {found.held}; see what it is with: ltx2rt inspect "
            f"{found.path.name}"
        )
    return found


def _leading(given: Found | None, explicit: Mapping[str, Found], roles: Sequence[Role]) -> Role:
    """The role whose part says which model it is."""
    there = [*explicit.values(), *([] if given is None else [given])]
    if TRANSFORMER in roles or any(found.of("transformer") for found in there):
        return TRANSFORMER
    return roles[0]


def _only(role: Role, given: Found | None, named: Found | None, variant: str | None, decoder: str | None) -> Part:
    """The only part of a role among what was given.

    Raises:
        CheckpointError: there is none, or there are several.
    """
    found = named or given
    if found is None:
        raise CheckpointError(f"there is no model; give {spelled('checkpoint', 'FILE')}.")
    candidates = found.of(role.components[0])
    if not candidates:
        lora = next((why for why in found.refused.values() if "LoRA" in why), "")
        raise CheckpointError(
            f"{found.path}: not a model checkpoint: it holds {found.held}; give the file of the {role.title} with "
            f"{spelled(role.setting, 'FILE')}, or see what this is with: ltx2rt inspect FILE {lora}".rstrip()
        )
    if variant is not None:
        candidates = [part for part in candidates if part.variant == variant] or candidates
    decoding = _decoding(candidates, role, decoder)
    if not decoding:
        raise _no_decoder(found, decoder)
    different = _different(decoding)
    if len(different) > 1:
        raise CheckpointError(
            f"{found.path}: several {_plural(role)}: {_listed(different)}; name one with "
            f"{spelled(role.setting, 'FILE')}."
        )
    return different[0]


def _different(parts: Sequence[Part]) -> list[Part]:
    """The parts without those that hold the same as an earlier one."""
    different: list[Part] = []
    for part in parts:
        same = (
            part.variant == other.variant and part.checkpoint.holds_the_same(other.checkpoint, part.stored)
            for other in different
        )
        if not any(same):
            different.append(part)
    return different


def _around(named: Sequence[Path]) -> Iterator[Found]:
    """What lies beside the named paths, place by place."""
    seen: set[Path] = set(named)
    folders = list(dict.fromkeys(path.parent for path in named if not path.is_dir()))
    for folder in folders:
        yield from _look_into(folder, seen)
    for enclosing in (repository_of, comfyui_root):
        for root in dict.fromkeys(root for path in named if (root := enclosing(path)) is not None):
            yield from _look_into(root, seen)
    beside = [folder if folder.is_dir() else folder.parent for folder in named]
    for folder in dict.fromkeys(beside):
        yield look(folder, _text_encoders_in(folder))


def _text_encoders_in(folder: Path) -> list[Unit]:
    """The text encoders in folders of their own in a folder; what nobody asked for and cannot be read is left aside."""
    found: list[Unit] = []
    try:
        for sub in sorted(path for path in folder.iterdir() if path.is_dir()):
            with suppress(CheckpointError, OSError):
                if is_text_encoder_folder(real := followed(sub)):
                    found += units_of(real)
    except OSError:
        return []
    return found


def _look_into(folder: Path, seen: set[Path]) -> Iterator[Found]:
    """What the files of a folder hold, without those that were looked at."""
    if folder in seen:
        return
    seen.add(folder)
    try:
        if layout_of(folder) not in ("flat", "comfyui"):
            yield find(folder)
            return
        units = [unit for unit in units_of(folder) if not seen.intersection((unit.path, *unit.files))]
    except (CheckpointError, OSError):
        return  # nobody asked for this folder
    seen.update(file for unit in units for file in unit.files)
    yield look(folder, units)


def _listed(parts: Sequence[Part]) -> str:
    names = [f"{part.path} ({_kind(part)})" for part in parts[:_MAX_LISTED]]
    more = len(parts) - _MAX_LISTED
    return ", ".join(names) + (f" and {more} more" if more > 0 else "")


def _kind(part: Part) -> str:
    words = [generation.name for generation in part.generations] if len(part.generations) < 3 else []
    return " or ".join(words) + (f" {part.variant}" if part.variant else "") if words else part.variant or "unknown"


def _plural(role: Role) -> str:
    return role.title if role.title.endswith("s") else f"{role.title}s"
