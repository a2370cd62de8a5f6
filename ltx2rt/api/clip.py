"""A generated clip: sound and frames, and the files it can be saved to."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ltx2rt.api.latent_file import Latents, write_latents
from ltx2rt.api.output_files import check_files, check_folder, clip_files
from ltx2rt.api.outputs import OutputOptions
from ltx2rt.api.record import Record, sidecar_path, write_record
from ltx2rt.api.run_state import RunState
from ltx2rt.api.sound_track import AAC_RATES, SoundTrack, at_speed
from ltx2rt.errors import UsageError
from ltx2rt.graph.stages.inputs import GenerationInputs
from ltx2rt.graph.stages.run import GeneratedClip, Piece, Run
from ltx2rt.media.exr import ExrWriter, exr_folder
from ltx2rt.media.frame_rate import exact_frame_rate
from ltx2rt.media.hdr import HDR_SPACES, hlg_of_acescct, srgb_of_acescct
from ltx2rt.media.output_file import files_at_once, files_together
from ltx2rt.media.output_lock import held
from ltx2rt.media.pcm import WavWriter, write_wav
from ltx2rt.media.stills import ContactSheet, write_png
from ltx2rt.media.video_writer import HLG, SDR, VideoWriter
from ltx2rt.memory.stage import StageReport
from ltx2rt.paths import expanded
from ltx2rt.types import Array

log = logging.getLogger(__name__)


class _Frames(Iterable[Array]):
    """The chunks of a clip: every loop over them decodes the final latent anew, with the same bits."""

    def __init__(self, decode: Callable[[], Iterator[Array]]) -> None:
        self._decode = decode

    def __iter__(self) -> Iterator[Array]:
        return self._decode()


def _made_apart(pieces: Iterator[Piece]) -> Iterator[Piece]:
    """The pieces of a clip; files that whoever is told of their making writes, such as previews, do not wait for it."""
    while True:
        with files_at_once():
            piece = next(pieces, None)
        if piece is None:
            return
        yield piece
        del piece  # its memory is free while the next one is made


class Clip:
    """A generated clip: the sound is ready, the frames are decoded from the final latent whenever they are read.

    A clip of several windows (``chunked=True``) is made when something of it is read first: each window's frames and
    sound come before the next window is made. What was computed is kept on disk, so that reading again only decodes.

    Attributes:
        sample_rate: of the sound, in Hz.
        frame_rate: exact frames per second.
        num_frames, height, width: of the video; 0 for sound alone.
        record: what it was made from, as JSON values.
        hdr_space: of high dynamic range: the colour space of the EXR frames, while `frames` are ACEScct codes; None: a
            usual clip.
    """

    def __init__(self, clip: GeneratedClip, run: Run, record: Record, state: RunState | None = None) -> None:
        self._clip = clip
        self._frames = None if clip.frames is None else _Frames(clip.frames)
        self._run = run
        self._state = state
        self.record = record
        self.sample_rate = clip.sample_rate
        self.frame_rate = clip.frame_rate
        self.num_frames = clip.num_frames
        self.height = clip.height
        self.width = clip.width
        self._written_samples = 0 if clip.audio is None else len(clip.audio)
        self.hdr_space = run.inputs.settings.hdr_space

    def __repr__(self) -> str:
        parts = []
        if self.num_frames:
            depth = "" if self.hdr_space is None else " of high dynamic range"
            size = f"{self.height}x{self.width}"
            parts.append(f"{self.num_frames} frames of {size}{depth} at {float(self.frame_rate):g}/s")
        if self._clip.audio is not None:
            parts.append(f"{len(self._clip.audio) / self.sample_rate:.2f} s of sound at {self.sample_rate} Hz")
        elif self.has_sound:
            parts.append(f"sound at {self.sample_rate} Hz")
        return f"<Clip: {', '.join(parts)}>"

    @property
    def frames(self) -> Iterable[Array]:
        """Chunks of float32 (f, H, W, 3) in [0, 1], in order: R'G'B' of BT.709, or ACEScct of high dynamic range.

        A loop decodes them one after the other; another loop, or saving, decodes again and gets the same bits. The
        decoder's weights are in memory from the first chunk to the end of the loop.

        Raises:
            UsageError: the clip has no frames.
        """
        if self._frames is None:
            raise UsageError("this clip has no frames: it is sound alone, or was made with latents_only.")
        return self._frames

    @cached_property
    def audio(self) -> Array | None:
        """Float32 (S, 2) in [-1, 1]; None: silent."""
        windows = self._clip.windows
        return self._clip.audio if windows is None or not self.has_sound else windows.sound()

    @property
    def video_latent(self) -> Array | None:
        """(1, f, h, w, 128) float32, normalised, or None. Of windows those latent frames that no window before has."""
        return self._latents[0]

    @property
    def audio_latent(self) -> Array | None:
        """(1, L, 128) float32, normalised, or None. Of windows as the video's."""
        return self._latents[1]

    @cached_property
    def _latents(self) -> tuple[Array | None, Array | None]:
        if self._clip.windows is not None:
            return self._clip.windows.latents()
        return self._clip.video_latent, self._clip.audio_latent

    @property
    def has_frames(self) -> bool:
        return self._frames is not None

    @property
    def has_sound(self) -> bool:
        return self._clip.audio is not None or (self._clip.windows is not None and self.sample_rate > 0)

    @property
    def is_decoded(self) -> bool:
        """Whether there is anything to see or hear, and not only latents."""
        return self.has_frames or self.has_sound

    @property
    def inputs(self) -> GenerationInputs:
        """The decided settings and the inputs that it was made from."""
        return self._run.inputs

    @property
    def settings(self) -> Mapping[str, Any]:
        """Every resolved setting of the run, the seed included."""
        return self.record.settings

    @property
    def report(self) -> list[StageReport]:
        """What each finished stage cost; every decoding of the frames is one."""
        return list(self._run.stages.reports)

    def save(
        self,
        path: str | os.PathLike[str],
        options: OutputOptions | None = None,
        *,
        overwrite: bool = True,
        **changes: Any,
    ) -> None:
        """Write the clip and what ``options`` asks for beside it.

        All files are checked before the first one is written, and appear together when all of them are complete. The
        sound track is as long as the pictures: it is cut, or ends in silence. High dynamic range becomes an HLG master
        and, beside it, a folder of EXR frames: ``clip_acescg_exr``. Its single pictures are those of a usual screen.

        Args:
            path: ``.mp4``, ``.m4v`` or ``.mov``, or ``.wav`` for the sound alone. Not written when the clip was made
                with ``latents_only``.
            options: see `OutputOptions`.
            overwrite: replace files that exist; those that the clip was made from never are.
            changes: single options.

        Raises:
            UsageError: the options do not fit the clip, a name does not fit what the file holds, two outputs are one
                file, an output is an input or exists, or another run is writing it. Nothing has been written then.
            MediaError: a file cannot be written (`OutOfSpace`: the disk is full).
            NotFiniteError: the decoder gave values that are not numbers.
        """
        if not isinstance(path, (str, os.PathLike)):
            raise UsageError(f"a clip is saved to a path, got {path!r}; give for example clip.mp4.")
        if options is not None and not isinstance(options, OutputOptions):
            raise UsageError(f"options must be OutputOptions, got {options!r}; single ones are given by their names.")
        path = expanded(path)
        options = OutputOptions.of(vars(options or OutputOptions()) | changes)
        files = clip_files(
            path,
            options,
            pictures=self.has_frames,
            sound=self.has_sound,
            decoded=self.is_decoded,
            hdr_space=self.hdr_space,
        )
        inputs = [Path(name) for name in (*self.record.inputs, *self.record.weights)]
        for file in files:
            check_folder(file)
        with held(file.path for file in files):
            check_files(files, inputs, overwrite=overwrite)
            try:
                with files_together():
                    self._save(path, options)
            except BaseException:
                if self._state is not None:
                    self._state.remove_if_empty()
                raise
        if self._state is not None:
            self._state.remove()
            self._state = None  # the folder may belong to another run from here on

    def _save(self, path: Path, options: OutputOptions) -> None:
        if self.is_decoded:
            if path.suffix.lower() == ".wav":
                self._save_sound([path, *([options.save_wav] if options.save_wav is not None else [])], options.speed)
            else:
                self._save_video(path, options)
        if options.save_latents is not None:
            # Last: the windows of a clip are made as its frames are written.
            write_latents(options.save_latents, self._saved_latents())
        if options.sidecar:
            target = path if self.is_decoded or options.save_latents is None else options.save_latents
            write_record(sidecar_path(target), replace(self.record, result=self._result()), options.as_dict())

    def _save_sound(self, paths: Sequence[Path], speed: float) -> None:
        """The sound alone, without decoding a frame."""
        audio = self.audio
        assert audio is not None
        self._written_samples = len(audio)
        for path in paths:
            write_wav(path, at_speed(audio, self.sample_rate, speed), self.sample_rate, of_file=self._has_file_sound)

    def _save_video(self, path: Path, options: OutputOptions) -> None:
        """Frames and sound are written as they come."""
        frame_rate = self.frame_rate
        if options.speed != 1.0:
            frame_rate = exact_frame_rate(float(self.frame_rate) * options.speed)
        has_track = self.has_sound and options.audio
        track_rate = self.sample_rate if self.sample_rate in AAC_RATES else AAC_RATES[-1]
        sheet = None if options.contact_sheet is None else ContactSheet(self.num_frames)
        first: Array | None = None
        height, width = self.height // 2 * 2, self.width // 2 * 2  # of video files
        if (height, width) != (self.height, self.width):
            log.warning("%s is cut to %dx%d, files of video have even sides", path, width, height)
        with ExitStack() as files:
            writer = files.enter_context(
                VideoWriter(
                    path,
                    width=width,
                    height=height,
                    frame_rate=frame_rate,
                    codec=options.codec,
                    crf=options.crf,
                    preset=options.preset,
                    sample_rate=track_rate if has_track else None,
                    signal=SDR if self.hdr_space is None else HLG,
                    of_file=self._clip.kept_frames,
                )
            )
            exr = files.enter_context(self._exr_writer(path))
            wav = None
            if options.save_wav is not None:
                wav = files.enter_context(WavWriter(options.save_wav, self.sample_rate, of_file=self._has_file_sound))
            track = SoundTrack(
                writer if has_track else None,
                wav,
                samples=round(self.num_frames / writer.frame_rate * track_rate),
                rates=(self.sample_rate, track_rate),
                speed=options.speed,
                of_file=self._has_file_sound,
            )
            for piece in _made_apart(self._clip.pieces()):
                if piece.sound is not None:
                    track.add(piece.sound)
                if piece.frames is not None:
                    if first is None or sheet is not None:
                        shown = piece.frames if exr is None else srgb_of_acescct(piece.frames)
                        first = shown[0].copy() if first is None else first
                        if sheet is not None:
                            sheet.add(shown)
                        del shown
                    if exr is None:
                        writer.write(piece.frames)
                    else:
                        for frame in piece.frames:  # one by one: light and signal are as large as the frames
                            exr.write(frame[None])
                            writer.write(hlg_of_acescct(frame[:height, :width])[None])
                del piece  # its memory is free while the next one is made
            track.finish()
            self._written_samples = track.given
        if options.save_first_frame is not None and first is not None:
            write_png(options.save_first_frame, first)
        if options.contact_sheet is not None and sheet is not None:
            write_png(options.contact_sheet, sheet.picture())

    @property
    def _has_file_sound(self) -> bool:
        return self._clip.has_file_sound

    def _exr_writer(self, path: Path) -> AbstractContextManager[ExrWriter | None]:
        """What writes the EXR frames beside a file; None: a usual clip has none."""
        if self.hdr_space is None:
            return nullcontext()
        return ExrWriter(exr_folder(path, self.hdr_space), HDR_SPACES[self.hdr_space])

    def _saved_latents(self) -> Latents:
        found = self._run.files.checkpoint.generation
        generation = "" if found is None else found.name  # a video VAE alone does not always tell
        return Latents(generation, self.frame_rate, *self._latents)

    def _result(self) -> dict[str, Any]:
        return {
            **self.record.result,
            "num_frames": self.num_frames,
            "height": self.height,
            "width": self.width,
            "frame_rate": str(self.frame_rate),
            "audio_samples": self._written_samples,
            "sample_rate": self.sample_rate,
            **({} if self.hdr_space is None else {"exr_colorspace": self.hdr_space}),
            **self._kept(),
        }

    def _kept(self) -> dict[str, Any]:
        """What an edit has left as it was, first and last frames and seconds of sound."""
        if not self._clip.kept_frames and not self._clip.kept_sound_s:
            return {}
        frames = [[part.start, part.stop - 1] for part in self._clip.kept_frames]
        sound = [[round(begin, 6), round(end, 6)] for begin, end in self._clip.kept_sound_s]
        return {"kept": {"frames": frames, "sound_s": sound}}
