"""What a pipeline says about itself; help, docs, checks, plans, sidecars and the Python interface are derived."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from ltx2rt.graph.diffusion.latent_geometry import VideoLatentShape
from ltx2rt.graph.pipelines.defaults import GenerationDefaults
from ltx2rt.graph.settings.settings import AUDIO_GUIDANCE, VIDEO_GUIDANCE, Settings
from ltx2rt.graph.stages.inputs import GenerationInputs, Media
from ltx2rt.graph.stages.media_inputs import open_images
from ltx2rt.graph.stages.run import GeneratedClip, Run
from ltx2rt.graph.stages.weight_set import WeightSet


def _unchanged(defaults: GenerationDefaults) -> GenerationDefaults:
    return defaults


@dataclass(frozen=True)
class PipelineEntry:
    """One pipeline.

    Attributes:
        name: as users give it.
        summary: one line for users.
        checkpoint: the kind of checkpoint it needs, and what it needs beside it, for users.
        size: what height and width must be, for users.
        example: words of a command that runs without weight files; ``{clip}`` is a clip with sound, ``{image}`` a
            picture.
        example_shows: what that is where the embedded model cannot run the pipeline; empty: the pipeline.
        topics: of the settings that it takes.
        check: raises when the inputs and the files cannot work; loads nothing.
        generate: runs it.
        open_media: opens what conditions it besides the text.
        instead: settings that it does not take -> what to give in their place.
        files: weight files besides the checkpoint and the text encoder that it needs, by their names in `WeightFiles`.
        variant: the checkpoint that it is made for; None: either, and its schedule follows the checkpoint.
        two_stage: renders at half size first.
        first_shape: what its first stage makes of the video; None: the clip, at that size.
        output: what it makes.
        silent: its pictures have no sound.
        adjusted: its defaults, from those of the generation.
        enhancement_seed: of the prompt enhancement where the official code does not hand on the user's seed.
        aliases: names in other programs.
        automatic: whether it is what ``text-to-video`` means for its variant.
    """

    name: str
    summary: str
    checkpoint: str
    size: str
    example: str
    topics: frozenset[str]
    check: Callable[[GenerationInputs, WeightSet], None]
    generate: Callable[[Run], GeneratedClip]
    open_media: Callable[[Settings, WeightSet], Media] = open_images
    example_shows: str = ""
    instead: Mapping[str, str] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    variant: Literal["distilled", "dev"] | None = "dev"
    two_stage: bool = False
    first_shape: Callable[[GenerationInputs, WeightSet], VideoLatentShape] | None = None
    output: Literal["video", "sound"] = "video"
    silent: bool = False
    adjusted: Callable[[GenerationDefaults], GenerationDefaults] = _unchanged
    enhancement_seed: int | None = None
    aliases: tuple[str, ...] = ()
    automatic: bool = False

    @property
    def is_guided(self) -> bool:
        """Whether it can use negative prompt, steps and guidance strengths."""
        return bool(self.topics & {VIDEO_GUIDANCE, AUDIO_GUIDANCE})

    def has_fixed_schedule(self, variant: str) -> bool:
        """Whether it takes the distilled schedule, without guidance, with a checkpoint of this variant."""
        return self.variant == "distilled" or (self.variant is None and variant == "distilled")
