"""A generated clip: sound and frames, and the files it can be saved to."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from ltx2rt.api.latent_file import Latents, write_latents
from ltx2rt.api.output_files import check_files, check_folder, clip_files
from ltx2rt.api.outputs import OutputOptions
from ltx2rt.api.record import Record, sidecar_path, write_record
from ltx2rt.api.run_state import RunState
from ltx2rt.errors import UsageError
from ltx2rt.graph.stages.inputs import GenerationInputs
from ltx2rt.graph.stages.run import GeneratedClip, Run
from ltx2rt.media.frame_rate import exact_frame_rate
from ltx2rt.media.output_file import files_together
from ltx2rt.media.output_lock import held
from ltx2rt.media.pcm import of_length, write_wav
from ltx2rt.media.resampling import resample
from ltx2rt.media.stills import ContactSheet, write_png
from ltx2rt.media.video_writer import VideoWriter
from ltx2rt.memory.stage import StageReport
from ltx2rt.paths import expanded
from ltx2rt.types import Array

# What AAC can carry, in Hz; other sound is resampled to the last one.
AAC_RATES = (7350, 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 64000, 88200, 96000, 48000)


class _Frames(Iterable[Array]):
    """The chunks of a clip: every loop over them decodes the final latent anew, with the same bits."""

    def __init__(self, decode: Callable[[], Iterator[Array]]) -> None:
        self._decode = decode

    def __iter__(self) -> Iterator[Array]:
        return self._decode()


class Clip:
    """A generated clip: the sound is ready, the frames are decoded from the final latent whenever they are read.

    Attributes:
        audio: float32 (S, 2) in [-1, 1]; None: silent.
        sample_rate: of the sound, in Hz.
        frame_rate: exact frames per second.
        num_frames, height, width: of the video; 0 for sound alone.
        video_latent: (1, f, h, w, 128) float32, normalised, or None.
        audio_latent: (1, L, 128) float32, normalised, or None.
        record: what it was made from, as JSON values.
    """

    def __init__(self, clip: GeneratedClip, run: Run, record: Record, state: RunState | None = None) -> None:
        self._frames = None if clip.frames is None else _Frames(clip.frames)
        self._run = run
        self._state = state
        self.record = record
        self.audio = clip.audio
        self.sample_rate = clip.sample_rate
        self.frame_rate = clip.frame_rate
        self.num_frames = clip.num_frames
        self.height = clip.height
        self.width = clip.width
        self.video_latent = clip.video_latent
        self.audio_latent = clip.audio_latent
        self._has_file_sound = clip.has_file_sound
        self._kept_frames = clip.kept_frames
        self._kept_sound_s = clip.kept_sound_s

    def __repr__(self) -> str:
        parts = []
        if self.num_frames:
            parts.append(f"{self.num_frames} frames of {self.height}x{self.width} at {float(self.frame_rate):g}/s")
        if self.audio is not None:
            parts.append(f"{len(self.audio) / self.sample_rate:.2f} s of sound at {self.sample_rate} Hz")
        return f"<Clip: {', '.join(parts)}>"

    @property
    def frames(self) -> Iterable[Array]:
        """Chunks of float32 (f, H, W, 3) in [0, 1], in order.

        A loop decodes them one after the other; another loop, or saving, decodes again and gets the same bits. The
        decoder's weights are in memory from the first chunk to the end of the loop.

        Raises:
            UsageError: the clip has no frames.
        """
        if self._frames is None:
            raise UsageError("this clip has no frames: it is sound alone, or was made with latents_only.")
        return self._frames

    @property
    def has_frames(self) -> bool:
        return self._frames is not None

    @property
    def is_decoded(self) -> bool:
        """Whether there is anything to see or hear, and not only latents."""
        return self.has_frames or self.audio is not None

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
        sound track is as long as the pictures: it is cut, or ends in silence.

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
            path, options, pictures=self.has_frames, sound=self.audio is not None, decoded=self.is_decoded
        )
        inputs = [Path(name) for name in (*self.record.inputs, *self.record.weights)]
        for file in files:
            check_folder(file.path)
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
        if options.save_latents is not None:
            write_latents(options.save_latents, self._latents())
        if self.is_decoded:
            audio, rate, frame_rate = self._at_speed(options.speed)
            if options.save_wav is not None:
                assert audio is not None
                write_wav(options.save_wav, audio, rate, of_file=self._has_file_sound)
            if path.suffix.lower() == ".wav":
                assert audio is not None
                write_wav(path, audio, rate, of_file=self._has_file_sound)
            else:
                self._save_video(path, options, audio if options.audio else None, rate, frame_rate)
        if options.sidecar:
            target = path if self.is_decoded or options.save_latents is None else options.save_latents
            write_record(sidecar_path(target), replace(self.record, result=self._result()), options.as_dict())

    def _save_video(
        self, path: Path, options: OutputOptions, audio: Array | None, rate: int, frame_rate: Fraction
    ) -> None:
        if audio is not None and rate not in AAC_RATES:
            audio, rate = resample(audio, rate, AAC_RATES[-1]), AAC_RATES[-1]
        sheet = None if options.contact_sheet is None else ContactSheet(self.num_frames)
        first: Array | None = None
        writer = VideoWriter(
            path,
            width=self.width,
            height=self.height,
            frame_rate=frame_rate,
            codec=options.codec,
            crf=options.crf,
            preset=options.preset,
            sample_rate=None if audio is None else rate,
            of_file=self._kept_frames,
        )
        with writer:
            if audio is not None:
                whole = of_length(audio, round(self.num_frames / writer.frame_rate * rate))
                writer.write_audio(whole, of_file=self._has_file_sound)
            for chunk in self.frames:
                first = chunk[0] if first is None else first
                if sheet is not None:
                    sheet.add(chunk)
                writer.write(chunk)
        if options.save_first_frame is not None and first is not None:
            write_png(options.save_first_frame, first)
        if options.contact_sheet is not None and sheet is not None:
            write_png(options.contact_sheet, sheet.picture())

    def _at_speed(self, speed: float) -> tuple[Array | None, int, Fraction]:
        """Sound, its rate and the frame rate at a playback speed; the sound changes its pitch like a tape."""
        if speed == 1.0:
            return self.audio, self.sample_rate, self.frame_rate
        audio = self.audio
        if audio is not None:
            audio = resample(audio, round(self.sample_rate * speed), self.sample_rate)
        return audio, self.sample_rate, exact_frame_rate(float(self.frame_rate) * speed)

    def _latents(self) -> Latents:
        found = self._run.files.checkpoint.generation
        generation = "" if found is None else found.name  # a video VAE alone does not always tell
        return Latents(generation, self.frame_rate, self.video_latent, self.audio_latent)

    def _result(self) -> dict[str, Any]:
        return {
            **self.record.result,
            "num_frames": self.num_frames,
            "height": self.height,
            "width": self.width,
            "frame_rate": str(self.frame_rate),
            "audio_samples": 0 if self.audio is None else len(self.audio),
            "sample_rate": self.sample_rate,
            **self._kept(),
        }

    def _kept(self) -> dict[str, Any]:
        """What an edit has left as it was, first and last frames and seconds of sound."""
        if not self._kept_frames and not self._kept_sound_s:
            return {}
        frames = [[part.start, part.stop - 1] for part in self._kept_frames]
        sound = [[round(begin, 6), round(end, 6)] for begin, end in self._kept_sound_s]
        return {"kept": {"frames": frames, "sound_s": sound}}
