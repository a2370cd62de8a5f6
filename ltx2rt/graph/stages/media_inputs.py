"""Opens and checks the media that condition a run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from math import floor
from pathlib import Path

import numpy as np

from ltx2rt.errors import MediaError, UsageError
from ltx2rt.graph.components import VIDEO_VAE
from ltx2rt.graph.diffusion.latent_geometry import snapped_frames
from ltx2rt.graph.settings.inputs import ImageInput, VideoInput, VideoSource
from ltx2rt.graph.settings.settings import Settings
from ltx2rt.graph.stages.inputs import (
    AttentionMask,
    FrameStream,
    ImageCondition,
    Media,
    ReferenceVideo,
    SoundInput,
)
from ltx2rt.graph.stages.weight_set import WeightSet
from ltx2rt.media.audio_reader import read_audio
from ltx2rt.media.canny import canny, check_thresholds
from ltx2rt.media.clip_reader import SAME_RATE, ClipReader, is_still_picture
from ltx2rt.media.exr import SUFFIX, ExrFolder, exr_size, is_exr, read_exr
from ltx2rt.media.fit import fit_words, fitted, is_much_larger
from ltx2rt.media.hdr import HDR_SPACES, HdrSpace, acescct_of_srgb
from ltx2rt.media.images import image_name, load_conditioning_image, picture_bytes, read_image, reading_bytes
from ltx2rt.media.pixel_range import to_signed_range
from ltx2rt.media.resize import resize_to_cover
from ltx2rt.spelling import spelled
from ltx2rt.types import FLOAT32_BYTES, Array, FilePath

log = logging.getLogger(__name__)

# Of a clip whose length follows from its sound.
_MOST_FRAMES = 1024
# More than any clip lasts: the sound decides.
WHOLE_SOUND_S = 3600.0
# What a pixel of an EXR picture takes while it is read, converted and brought to another size.
_EXR_BYTES = 8 * 3 * FLOAT32_BYTES
# Seconds without sound at the end of a clip that are not worth a word.
_SHORT_SILENCE = 0.01

DEFAULT_FIT = "crop"  # of images and control videos, as in the official code


def open_images(settings: Settings, files: WeightSet) -> Media:
    """The images alone."""
    return Media(images=tuple(image_condition(image, settings) for image in settings.images))


def open_references(settings: Settings, files: WeightSet) -> Media:
    """Images, control videos and where the clip attends to them.

    Raises:
        UsageError, MediaError: as for each; or EXR frames beside other clips.
    """
    kinds = {isinstance(video.video, Path) and is_exr(video.video) for video in settings.video_conditioning}
    if len(kinds) > 1:
        raise UsageError(f"{spelled('video_conditioning')}: EXR frames and other clips do not mix; give one kind.")
    return replace(
        open_images(settings, files),
        references=tuple(reference_video(video, settings) for video in settings.video_conditioning),
        attention_mask=attention_mask(settings),
    )


def open_dubbed_clip(settings: Settings, files: WeightSet) -> Media:
    """The clip that is dubbed: its pictures as a reference, its whole sound, and its length and rate.

    Raises:
        UsageError: no file, one of another kind, or other proportions that may not be fitted.
        MediaError: the file cannot be read or has no sound.
    """
    path, named = settings.reference_video, spelled("reference_video")
    if path is None:
        raise UsageError(f"there is no clip to dub; give {spelled('reference_video', 'FILE')}.")
    if path.is_dir() or path.suffix.lower() == ".exr":
        raise UsageError(
            f"{named} must be a video file with an audio track, got {path}; EXR pictures and folders have no sound: "
            "put pictures and sound into one file."
        )
    if is_still_picture(path):
        raise UsageError(f"{named} must be a video file with an audio track, but {path} is a picture; give a clip.")
    reader = ClipReader(path, source_color=settings.source_color)
    sound = reader.sound()
    if sound is None or reader.sample_rate is None:
        raise MediaError(f"no audio stream found in {path}: the voice of the clip is needed; give one with sound.")
    control = ControlVideo.of(reader, str(path))
    frames = snapped_frames(reader.num_frames, files.config(VIDEO_VAE).temporal_factor)
    if frames < reader.num_frames:
        log.warning("%s has %d frames, of which the first %d are dubbed (8*k + 1)", path, reader.num_frames, frames)
    return Media(
        references=(_reference(control, settings.reference_strength, settings),),
        reference_sound=SoundInput(sound.T.copy(), reader.sample_rate),
        num_frames=frames,
        frame_rate=reader.frame_rate,
    )


def open_driving_sound(settings: Settings, files: WeightSet) -> Media:
    """Images, and the sound that drives the video, with the length of the clip."""
    sound, frames = driving_sound(settings, files.config(VIDEO_VAE).temporal_factor)
    return replace(open_images(settings, files), sound=sound, num_frames=frames)


def image_condition(image: ImageInput, settings: Settings) -> ImageCondition:
    """An image, read when a stage asks for it at its size; unreadable files are reported now.

    Raises:
        UsageError: a strength outside 0 to 1 or a crf outside 0 to 51.
        MediaError: the file cannot be read.
    """
    crf = image.crf or 0
    if not 0 <= crf <= 51:
        raise UsageError(f"image crf must be 0 to 51, got {crf}; 0 keeps the image as it is.")
    check_strength("image", image.strength)
    if isinstance(image.image, Path) and image.image.suffix.lower() == SUFFIX:
        return _exr_condition(image.image, image, settings)
    rows, columns = read_image(image.image).shape[:2]
    say_fit(image_name(image.image), rows, columns, settings)
    fit = settings.fit or DEFAULT_FIT

    def pixels(height: int, width: int) -> Array:
        read = load_conditioning_image(image.image, height, width, crf=crf, fit=fit, antialias=settings.antialias)
        return read if settings.hdr is None else _as_acescct(read)

    # What is reduced for the final size is reduced for smaller stages, too.
    reduced = settings.antialias and is_much_larger(rows, columns, settings.height or 0, settings.width or 0)
    reading = reading_bytes(rows, columns, compressed=crf > 0, reduced=reduced)
    return ImageCondition(pixels, image.frame_index, image.strength, reading)


def _exr_condition(path: Path, image: ImageInput, settings: Settings) -> ImageCondition:
    """An EXR picture, which goes through no H.264."""
    space = exr_space(path, settings)
    rows, columns = exr_size(path)
    say_fit(str(path), rows, columns, settings)
    fit = settings.fit or DEFAULT_FIT

    def pixels(height: int, width: int) -> Array:
        codes = space.to_acescct(read_exr(path)) * np.float32(255)
        return to_signed_range(fitted(codes, height, width, fit, antialias=settings.antialias))

    return ImageCondition(pixels, image.frame_index, image.strength, rows * columns * _EXR_BYTES)


def exr_space(path: FilePath, settings: Settings) -> HdrSpace:
    """What EXR pictures are; UsageError where nothing says it."""
    if settings.hdr is None:
        spaces = ", ".join(space.upper() for space in HDR_SPACES)
        raise UsageError(f"{path}: EXR input requires {spelled('hdr')}, which says its colour space: {spaces}.")
    return HDR_SPACES[settings.hdr]


def _as_acescct(pixels: Array) -> Array:
    """Pixels of a usual picture as those of high dynamic range, both in [-1, 1]."""
    signal = np.clip((pixels + np.float32(1)) / np.float32(2), 0, 1)
    codes: Array = acescct_of_srgb(signal) * np.float32(2) - np.float32(1)
    return codes


def reference_video(video: VideoInput, settings: Settings) -> ReferenceVideo:
    """A control video; its frames are read, and turned into edges if asked for, when the stage needs them.

    Raises:
        UsageError: another frame rate than the clip's, other proportions that may not be fitted, or a strength outside
            0 to 1.
        MediaError: the file cannot be read.
    """
    check_thresholds(settings.canny_low, settings.canny_high)
    control = ControlVideo.open(video.video, settings)
    reference = _reference(control, video.strength, settings)
    if control.num_frames < (settings.num_frames or 0):
        log.warning(
            "%s has %s, the clip %d; the reference ends earlier",
            control.name,
            "1 frame" if control.num_frames == 1 else f"{control.num_frames} frames",
            settings.num_frames,
        )
    return reference


def _reference(control: ControlVideo, strength: float, settings: Settings) -> ReferenceVideo:
    """A control video as a condition, with what its reader has to say said."""
    check_strength("reference video", strength)
    for note in control.notes:
        log.warning("%s", note)
    say_fit(control.name, *control.size, settings)
    # Edges are no picture whose colours mean anything.
    converts = settings.hdr is not None and not control.is_acescct and settings.control_type != "canny"

    def frames(height: int, width: int, part: range) -> FrameStream:
        there = range(control.num_frames)[part.start : part.stop]

        def read() -> Generator[Array, None, None]:
            for frame in control.frames(settings, height, width, there):
                pixels = to_signed_range(frame)
                yield _as_acescct(pixels) if converts else pixels

        return FrameStream((len(there), height, width, 3), read)

    return ReferenceVideo(frames, strength, control.reading_bytes)


@dataclass(frozen=True)
class ControlVideo:
    """A control video of a file or an array.

    Attributes:
        name: for messages.
        num_frames: at the rate of the clip.
        size: (height, width).
        pictures: called with frames that there are, gives them, (H, W, 3) uint8, or float32 in 0 to 255.
        reading_bytes: what reading takes.
        notes: what its reader has to say.
        is_acescct: the pictures are ACEScct of high dynamic range already.
    """

    name: str
    num_frames: int
    size: tuple[int, int]
    pictures: Callable[[range], Iterable[Array]]
    reading_bytes: int = 0
    notes: tuple[str, ...] = ()
    is_acescct: bool = False

    @classmethod
    def open(cls, video: VideoSource, settings: Settings) -> ControlVideo:
        """A control video at the rate of the clip: one of variable rate is read by its time stamps.

        Raises:
            UsageError: it has a constant rate, and another one; or an array that is no video.
            MediaError: the file cannot be read.
        """
        if isinstance(video, np.ndarray):
            frames = picture_bytes(video, "a reference video")
            height, width = frames.shape[-3:-1]
            return cls("the reference video", len(frames), (height, width), lambda part: frames[part.start : part.stop])
        if isinstance(video, Path) and is_exr(video):
            return cls._of_exr(video, settings)
        reader = ClipReader(video, source_color=settings.source_color, frame_rate=settings.frame_rate)
        if not reader.variable_rate:
            require_frame_rate(video, reader.own_rate, reader.frame_rate)
        return cls.of(reader, str(video))

    @classmethod
    def _of_exr(cls, path: Path, settings: Settings) -> ControlVideo:
        space, folder = exr_space(path, settings), ExrFolder.open(path)

        def pictures(part: range) -> Iterator[Array]:
            for frame in folder.read(part):
                yield space.to_acescct(frame) * np.float32(255)

        size = (folder.height, folder.width)
        return cls(str(path), len(folder.frames), size, pictures, folder.reading_bytes, is_acescct=True)

    @classmethod
    def of(cls, reader: ClipReader, name: str) -> ControlVideo:
        """The clip of a reader."""
        return cls(
            name,
            reader.num_frames,
            (reader.height, reader.width),
            lambda part: reader.frames(len(part), part.start),
            reader.reading_bytes,
            tuple(reader.notes),
        )

    def frames(self, settings: Settings, height: int, width: int, part: range) -> Iterator[Array]:
        """Frames that there are, edges if the settings say so: (height, width, 3) float32 in 0 to 255."""
        edges = partial(canny, low=settings.canny_low, high=settings.canny_high)
        fit = settings.fit or DEFAULT_FIT
        for picture in self.pictures(part):
            shown = edges(picture.astype(np.uint8)) if settings.control_type == "canny" else picture
            yield fitted(shown, height, width, fit, antialias=settings.antialias)


def say_fit(name: str, rows: int, columns: int, settings: Settings) -> None:
    """One line about what is lost of a picture of other proportions than the clip's.

    Raises:
        UsageError: it may not be fitted.
    """
    if settings.height is None or settings.width is None:
        return
    way = settings.fit or DEFAULT_FIT
    words = fit_words(rows, columns, settings.height, settings.width, "crop" if way == "error" else way)
    if words and way == "error":
        raise UsageError(
            f"{name} is {columns}x{rows}, the clip {settings.width}x{settings.height}, which are other proportions; "
            f"cut it, or give {spelled('fit', 'crop')}, pad or stretch."
        )
    if words:
        log.warning("%s: %s (%s)", name, words, spelled("fit", way))


def attention_mask(settings: Settings) -> AttentionMask | None:
    """How strongly the clip attends to its references.

    Raises:
        UsageError: a mask of another shape or length than the clip, or a strength outside 0 to 1.
        MediaError: the file cannot be read.
    """
    path, strength = settings.conditioning_attention_mask, settings.conditioning_attention_strength
    check_strength("attention", strength)
    if path is None:
        return None if strength == 1.0 else AttentionMask(strength=strength)
    assert settings.height is not None
    assert settings.width is not None
    assert settings.num_frames is not None
    frames = mask_frames(path, settings)
    if len(frames) not in (1, settings.num_frames):
        raise UsageError(
            f"the attention mask {path} has {len(frames)} frames, the clip {settings.num_frames}; "
            "give a mask of the same length, or a single picture."
        )
    rows, columns = frames.shape[1:3]
    if abs(columns / rows / (settings.width / settings.height) - 1) > 0.02:
        raise UsageError(
            f"the attention mask {path} is {columns}x{rows}, which has not the shape of a "
            f"{settings.width}x{settings.height} clip; give a mask of the clip's proportions."
        )

    def weights(height: int, width: int, part: range) -> Array:
        own = frames if len(frames) == 1 else frames[part.start : part.stop]
        # The official code takes the mean of the channels, whatever their brightness.
        grey = np.clip(resize_to_cover(own, height, width).mean(axis=-1) / np.float32(255), 0, 1)
        return np.broadcast_to(grey, (len(part), height, width)) if len(frames) == 1 else grey

    return AttentionMask(weights, strength)


def mask_frames(path: Path, settings: Settings) -> Array:
    """(F, H, W, 3) uint8 of a mask: a clip's, at most as many as the clip's, or those of a single picture."""
    if is_still_picture(path):
        return read_image(path)[None]
    reader = ClipReader(path, source_color=settings.source_color)
    if reader.variable_rate:
        reader = ClipReader(path, source_color=settings.source_color, frame_rate=settings.frame_rate)
    for note in reader.notes:
        log.warning("%s", note)
    return np.stack(list(reader.frames(settings.num_frames)))


def driving_sound(settings: Settings, step: int) -> tuple[SoundInput, int]:
    """The sound of audio-to-video, and the frames of the clip: as given, or by the sound, which may then be longer by
    less than a latent frame.

    Args:
        settings: say where the sound is, and how much of it is used.
        step: pixel frames per latent frame.

    Raises:
        UsageError: no file, or times that are not positive.
        MediaError: the file cannot be read or has no sound there.

    Source: Lightricks/LTX-2 ltx_pipelines/a2vid_two_stage.py @ 1.4.
    """
    if settings.audio_path is None:
        raise UsageError(f"there is no sound to make pictures for; give {spelled('audio_path', 'FILE')}.")
    assert settings.frame_rate is not None
    if settings.audio_start_time < 0:
        raise UsageError(f"the audio start time must be 0 or more, got {settings.audio_start_time}.")
    longest_s = settings.audio_max_duration
    if longest_s is not None and longest_s <= 0:
        raise UsageError(f"the audio duration must be positive, got {longest_s}.")
    if settings.num_frames is not None:
        longest_s = float(settings.num_frames / settings.frame_rate)
    elif longest_s is not None:
        longest_s = min(longest_s, float(_MOST_FRAMES / settings.frame_rate))
    sound = read_audio(settings.audio_path, start_s=settings.audio_start_time, duration_s=longest_s)
    duration = Fraction(len(sound.waveform), sound.sample_rate)
    frames = settings.num_frames
    if frames is None:
        frames = snapped_frames(min(floor(duration * settings.frame_rate), _MOST_FRAMES), step)
    length = frames / settings.frame_rate
    if length - duration > _SHORT_SILENCE:
        log.warning(
            "%s gives %.2f s of sound, the clip lasts %.2f s; it ends without sound",
            settings.audio_path,
            duration,
            length,
        )
    return SoundInput(sound.waveform, sound.sample_rate), frames


def require_frame_rate(path: FilePath, own: Fraction, wanted: Fraction) -> None:
    """Raise UsageError unless a video has the clip's frame rate."""
    if abs(own / wanted - 1) > SAME_RATE:
        raise UsageError(
            f"{path} has {float(own):g} frames/s, the clip {float(wanted):g}; "
            f"give {spelled('frame_rate', f'{float(own):g}')} or convert the video."
        )


def check_strength(what: str, strength: float) -> None:
    """Raise UsageError for a conditioning strength outside 0 to 1."""
    if not 0.0 <= strength <= 1.0:
        raise UsageError(f"{what} strength must be between 0 and 1, got {strength}.")
