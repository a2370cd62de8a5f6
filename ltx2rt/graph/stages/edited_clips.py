"""Opens clips that are edited or enlarged: fits them to the model and says how the result is put together again."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np

from ltx2rt.errors import MediaError, UsageError
from ltx2rt.graph.components import VIDEO_VAE
from ltx2rt.graph.models.video_vae.config import VideoVaeConfig
from ltx2rt.graph.settings.settings import Settings
from ltx2rt.graph.stages.inputs import Edit, FrameStream, Media, SoundInput, SourceClip, TimeRange
from ltx2rt.graph.stages.media_inputs import exr_space
from ltx2rt.graph.stages.weight_set import WeightSet
from ltx2rt.media.clip_reader import ClipReader
from ltx2rt.media.exr import ExrFolder, is_exr
from ltx2rt.media.grid_fit import GridFit
from ltx2rt.media.hdr import acescct_of_srgb
from ltx2rt.media.pixel_range import to_unit_range
from ltx2rt.spelling import spelled
from ltx2rt.types import Array

DEFAULT_FIT = "pad"
_SOUND_MARGIN_S = 0.06
# Codecs of sound fill their last block; what reaches further behind the last picture was recorded.
_FILLED_S = 0.1


class _AcescctReader(ClipReader):
    """A clip whose pictures become ACEScct."""

    def frames(self, limit: int | None = None, start: int = 0) -> Generator[Array, None, None]:
        for picture in super().frames(limit, start):
            yield acescct_of_srgb(to_unit_range(picture))


class _ExrReader:
    """EXR frames as a silent clip of ACEScct; see `ClipReader`."""

    sample_rate = None

    def __init__(self, path: Path, settings: Settings) -> None:
        self._space = exr_space(path, settings)
        self._folder = ExrFolder.open(path)
        if settings.frame_rate is None:
            raise UsageError(
                f"an EXR-frame folder requires {spelled('frame_rate')}: the files do not say how fast they are shown."
            )
        self.frame_rate = settings.frame_rate
        self.num_frames = len(self._folder.frames)
        self.height, self.width = self._folder.height, self._folder.width
        self.reading_bytes = self._folder.reading_bytes
        self.notes: list[str] = []

    def frames(self) -> Generator[Array, None, None]:
        for frame in self._folder.read():
            yield self._space.to_acescct(frame)

    def sound(self) -> None:
        return None


def _reader(path: Path, settings: Settings) -> ClipReader | _ExrReader:
    """What reads a clip, or EXR frames, as the settings say."""
    if is_exr(path):
        return _ExrReader(path, settings)
    if settings.frame_rate is not None:
        raise UsageError(
            f"{spelled('frame_rate')} is only valid for an EXR-frame folder; a clip keeps its own, leave it out."
        )
    kind = ClipReader if settings.hdr is None else _AcescctReader
    return kind(path, source_color=settings.source_color)


@dataclass(frozen=True)
class OwnClip:
    """A clip as its file has it, and how its pictures fit the model.

    Attributes:
        name: for messages.
        num_frames, frame_rate: of the clip.
        pictures: called, it begins with the first one: (H, W, 3) uint8, or ACEScct as float32 in [0, 1].
        fit: of these, whose sides are even.
        sound: all of it; None: it has none.
        reading_bytes: what reading its pictures takes.
        notes: what its reader has to say.
    """

    name: str
    num_frames: int
    frame_rate: Fraction
    pictures: Callable[[], Iterator[Array]]
    fit: GridFit
    sound: SoundInput | None
    reading_bytes: int = 0
    notes: tuple[str, ...] = ()

    @classmethod
    def open(cls, path: Path, settings: Settings, vae: VideoVaeConfig) -> OwnClip:
        """Read what the file says, and its sound; with high dynamic range its pictures become ACEScct.

        Raises:
            UsageError: its size or its number of frames does not fit, and nothing may be fitted; or a frame rate is
                given for a clip, or none for EXR frames.
            MediaError: the file cannot be read.
        """
        reader = _reader(path, settings)
        # Files of video have even sides; what was read from another kind of file is cut by a row.
        height, width = (side // 2 * 2 for side in (reader.height, reader.width))
        way = settings.fit or DEFAULT_FIT
        frames, step, side, least = reader.num_frames, vae.temporal_factor, vae.spatial_factor, vae.least_side
        is_odd = (height, width) != (reader.height, reader.width)
        unfit = is_odd or height % side or width % side or min(height, width) < least
        if way == "error" and (frames % step != 1 % step or unfit):
            raise UsageError(
                f"{path} has {frames} frames of {reader.width}x{reader.height}; with {spelled('fit', 'error')} the "
                f"number must be {step}*k + 1 and both sides multiples of {side}, from {least} on. Give "
                f"{spelled('fit', DEFAULT_FIT)}, crop or stretch."
            )
        fit = GridFit.of(height, width, side, way, str(path), least=least)
        sound, heard = reader.sound(), None
        if sound is not None and reader.sample_rate is not None:
            heard = SoundInput(sound.T.copy(), reader.sample_rate)
        notes = tuple(reader.notes)
        seconds = 0.0 if heard is None else len(heard.waveform) / heard.sample_rate
        if (beyond_s := seconds - frames / float(reader.frame_rate)) > _FILLED_S:
            notes = (*notes, f"{path}: its sound goes on for {beyond_s:.2f} s after the pictures, which is left out")
        if is_odd:
            cut = f"{reader.width}x{reader.height} is cut to {width}x{height}"
            notes = (*notes, f"{path}: {cut}, files of video have even sides")
        return cls(str(path), frames, reader.frame_rate, reader.frames, fit, heard, reader.reading_bytes, notes)

    @property
    def seconds(self) -> float:
        """Length of the pictures."""
        return self.num_frames / float(self.frame_rate)

    @property
    def height(self) -> int:
        return self.fit.height

    @property
    def width(self) -> int:
        return self.fit.width

    def read(self) -> Generator[Array, None, None]:
        """All pictures, (height, width, 3) uint8, or ACEScct as float32 in [0, 1].

        Raises:
            MediaError: the file cannot be read, or has another number of pictures than it had.
        """
        count = 0
        for picture in self.pictures():
            if count == self.num_frames:
                break
            yield picture[: self.height, : self.width]
            count += 1
        if count < self.num_frames:
            raise MediaError(
                f"{self.name} claims {self.num_frames} frames but holds {count}; it is damaged or was changed. "
                "Convert it first."
            )

    def size(self, scale: Fraction) -> tuple[int, int]:
        """See `OwnPictures`."""
        return self.fit.size(scale)

    def restored(self, picture: Array, own: Array | None, scale: Fraction) -> Array:
        """See `OwnPictures`."""
        return self.fit.restored(picture, own, scale)

    def for_model(self, places: range) -> FrameStream:
        """What the model sees: ``places`` are counted from the clip's first frame, and may lie outside the clip."""

        def frames() -> Generator[Array, None, None]:
            shown = -1
            picture: Array | None = None
            with closing(self.read()) as pictures:
                for place in places:
                    wanted = min(max(place, 0), self.num_frames - 1)
                    while shown < wanted:
                        picture, shown = next(pictures), shown + 1
                    assert picture is not None
                    seen = self.fit.to_grid(picture)
                    yield seen if seen.dtype == np.uint8 else seen * np.float32(2) - np.float32(1)

        return FrameStream((len(places), self.fit.grid_height, self.fit.grid_width, 3), frames)

    def sound_from(self, first_frame: int) -> SoundInput | None:
        """The sound from a frame on; from a frame before the first one it begins with silence."""
        if self.sound is None:
            return None
        start = round(first_frame / float(self.frame_rate) * self.sound.sample_rate)
        waveform = self.sound.waveform
        heard = waveform[start:] if start >= 0 else np.pad(waveform, ((-start, 0), (0, 0)))
        return replace(self.sound, waveform=heard)


def open_retake(settings: Settings, files: WeightSet) -> Media:
    """The clip that is edited, and the range that is made anew, see `retake_of`."""
    vae = files.config(VIDEO_VAE)
    return retake_of(OwnClip.open(_edited(settings), settings, vae), settings, vae)


def retake_of(own: OwnClip, settings: Settings, vae: VideoVaeConfig) -> Media:
    """A clip and the range of it that is made anew.

    The model sees 8*k + 1 frames: those at the end that are too many are left out, or where the range reaches them
    the last one is repeated.

    Raises:
        UsageError: a missing time, or a range that is empty or outside the clip.
    """
    region, clamped = _retake_range(settings, own)
    down, up = _frames_below(own.num_frames, vae), _frames_above(own.num_frames, vae)
    # A clip without sound gets new sound over its whole length.
    needs_all = region.audio and own.sound is None
    # Generated sound is up to 50 ms shorter than the pictures, and must not end before the range does.
    reaches_end = region.end_s > down / float(own.frame_rate) - _SOUND_MARGIN_S
    model = range(down if _keeps_pictures(settings) and not needs_all and not reaches_end else up)
    words = [own.fit.words, clamped, _length_words(own, model)]
    edit = Edit(
        num_frames=own.num_frames,
        source=range(own.num_frames),
        model=model,
        pictures=own,
        sound=own.sound,
        sound_range=(region.start_s, region.end_s),
        keeps_pictures=_keeps_pictures(settings),
        keeps_sound=settings.kept_from == "source",
        words=_said(own, words),
    )
    return Media(source=SourceClip(own.for_model(model), own.frame_rate, own.sound_from(0), edit), region=region)


def open_extension(settings: Settings, files: WeightSet) -> Media:
    """The clip with room for new frames, and the range they take.

    The room is filled with the nearest frame and silence; both are generated anew. In front of a clip its own first
    frame is generated anew as well, because it then shares a latent frame with new ones. Of a clip whose frames are not
    8*k + 1 the model sees those that are nearest to the new ones.

    Raises:
        UsageError: a number of frames that is not a positive multiple of the frames of a latent.
    """
    vae = files.config(VIDEO_VAE)
    own = OwnClip.open(_edited(settings), settings, vae)
    count, step = settings.extend_frames, vae.temporal_factor
    if count < step or count % step:
        raise UsageError(
            f"extend adds a positive multiple of {step} frames, got {count}; use {max(step, count // step * step)}."
        )
    keeps, rate, frames = _keeps_pictures(settings), float(own.frame_rate), own.num_frames
    seen = _frames_below(frames, vae) if keeps and own.sound is not None else _frames_above(frames, vae)
    # Half a frame of distance keeps rounding away from the borders of latent frames.
    if settings.direction == "after":
        places = range(frames - seen, frames + count)
        region = TimeRange((seen + 0.5) / rate, (seen + count + 1) / rate, sound_range=(seen / rate, 1e9))
        source, sound_range = range(frames), (frames / rate, (frames + count) / rate)
    else:
        places = range(-count, seen)
        region = TimeRange(0.0, (count + 0.5) / rate, sound_range=(0.0, count / rate))
        source, sound_range = range(count, count + frames), (0.0, count / rate)
    model = range(places.start + source.start, places.stop + source.start)
    edit = Edit(
        num_frames=frames + count,
        source=source,
        model=model,
        pictures=own,
        sound=own.sound,
        sound_range=sound_range,
        keeps_pictures=keeps,
        keeps_sound=settings.kept_from == "source",
        words=_said(own, [own.fit.words, _length_words(own, range(seen))]),
    )
    sound = own.sound_from(places.start)
    if sound is not None:
        # The clip's sound ends with its pictures.
        stop = round((frames - places.start) / rate * sound.sample_rate)
        sound = replace(sound, waveform=sound.waveform[:stop])
        missing = round(len(places) / rate * sound.sample_rate) - len(sound.waveform)
        sound = replace(sound, waveform=np.pad(sound.waveform, ((0, max(missing, 0)), (0, 0))))
    return Media(source=SourceClip(own.for_model(places), own.frame_rate, sound, edit), region=region)


def open_enlarged(path: Path, settings: Settings, vae: VideoVaeConfig) -> SourceClip:
    """A clip that is enlarged whole: the last frame is repeated until the model has 8*k + 1."""
    own = OwnClip.open(path, settings, vae)
    model = range(_frames_above(own.num_frames, vae))
    edit = Edit(
        num_frames=own.num_frames,
        source=range(own.num_frames),
        model=model,
        pictures=own,
        sound=own.sound,
        keeps_pictures=False,
        words=_said(own, [own.fit.words, _length_words(own, model)]),
    )
    return SourceClip(own.for_model(model), own.frame_rate, own.sound, edit)


def _edited(settings: Settings) -> Path:
    if settings.video_path is None:
        raise UsageError(f"there is no clip to edit; give {spelled('video_path', 'FILE')}.")
    return settings.video_path


def _keeps_pictures(settings: Settings) -> bool:
    """Whether kept pictures come from the clip: those of an enlarged result cannot."""
    return settings.kept_from == "source" and not settings.upscale_spatial and not settings.upscale_temporal


def _retake_range(settings: Settings, own: OwnClip) -> tuple[TimeRange, str]:
    """The range of a retake, and what to say where it is not the one that was asked for.

    Raises:
        UsageError: a missing time, or a range that is empty or outside the clip.
    """
    start, end = settings.start_time, settings.end_time
    if start is None or end is None:
        raise UsageError(
            f"retake needs a time range; give {spelled('start_time')} and {spelled('end_time')} in seconds."
        )
    if start >= end:
        raise UsageError(
            f"the time range must begin before it ends, got {start} s to {end} s; give a later {spelled('end_time')}."
        )
    if start < 0 or start >= own.seconds:
        raise UsageError(f"the start time must lie within the clip, 0 to {own.seconds:.3f} s, got {start}.")
    clamped = "" if end <= own.seconds else f"the range ends with the clip at {own.seconds:.3f} s, not at {end:g} s"
    region = TimeRange(start, min(end, own.seconds), video=not settings.keep_video, audio=not settings.keep_audio)
    return region, clamped


def _frames_below(count: int, vae: VideoVaeConfig) -> int:
    """The largest number of frames that fills latents and is at most ``count``."""
    return vae.pixel_frames(vae.latent_frames(count))


def _frames_above(count: int, vae: VideoVaeConfig) -> int:
    """The smallest number of frames that fills latents and is at least ``count``."""
    return _frames_below(count + vae.temporal_factor - 1, vae)


def _length_words(own: OwnClip, model: range) -> str:
    less = own.num_frames - len(model)
    if less > 0:
        return f"the model sees {len(model)} of its {own.num_frames} frames"
    return f"its {own.num_frames} frames are filled to {len(model)} for the model" if less < 0 else ""


def _said(own: OwnClip, words: list[str]) -> tuple[str, ...]:
    """One line of all that was done to fit a clip, after what its reader says."""
    found = "; ".join(word for word in words if word)
    return (*own.notes, *((f"{own.name}: {found}",) if found else ()))
