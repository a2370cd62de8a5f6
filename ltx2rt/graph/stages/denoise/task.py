"""What a denoising stage does, as far as its plan depends on it."""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

from ltx2rt.graph.diffusion.denoising import GuidancePass, plan_step
from ltx2rt.graph.diffusion.guidance import GuiderParams
from ltx2rt.graph.stages.denoise.machine_part import MachinePart
from ltx2rt.graph.stages.denoise.passes import Walk, in_walks
from ltx2rt.graph.stages.weight_set import fuse_dtype
from ltx2rt.types import Activations
from ltx2rt.weights.lora.file import LoraFile


@dataclass(frozen=True)
class DenoiseTask:
    """What a denoising stage does.

    Attributes:
        name: of the stage.
        video, audio: tokens; 0: absent.
        tiles: tokens of the video that each of its tiles sees; empty: the model sees all of them at once.
        masked: the video has an attention mask.
        text: tokens of a context.
        given_contexts: bytes of the contexts that the stage was given; the ledger counts them.
        prompts: how many contexts there are.
        evaluations: of the guided model.
        video_guider, audio_guider: guidance.
        max_batch_size: most passes that the user wants to go through a block together; None: what is fastest.
        loras: fused into the transformer.
        dtype: of the activations.
        activations: how 8-bit weights are multiplied with them.
        advice: what a user may change where it does not fit.
        part: what of it this machine does, of several; None: all.
    """

    name: str
    video: int
    audio: int
    tiles: tuple[int, ...]
    masked: bool
    text: int
    given_contexts: int
    prompts: int
    evaluations: int
    video_guider: GuiderParams
    audio_guider: GuiderParams
    max_batch_size: int | None
    loras: tuple[tuple[LoraFile, float], ...]
    dtype: mx.Dtype
    activations: Activations
    advice: str
    part: MachinePart | None = None

    @property
    def all_passes(self) -> tuple[GuidancePass, ...]:
        """The passes of an evaluation."""
        video = self.video_guider if self.video else None
        audio = self.audio_guider if self.audio else None
        return plan_step(video, audio, 0).passes

    @property
    def guidance(self) -> tuple[GuidancePass, ...]:
        """Those of them that this machine computes."""
        return self.all_passes if self.part is None else self.part.own(self.all_passes)

    @property
    def passes(self) -> int:
        """How many these are."""
        return len(self.guidance)

    @property
    def shares_tokens(self) -> bool:
        """Whether this machine works on some of the video's tokens."""
        return self.part is not None and self.part.shares_tokens

    def own(self, tokens: int) -> int:
        """How many of some tokens of the video it works on: one of a few that there are at least."""
        if self.part is None or not self.part.shares_tokens:
            return tokens
        return max(1, self.part.counts(tokens)[self.part.place])

    def rounds(self, walk: Walk) -> int:
        """How often the blocks are gone through."""
        return self.evaluations * len(self.calls) * len(in_walks(self.guidance, walk))

    @property
    def calls(self) -> tuple[int, ...]:
        """Tokens of the video in each of the model calls that make one pass."""
        return self.tiles or (self.video,)

    @property
    def streams(self) -> dict[str, bool]:
        """Which parts of the transformer are needed."""
        return {"video": self.video > 0, "audio": self.audio > 0}

    @property
    def fuse_dtype(self) -> mx.Dtype | None:
        """Of weights that LoRAs change."""
        return fuse_dtype(self.dtype)
