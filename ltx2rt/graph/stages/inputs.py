"""What a run is made from: decided settings, and inputs as arrays or as functions that give them at a stage's size."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import NamedTuple, Protocol

import mlx.core as mx

from ltx2rt.errors import UsageError
from ltx2rt.graph.diffusion.conditioning import evenly_spaced_keyframes
from ltx2rt.graph.diffusion.denoising import NO_GUIDANCE
from ltx2rt.graph.diffusion.guidance import GuiderParams
from ltx2rt.graph.diffusion.latent_geometry import counted_from_start, snapped_frames
from ltx2rt.graph.diffusion.windows import DEFAULT_CARRY, DEFAULT_WINDOW, Window, window_keyframes, window_plan
from ltx2rt.graph.settings.settings import Settings
from ltx2rt.spelling import spelled
from ltx2rt.types import Array
from ltx2rt.weights.kept_prompts import KeptPrompts

_SOME_RATE = Fraction(24)


@dataclass(frozen=True)
class ImageCondition:
    """An image that the clip shows at a pixel frame.

    Attributes:
        pixels: called with (height, width), returns float32 (height, width, 3) in [-1, 1].
        frame_index: pixel frame of the clip.
        strength: 1 keeps the image exactly, 0 leaves the frame free.
        reading_bytes: what reading it takes.
    """

    pixels: Callable[[int, int], Array]
    frame_index: int = 0
    strength: float = 1.0
    reading_bytes: int = 0

    def stream(self, height: int, width: int) -> FrameStream:
        """The image as a clip of one frame, read when it is wanted."""

        def read() -> Generator[Array, None, None]:
            yield self.pixels(height, width)

        return FrameStream((1, height, width, 3), read)


@dataclass(frozen=True)
class FrameStream:
    """Frames that are read one by one, as often as they are wanted, and never lie in memory together.

    Attributes:
        shape: (F, H, W, 3).
        read: called, it begins with the first frame: (H, W, 3) uint8, or float32 in [-1, 1], F of them.
    """

    shape: tuple[int, int, int, int]
    read: Callable[[], Generator[Array, None, None]]

    @classmethod
    def of(cls, frames: Array) -> FrameStream:
        """Of frames that do lie in memory."""

        def read() -> Generator[Array, None, None]:
            yield from frames

        count, height, width = frames.shape[:3]
        return cls((count, height, width, 3), read)

    def selected(self, places: Sequence[int]) -> FrameStream:
        """Some of the frames, by their places, which rise."""

        def read() -> Generator[Array, None, None]:
            wanted = iter(places)
            place = next(wanted, None)
            with closing(self.read()) as frames:
                for index, frame in enumerate(frames):
                    if place is None:
                        return
                    if index == place:
                        yield frame
                        place = next(wanted, None)

        return FrameStream((len(places), *self.shape[1:]), read)


@dataclass(frozen=True)
class ReferenceVideo:
    """A control video of an IC-LoRA.

    Attributes:
        frames: called with (height, width, part), returns those of the frames ``part`` that there are, of that size.
        strength: 1 keeps the reference clean.
        reading_bytes: what reading them takes.
    """

    frames: Callable[[int, int, range], FrameStream]
    strength: float = 1.0
    reading_bytes: int = 0

    def of_window(self, window: Window) -> ReferenceVideo:
        """The part of it that belongs to a window; a reference that ends earlier has no frames there."""

        def frames(height: int, width: int, part: range) -> FrameStream:
            return self.frames(height, width, _moved(part, window.start))

        return replace(self, frames=frames)


@dataclass(frozen=True)
class AttentionMask:
    """How strongly the clip attends to its reference videos, place by place.

    Attributes:
        weights: called with (height, width, part), returns float32 (F, height, width) in [0, 1] of those of the frames
            ``part`` that there are; None = 1 everywhere.
        strength: factor in [0, 1].
    """

    weights: Callable[[int, int, range], Array] | None = None
    strength: float = 1.0

    def of_window(self, window: Window) -> AttentionMask:
        """The part of it that belongs to a window."""
        whole = self.weights
        if whole is None:
            return self

        def weights(height: int, width: int, part: range) -> Array:
            wanted = _moved(part, window.start)
            frames = whole(height, width, wanted)
            if len(frames) < len(wanted):
                raise UsageError(
                    f"{spelled('conditioning_attention_mask')} has {wanted.start + len(frames)} frames but chunk needs "
                    f"[{wanted.start}, {wanted.stop}); give one as long as the clip."
                )
            return frames

        return replace(self, weights=weights)


def _moved(part: range, start: int) -> range:
    """Frames of a window, counted in the clip; ``start``: of the window."""
    return range(start + part.start, start + part.stop)


@dataclass(frozen=True)
class SoundInput:
    """A waveform.

    Attributes:
        waveform: float32 (S, 2) in [-1, 1].
        sample_rate: Hz.
    """

    waveform: Array
    sample_rate: int


class OwnPictures(Protocol):
    """Pictures of a clip as its file has them, and the way from the model's pictures to their size."""

    @property
    def height(self) -> int: ...

    @property
    def width(self) -> int: ...

    @property
    def reading_bytes(self) -> int:
        """What reading them takes."""

    def read(self) -> Generator[Array, None, None]:
        """All of them from the first one, (height, width, 3) uint8, or ACEScct as float32 in [0, 1]."""

    def size(self, scale: Fraction) -> tuple[int, int]:
        """(height, width) of pictures ``scale`` times as large."""

    def restored(self, picture: Array, own: Array | None, scale: Fraction) -> Array:
        """A picture of the model at the clip's own size, times ``scale``.

        Args:
            picture: (H, W, 3) float32 in [0, 1].
            own: the clip's picture at that time, which fills what was cut off for the model; None: there is none.
            scale: how much larger than the model's source the picture is.
        """


@dataclass(frozen=True)
class Edit:
    """What becomes of a clip that is edited: which frames the result has, and where each of them comes from.

    Frames are counted in the result.

    Attributes:
        num_frames: of the result.
        source: frames of the clip.
        model: frames that the model sees, the clip's nearest picture standing where it has none.
        pictures: the clip's own.
        sound: the clip's whole sound; None: it has none.
        sound_range: seconds of the result in which the sound is made anew.
        keeps_pictures, keeps_sound: what is kept is taken from the clip; False: all passes through the VAE, as in the
            official code.
        words: what a user should know: what was cut or filled for the model.
    """

    num_frames: int
    source: range
    model: range
    pictures: OwnPictures
    sound: SoundInput | None
    sound_range: tuple[float, float] = (0.0, 0.0)
    keeps_pictures: bool = True
    keeps_sound: bool = True
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class SourceClip:
    """A clip that is edited, as the model sees it.

    Attributes:
        frames: F is 8*k + 1, H and W are multiples of 32.
        frame_rate: frames per second.
        sound: its sound, if any.
        edit: what the result is put together from.
    """

    frames: FrameStream
    frame_rate: Fraction
    sound: SoundInput | None
    edit: Edit


@dataclass(frozen=True)
class HdrInput:
    """Pictures that are converted to high dynamic range, as the model sees them.

    Attributes:
        frames: ACEScct codes in [-1, 1] as float32; F is 8*k + 1, H and W are multiples of 32.
        height, width: of the pictures themselves, to which the result is cut.
        every: of how many frames one is kept.
        seams: frames with a key frame, counted in ``frames``.
        reading_bytes: what reading them takes.
        words: what a user should know.
    """

    frames: FrameStream
    height: int
    width: int
    every: int = 1
    seams: tuple[int, ...] = ()
    reading_bytes: int = 0
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class TimeRange:
    """Seconds [start, end) of what the model sees that are generated anew, and in which streams.

    Attributes:
        sound_range: the same for the sound, where it differs.
    """

    start_s: float
    end_s: float
    video: bool = True
    audio: bool = True
    sound_range: tuple[float, float] | None = None


@dataclass(frozen=True)
class Media:
    """Everything that conditions a run besides the text.

    Attributes:
        images: applied in order.
        references, attention_mask: control videos of an IC-LoRA, and where the clip attends to them.
        sound: drives the video.
        reference_sound: the whole sound of a clip that is dubbed, whose voice is kept.
        num_frames, frame_rate: of the clip, where given media decide; None: as the settings say.
        source, region: the clip that is edited, and where.
        hdr: what is converted to high dynamic range.
    """

    images: tuple[ImageCondition, ...] = ()
    references: tuple[ReferenceVideo, ...] = ()
    attention_mask: AttentionMask | None = None
    sound: SoundInput | None = None
    reference_sound: SoundInput | None = None
    num_frames: int | None = None
    frame_rate: Fraction | None = None
    source: SourceClip | None = None
    region: TimeRange | None = None
    hdr: HdrInput | None = None

    def placed(self, num_frames: int) -> Media:
        """The same for a clip whose length is known now: images that count from the end, -1 being the last frame."""
        images = (
            replace(image, frame_index=counted_from_start(image.frame_index, num_frames)) for image in self.images
        )
        return replace(self, images=tuple(images))

    def of_window(self, window: Window) -> Media:
        """What conditions a window: its own images, and its part of references and mask; frames are counted in it."""
        own = (image for image in self.images if window.owns(image.frame_index))
        return replace(
            self,
            images=tuple(replace(image, frame_index=window.local(image.frame_index)) for image in own),
            references=tuple(reference.of_window(window) for reference in self.references),
            attention_mask=None if self.attention_mask is None else self.attention_mask.of_window(window),
        )


class PromptContext(NamedTuple):
    """What the transformer reads: video (B, 1024, Cv) and audio (B, 1024, Ca)."""

    video: mx.array
    audio: mx.array


class DurationRange(NamedTuple):
    """What a predicted length may give: the shortest and the longest clip in seconds, of ``step``*k + 1 frames."""

    shortest_s: float
    longest_s: float
    step: int

    def frames(self, seconds: float, frame_rate: Fraction) -> int:
        """How many frames a clip of about ``seconds`` has: rounded down, or up where it would be too short.

        Source: Lightricks/LTX-2 ltx_pipelines/utils/blocks.py @ v1.2.0.
        """
        rate = float(frame_rate)
        frames = snapped_frames(round(min(max(seconds, self.shortest_s), self.longest_s) * rate), self.step)
        return frames if frames >= self.shortest_s * rate else frames + self.step


@dataclass(frozen=True)
class GenerationInputs:
    """Decided settings with opened inputs.

    Attributes:
        settings: with nothing left open that the pipeline uses.
        height, width: final size in pixels.
        num_frames: 8*k + 1; with a ``duration`` the most it can be.
        frame_rate: frames per second.
        duration: the length is still to be predicted, within this range; None: it is ``num_frames``.
        media: conditions besides the text.
        context, negative_context: text contexts in place of the text encoder.
        video_guider, audio_guider: guidance of guided pipelines.
        fixed_schedule: the distilled schedule, without guidance.
        dtype: of activations.
        frames_per_latent: of the video VAE.
        kept_prompts: encoded prompts of earlier runs; None: all are encoded, and none is kept.
    """

    settings: Settings
    height: int
    width: int
    num_frames: int
    frame_rate: Fraction
    media: Media = field(default_factory=Media)
    context: PromptContext | None = None
    negative_context: PromptContext | None = None
    video_guider: GuiderParams = NO_GUIDANCE
    audio_guider: GuiderParams = NO_GUIDANCE
    fixed_schedule: bool = False
    duration: DurationRange | None = None
    dtype: mx.Dtype = mx.bfloat16
    frames_per_latent: int = 8
    kept_prompts: KeptPrompts | None = None

    @classmethod
    def without_clip(
        cls, settings: Settings, *, frame_rate: Fraction = _SOME_RATE, dtype: mx.Dtype = mx.bfloat16
    ) -> GenerationInputs:
        """Of runs that denoise nothing: the size is legal and not used."""
        return cls(settings, height=64, width=64, num_frames=1, frame_rate=frame_rate, dtype=dtype)

    @property
    def is_hdr(self) -> bool:
        """Whether frames are ACEScct, and become high dynamic range."""
        return self.settings.hdr_space is not None

    @property
    def encoder_dtype(self) -> mx.Dtype:
        """Of the video encoder's activations."""
        return self.dtype if self.media.hdr is None else mx.float32

    @property
    def decoder_dtype(self) -> mx.Dtype:
        """Of the video decoder's activations."""
        return mx.float32 if self.is_hdr else self.dtype

    @property
    def prompt(self) -> str:
        return self.settings.prompt or ""

    @property
    def shortest(self) -> GenerationInputs:
        """Of a clip whose length is still to be predicted: with a range that is only the shortest one that has room for
        images and key frames. Of any other clip these inputs."""
        if self.duration is None:
            return self
        shortest = self.duration.frames(self.duration.shortest_s, self.frame_rate)
        for frames in range(shortest, self.num_frames + 1, self.duration.step):
            seconds = frames / float(self.frame_rate)
            found = replace(self, num_frames=frames, duration=DurationRange(seconds, seconds, self.duration.step))
            with suppress(UsageError):
                found.check()
                return found
        return self

    @property
    def keyframe_positions(self) -> tuple[int, ...]:
        """Pixel frames of the key frames that are generated besides the clip.

        Raises:
            UsageError: the clip is too short for so many.
        """
        asked = self.settings.num_generated_keyframes
        if isinstance(asked, tuple):
            return asked
        if not asked:
            return ()
        windows = self.windows
        return window_keyframes(windows, asked) if len(windows) > 1 else evenly_spaced_keyframes(asked, self.num_frames)

    @property
    def whole(self) -> Window:
        """The clip as one window."""
        return Window.whole(self.num_frames)

    @property
    def windows(self) -> tuple[Window, ...]:
        """The windows in which the clip is made; one where it is made at once.

        Raises:
            UsageError: their sizes do not fit each other or the clip.
        """
        settings = self.settings
        if not settings.chunked:
            return (self.whole,)
        carry = DEFAULT_CARRY if settings.chunk_carry_frames is None else settings.chunk_carry_frames
        return window_plan(
            self.num_frames,
            window=settings.chunk_pixel_frames or DEFAULT_WINDOW,
            carry=carry,
            blend=carry if settings.chunk_blend_frames is None else settings.chunk_blend_frames,
            step=self.frames_per_latent,
        )

    def of_window(self, window: Window) -> GenerationInputs:
        """The inputs of a window as those of a clip of its own: its length, images, references and key frames."""
        places = tuple(window.local(place) for place in self.keyframe_positions if window.owns(place))
        return replace(
            self,
            num_frames=window.frames,
            media=self.media.of_window(window),
            settings=replace(self.settings, chunked=False, num_generated_keyframes=places),
        )

    @property
    def steps(self) -> int:
        """Sampler steps of the guided stage."""
        return self.settings.num_inference_steps or 1

    def check(self) -> None:
        """Raise UsageError for values that no pipeline can work with; sizes are checked by each pipeline."""
        first = 0 if self.duration is None else -self.num_frames  # of the last frames, see Media.placed
        for image in self.media.images:
            if not first <= image.frame_index < self.num_frames:
                raise UsageError(
                    f"image frame index must be 0 to {self.num_frames - 1} for this clip, got {image.frame_index}."
                )
        frames = [image.frame_index for image in self.media.images]
        repeated = sorted({frame for frame in frames if frames.count(frame) > 1})
        if repeated:
            raise UsageError(
                f"{spelled('images')}: two of them stand at frame {repeated[0]}, of which the clip could show one "
                "alone; give each its own frame."
            )
        _ = self.windows  # whose sizes must fit
        places = self.keyframe_positions
        if places and places[-1] >= self.num_frames:
            raise UsageError(
                f"{spelled('num_generated_keyframes')}: frame {places[-1]} is outside the clip of {self.num_frames} "
                f"frames; use 0 to {self.num_frames - 1}."
            )
