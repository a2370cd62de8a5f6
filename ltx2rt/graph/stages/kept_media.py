"""Puts an edited clip together: what is kept comes from the clip itself, the rest from the model."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import replace
from fractions import Fraction

import numpy as np

from ltx2rt.graph.diffusion.precision import Float32Array
from ltx2rt.graph.stages.decode.needs import writing_bytes
from ltx2rt.graph.stages.decode.stage import finish
from ltx2rt.graph.stages.inputs import Edit, OwnPictures, SoundInput, SourceClip
from ltx2rt.graph.stages.run import GeneratedClip, Run
from ltx2rt.media.pixel_range import to_unit_range
from ltx2rt.media.resampling import resample
from ltx2rt.memory.need import Need
from ltx2rt.types import FLOAT32_BYTES, Array

# At each border of what is made anew, inside it: all that is kept is the clip's own.
BLEND_FRAMES = 2
BLEND_SECONDS = 0.01


def finish_edit(
    run: Run,
    source: SourceClip,
    video: Float32Array,
    audio: Float32Array | None,
    *,
    anew: range = range(0),
    new_sound: bool = False,
) -> GeneratedClip:
    """The clip of an edit: pictures and sound that are kept are the source's own, where the edit says so.

    Args:
        run: of the edit.
        source: the clip, with its edit.
        video, audio: final latents; audio None: the sound is the source's.
        anew: frames of the result whose latents were generated; empty: all pictures are kept.
        new_sound: whether sound was generated.
    """
    edit = source.edit
    own_sound = edit.sound if edit.keeps_sound else None
    clip = finish(
        run,
        video,
        audio,
        decodes_video=bool(anew) or not edit.keeps_pictures,
        decodes_audio=new_sound or not edit.keeps_sound,
        beside=_beside(edit, own_sound),
    )
    if run.inputs.settings.latents_only:
        return clip
    made = None if clip.audio is None else SoundInput(clip.audio, clip.sample_rate)
    heard, kept_sound = _sound(edit, source.frame_rate, own_sound, made)
    if edit.keeps_pictures:
        frames = _kept_and_new(edit, clip.frames, anew) if clip.frames is not None else _kept(run, edit)
        kept = tuple(part for part in (range(anew.start), range(anew.stop, edit.num_frames)) if part)
        clip = replace(clip, frames=frames, num_frames=edit.num_frames)
        clip = replace(clip, height=edit.pictures.height, width=edit.pictures.width)
    else:
        clip, kept = _restored(source, edit, clip), ()
    return replace(
        clip,
        audio=None if heard is None else heard.waveform,
        sample_rate=0 if heard is None else heard.sample_rate,
        has_file_sound=own_sound is not None,
        kept_frames=kept,
        kept_sound_s=kept_sound,
    )


def _beside(edit: Edit, sound: SoundInput | None) -> int:
    """Bytes that the clip takes while the model's frames are decoded: its reader, a picture as numbers, its sound."""
    pictures = edit.pictures
    plane = pictures.height * pictures.width * 3 * FLOAT32_BYTES
    waveform = 0 if sound is None else int(sound.waveform.nbytes)
    return pictures.reading_bytes + plane + waveform


def _kept(run: Run, edit: Edit) -> Callable[[], Iterator[Array]]:
    """All pictures of the clip, as a stage of their own."""
    pictures = edit.pictures
    pixels = pictures.height * pictures.width
    writing = writing_bytes(pixels, edit.num_frames, is_hdr=run.inputs.is_hdr)
    host = _beside(edit, edit.sound) + writing
    need = run.choose([Need("kept pictures", host=host)])

    def frames() -> Iterator[Array]:
        with run.stage(need), closing(pictures.read()) as own:
            yield from (_as_chunk(picture) for picture in own)

    return frames


def _kept_and_new(edit: Edit, decode: Callable[[], Iterator[Array]], anew: range) -> Callable[[], Iterator[Array]]:
    """The clip's pictures, and those of the model where ``anew`` says so. The decoder runs until the last of these."""

    def frames() -> Iterator[Array]:
        with closing(edit.pictures.read()) as own:
            pictures = _Nearest(own, edit.source)
            for index in range(anew.start):
                yield _as_chunk(pictures.at(index))
            with closing(_single(decode(), anew.start - edit.model.start, len(anew))) as made:
                for index, picture in zip(anew, made, strict=True):
                    nearest = pictures.at(index)
                    yield _blended(edit.pictures, picture, nearest, own_weight(index, anew, edit.num_frames))
            for index in range(anew.stop, edit.num_frames):
                yield _as_chunk(pictures.at(index))

    return frames


class _Nearest:
    """The clip's picture nearest to a frame of the result; asked for in order.

    Args:
        pictures: all of them.
        places: frames of the result at which they stand.
    """

    def __init__(self, pictures: Iterator[Array], places: range) -> None:
        self._pictures = pictures
        self._places = places
        self._shown = places.start - 1
        self._picture: Array | None = None

    def at(self, index: int) -> Array:
        wanted = min(max(index, self._places.start), self._places.stop - 1)
        while self._picture is None or self._shown < wanted:
            self._picture = next(self._pictures)
            self._shown += 1
        return self._picture


def _single(chunks: Iterator[Array], skipped: int, count: int) -> Generator[Array, None, None]:
    """``count`` pictures (H, W, 3) after the first ``skipped`` ones."""
    index = 0
    for chunk in chunks:
        for picture in chunk:
            if index >= skipped + count:
                return
            if index >= skipped:
                yield picture
            index += 1


def blended_frames(anew: range) -> int:
    """How many of the frames that are made anew are blended at a border."""
    return min(BLEND_FRAMES, len(anew) // 4)


def own_weight(index: int, anew: range, num_frames: int) -> float:
    """Share of the clip's own picture in a frame that is made anew: it falls from each border to what is kept."""
    length = blended_frames(anew)
    from_left = index - anew.start if anew.start > 0 else length
    from_right = anew.stop - 1 - index if anew.stop < num_frames else length
    return max(0.0, (length - min(from_left, from_right)) / (length + 1))


def _blended(pictures: OwnPictures, made: Array, own: Array, weight: float) -> Array:
    """A chunk of one frame: the model's picture at the clip's size, with a share of the clip's own."""
    restored = pictures.restored(made, own, Fraction(1))
    if weight > 0:
        restored = restored * np.float32(1 - weight) + to_unit_range(own) * np.float32(weight)
    return restored[None]


def _as_chunk(picture: Array) -> Array:
    """(H, W, 3) uint8, or floating point in [0, 1] -> (1, H, W, 3) float32 in [0, 1]."""
    return to_unit_range(picture)[None]


def _restored(source: SourceClip, edit: Edit, clip: GeneratedClip) -> GeneratedClip:
    """A clip that comes from the model alone, at the source's size and length times those of the upscalers."""
    decode = clip.frames
    if decode is None:
        return clip
    scale = Fraction(clip.height, source.frames.shape[1])
    times = int(clip.frame_rate / source.frame_rate)
    count, skipped = times * (edit.num_frames - 1) + 1, -edit.model.start * times
    height, width = edit.pictures.size(scale)
    if (clip.num_frames, clip.height, clip.width) == (count, height, width):
        return clip

    def frames() -> Iterator[Array]:
        with closing(_single(decode(), skipped, count)) as made:
            for picture in made:
                yield edit.pictures.restored(picture, None, scale)[None]

    return replace(clip, frames=frames, num_frames=count, height=height, width=width)


def _sound(
    edit: Edit, frame_rate: Fraction, own: SoundInput | None, made: SoundInput | None
) -> tuple[SoundInput | None, tuple[tuple[float, float], ...]]:
    """The sound of the result, and the seconds of it that are the source's own."""
    seconds, begin = edit.num_frames / frame_rate, edit.model.start / frame_rate
    if own is None:
        fits = edit.model == range(edit.num_frames)
        return (made if made is None or fits else _placed(made, begin, seconds)), ()
    rate = own.sample_rate
    starts, stops = edit.source.start / frame_rate, edit.source.stop / frame_rate
    # The clip's sound ends with its pictures.
    placed = _placed(replace(own, waveform=own.waveform[: round((stops - starts) * rate)]), starts, seconds)
    if made is None:
        return placed, ((float(starts), float(stops)),)
    new = _placed(SoundInput(resample(made.waveform, made.sample_rate, rate), rate), begin, seconds)
    first, last = (min(round(moment * rate), len(placed.waveform)) for moment in edit.sound_range)
    waveform = with_new_samples(placed.waveform, new.waveform, range(first, last), round(BLEND_SECONDS * rate))
    kept = [(0.0, edit.sound_range[0]), (edit.sound_range[1], float(seconds))]
    return SoundInput(waveform, rate), tuple(part for part in kept if part[1] > part[0])


def _placed(sound: SoundInput, begin_s: Fraction, seconds: Fraction) -> SoundInput:
    """Sound that begins at a time of the result, cut and filled with silence to its length."""
    start, length = round(begin_s * sound.sample_rate), round(seconds * sound.sample_rate)
    waveform = sound.waveform[max(-start, 0) :][: length - max(start, 0)]
    before = max(start, 0)
    return replace(sound, waveform=np.pad(waveform, ((before, length - before - len(waveform)), (0, 0))))


def with_new_samples(own: Array, new: Array, anew: range, blend: int) -> Array:
    """Samples of ``own``, and those of ``new`` in the range ``anew``.

    Inside each border of the range to what is kept, ``blend`` samples change evenly from one to the other. Of the kept
    side its mirror image is heard there, for it may end at the border.

    Args:
        own, new: (S, C) float32 of one length.
        anew: samples.
        blend: at most so many at each border.

    Returns:
        (S, C) float32, outside the range those of ``own``.
    """
    result: Array = own.copy()
    result[anew.start : anew.stop] = new[anew.start : anew.stop]
    count = min(blend, len(anew) // 2)
    share = (np.arange(count, 0, -1, dtype=np.float32) / np.float32(count + 1))[:, None]
    if anew.start >= count > 0:
        inside = slice(anew.start, anew.start + count)
        result[inside] = share * own[anew.start - count : anew.start][::-1] + (1 - share) * new[inside]
    if len(own) - anew.stop >= count > 0:
        inside, share = slice(anew.stop - count, anew.stop), share[::-1]
        result[inside] = share * own[anew.stop : anew.stop + count][::-1] + (1 - share) * new[inside]
    return result
