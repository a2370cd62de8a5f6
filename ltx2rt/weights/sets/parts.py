"""The parts of a model that files hold: which one, of which generation and variant, and from where."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ltx2rt.errors import CheckpointError
from ltx2rt.weights.checkpoint import Checkpoint
from ltx2rt.weights.generations import Generation, possible_generations
from ltx2rt.weights.inferred_config import upscaler_section
from ltx2rt.weights.names.official import DIFFUSION_PARTS
from ltx2rt.weights.sets.units import Unit, followed, shards_of, units_of


@dataclass(frozen=True)
class Role:
    """What a model needs from files, and how it is given.

    Attributes:
        setting: the argument of `ltx2rt.load` that gives it.
        components: what it consists of; the first one must be there.
        title: for people.
        usual: name of the usual file, by generation; ``""`` for any.
    """

    setting: str
    components: tuple[str, ...]
    title: str
    usual: Mapping[str, str]

    def usual_file(self, generation: Generation | None) -> str:
        name = generation.name if generation else ""
        return self.usual.get(name) or self.usual.get("") or next(iter(self.usual.values()))


TRANSFORMER = Role(
    "transformer",
    ("transformer",),
    "transformer",
    {"19b": "ltx-2-19b-distilled.safetensors", "": "ltx-2.3-22b-distilled.safetensors"},
)
CONNECTORS = Role(
    "connectors",
    ("video_connector", "audio_connector"),
    "connectors",
    {
        "19b": "ltx-2-19b-embeddings_connector_dev_bf16.safetensors",
        "2.3": "ltx-2.3-22b-embeddings_connectors.safetensors",
        "": "in the transformer's file",
    },
)
TEXT_PROJECTION = Role(
    "text_projection",
    ("text_projection",),
    "text projection",
    {
        "19b": "ltx-2-19b-embeddings_connector_dev_bf16.safetensors",
        "2.3": "ltx-2.3_text_projection_bf16.safetensors",
        "2.5": "gemma4-12b-with-proj-ltx-2.5-bf16.safetensors",
    },
)
TEXT_ENCODER = Role(
    "text_encoder",
    ("text_encoder", "text_assets"),
    "text encoder",
    {
        "2.5": "gemma4-12b-with-proj-ltx-2.5-bf16.safetensors",
        "": "gemma_3_12B_it.safetensors, or the folder of Gemma 3",
    },
)
VIDEO_VAE = Role(
    "video_vae",
    ("video_vae",),
    "video VAE",
    {
        "19b": "LTX2_video_vae_bf16.safetensors",
        "2.3": "LTX23_video_vae_bf16.safetensors",
        "2.5": "ltx-2.5-video-vae-bf16.safetensors",
    },
)
AUDIO_VAE = Role(
    "audio_vae",
    ("audio_vae",),
    "audio VAE",
    {
        "19b": "LTX2_audio_vae_bf16.safetensors",
        "2.3": "LTX23_audio_vae_bf16.safetensors",
        "2.5": "ltx-2.5-audio-vae-bf16.safetensors",
    },
)
VOCODER = Role("vocoder", ("vocoder",), "vocoder", AUDIO_VAE.usual)
DURATION_HEAD = Role(
    "duration_head", ("duration_head",), "duration head", {"2.5": "ltx-2.5-duration-head-bf16.safetensors"}
)
SPATIAL_UPSCALER = Role(
    "spatial_upscaler",
    ("spatial_upscaler",),
    "spatial upscaler",
    {"19b": "ltx-2-spatial-upscaler-x2-1.0.safetensors", "": "ltx-2.3-spatial-upscaler-x2-1.1.safetensors"},
)
TEMPORAL_UPSCALER = Role(
    "temporal_upscaler",
    ("temporal_upscaler",),
    "temporal upscaler",
    {"19b": "ltx-2-temporal-upscaler-x2-1.0.safetensors", "": "ltx-2.3-temporal-upscaler-x2-1.0.safetensors"},
)

# Every role but the transformer's: those without which no clip is made, and the others.
NEEDED = (CONNECTORS, TEXT_PROJECTION, TEXT_ENCODER, VIDEO_VAE, AUDIO_VAE, VOCODER)
UPSCALERS = (SPATIAL_UPSCALER, TEMPORAL_UPSCALER)
# What encoding a text reads, beside the transformer's header.
TEXT = (TRANSFORMER, CONNECTORS, TEXT_PROJECTION, TEXT_ENCODER)
OPTIONAL = (DURATION_HEAD, *UPSCALERS)
ROLES = (TRANSFORMER, *NEEDED, *OPTIONAL)
TITLES = {role.setting: role.title for role in ROLES}


# Kinds of decoders that a video VAE may have, and what they are called; where there are several, the last one is taken.
VIDEO_DECODERS = ("conv", "diffusion")
_DECODERS = {"conv": "convolutional decoder", "diffusion": "diffusion decoder"}
# The published file of a kind, where there are several.
_USUAL_VAE = {"conv": "ltx-2.5-video-vae-conv-bf16.safetensors", "diffusion": "ltx-2.5-video-vae-bf16.safetensors"}


def wanted_vae(decoder: str) -> str:
    """A video VAE with the decoder of a kind, for errors."""
    return f"video VAE with the {_DECODERS[decoder]} ({_USUAL_VAE[decoder]})"


@dataclass(frozen=True)
class Part:
    """One component in one place.

    Attributes:
        component: as the model calls it: a latent upscaler is a ``spatial_upscaler`` or a ``temporal_upscaler``.
        checkpoint: what holds it.
        generations: those that it may belong to.
        variant: ``dev`` or ``distilled``, where that is told.
    """

    component: str
    checkpoint: Checkpoint
    generations: tuple[Generation, ...]
    variant: str | None

    @property
    def path(self) -> Path:
        return self.checkpoint.path

    @property
    def stored(self) -> str:
        """Name of the component in its checkpoint."""
        return "upscaler" if self.component.endswith("_upscaler") else self.component

    @property
    def video_decoder(self) -> str | None:
        """Kind of the decoder of a video VAE; None: it has none."""
        names = self.checkpoint.names(self.stored)
        if any(name.startswith(DIFFUSION_PARTS) for name in names):
            return "diffusion"
        return "conv" if any(name.startswith("decoder.") for name in names) else None

    def goes_with(self, generation: Generation | None, variant: str | None) -> bool:
        """Whether nothing that it tells contradicts these."""
        generations_agree = generation is None or generation in self.generations
        return generations_agree and (None in (variant, self.variant) or variant == self.variant)


@dataclass(frozen=True)
class Found:
    """What a path holds.

    Attributes:
        path: as it was followed.
        parts: in the order of the files.
        refused: file -> why it is not read, for files of other models and damaged ones.
    """

    path: Path
    parts: tuple[Part, ...]
    refused: Mapping[Path, str] = field(default_factory=dict)

    def of(self, component: str) -> list[Part]:
        """The parts that are this component."""
        return [part for part in self.parts if part.component == component]

    @property
    def held(self) -> str:
        """The components, for errors."""
        return ", ".join(dict.fromkeys(part.component for part in self.parts)) or "nothing of an LTX-2 model"


def parts_of(checkpoint: Checkpoint) -> Iterator[Part]:
    """The parts that one file, or several that are read as one, holds."""
    possible = possible_generations(checkpoint.metadata, {c: checkpoint.names(c) for c in checkpoint.components})
    variant = checkpoint.variant
    for component in sorted(checkpoint.components):
        name = _upscaler(checkpoint) if component == "upscaler" else component
        yield Part(name, checkpoint, possible, variant)


def find(path: Path) -> Found:
    """What a file or a folder holds.

    Raises:
        CheckpointError: the path is missing, a file of another kind, or a folder without anything that is known.
    """
    path = followed(path)
    if not path.is_dir():
        shards = shards_of(path)
        whole = Checkpoint.open(path) if shards is None else Checkpoint.of_units(shards.path, [shards])
        return Found(path, tuple(parts_of(whole)))
    units = units_of(path)
    if len(units) == 1:
        return Found(path, tuple(parts_of(Checkpoint.of_units(path, units))))
    found = look(path, units)
    if not found.parts:
        raise next(iter(_errors(found)))
    return found


def look(path: Path, units: Iterable[Unit]) -> Found:
    """What some units hold, those that cannot be read left aside."""
    parts: list[Part] = []
    refused: dict[Path, str] = {}
    for unit in units:
        try:
            parts += parts_of(Checkpoint.of_units(unit.path, [unit]))
        except CheckpointError as error:
            refused[unit.path] = str(error)
    return Found(path, tuple(parts), refused)


def _errors(found: Found) -> Iterator[CheckpointError]:
    first = next(iter(found.refused.values()), "")
    more = f" (and {len(found.refused) - 1} more)" if len(found.refused) > 1 else ""
    yield CheckpointError(f"{found.path}: no file in this folder belongs to an LTX-2 model. {first}{more}")


def _upscaler(checkpoint: Checkpoint) -> str:
    section = checkpoint.section("upscaler") or upscaler_section(checkpoint.names("upscaler"), str(checkpoint.path))
    in_time = section.get("temporal_upsample", False) and not section.get("spatial_upsample", True)
    return "temporal_upscaler" if in_time else "spatial_upscaler"
