"""Long clips: a pipeline's stages run for one window after the other, and what they make is joined.

A pipeline that takes `CHUNKS` says what it does with a run, and hands that to `in_windows`:

    def generate(run: Run) -> GeneratedClip:
        context = positive_context(run)                  # once for the clip
        return in_windows(run, lambda part: _window(part, Conditions(context)))

``part`` is a `Run` whose inputs are those of the window as if it were a clip of its own: ``part.inputs.num_frames``,
its images and key frames at their places in it, and the window's frames of references (`ReferenceVideo`) and mask. What
the window does besides:

* `first_stage` and `second_stage` of ``pipelines/refinement.py`` take over the end of the window before and leave
  theirs (a stage of another kind calls `carried_items` and `leave_to_next_window` of ``stages/denoise/states.py``);
* the seed of ancestral noise grows by ``part.window.index``;
* of a reference video that is encoded for the window, `window_prefix` says how many leading latent frames are dropped,
  which ``AppendReferenceVideo(prefix=...)`` does. Of a mask, so many latent frames of tokens are dropped, too;
* sound that was encoded for the whole clip is cut by `window_sound`;
* it returns `finish(part, final.video, final.audio, keyframes=final.keyframes, carried=final.carried)`.

A clip in one window is made at once, by the same call with the run itself.
"""

from __future__ import annotations

import copy
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from ltx2rt.graph.components import AUDIO_VAE
from ltx2rt.graph.diffusion.precision import Float32Array
from ltx2rt.graph.diffusion.seams import FramesInFile, PictureJoin, SoundJoin, sound_until
from ltx2rt.graph.diffusion.windows import (
    Carried,
    Window,
    carried_sound,
    joined_latents,
    reference_prefix,
    require_reference,
    sound_of_window,
)
from ltx2rt.graph.stages.decode.needs import writing_bytes
from ltx2rt.graph.stages.events import WindowStarted
from ltx2rt.graph.stages.inputs import SoundInput
from ltx2rt.graph.stages.journal import Journal
from ltx2rt.graph.stages.run import GeneratedClip, Piece, Run
from ltx2rt.graph.stages.targets import audio_scale
from ltx2rt.memory.ledger import Ledger
from ltx2rt.types import Array

Make = Callable[[Run], GeneratedClip]


def in_windows(run: Run, make: Make, *, sound: SoundInput | None = None) -> GeneratedClip:
    """The clip that ``make`` makes, in the windows that the request asks for.

    One window is made now. Several are made when something of the clip is read; a plan goes through all of them now.

    Args:
        run: of the clip.
        make: makes one window, see above. It is called with the windows in order, and again for what is read again:
            then what earlier calls have computed comes from the journal.
        sound: accompanies the clip in place of what the windows have.
    """
    windows = run.inputs.windows
    if len(windows) == 1:
        whole = make(run)
        return whole if sound is None or not _shows(run) else _with_sound(whole, sound)
    if run.planning:
        return [of_window for _, of_window in _made(run, make, windows, None, 0)][-1]
    # One window without computing tells what all of them will have.
    outline, accounts = _outline(run, windows[0])
    made = make(outline)
    given = sound if _shows(run) else None
    clip = _ClipInWindows(run, make, windows, made.sample_rate, given, sum(need.steps for need in accounts.needs))
    shown = replace(
        made,
        frames=None if made.frames is None else clip.frames,
        audio=None,
        num_frames=windows[-1].stop,
        video_latent=None,
        audio_latent=None,
        windows=clip,
    )
    return shown if given is None else replace(shown, sample_rate=given.sample_rate, has_file_sound=True)


def window_prefix(run: Run, temporal_scale: int, latents: int) -> int:
    """Leading latent frames of a window's reference that are dropped, since the window has those frames already.

    Args:
        run: of the window.
        temporal_scale: target frame rate divided by the reference's.
        latents: latent frames of the reference, encoded for the whole window.

    Raises:
        UsageError: nothing would be left.
    """
    prefix = reference_prefix(run.window.carry, temporal_scale, run.inputs.frames_per_latent)
    require_reference(prefix, latents)
    return prefix


def window_sound(run: Run, tokens: Float32Array) -> Float32Array:
    """Of sound (1, L, 128) that was encoded for the whole clip, the latents of a window; zeros beyond its end."""
    return sound_of_window(tokens, run.window, float(run.inputs.frame_rate), _latents_per_second(run))


def _shows(run: Run) -> bool:
    return not run.inputs.settings.latents_only


def _with_sound(clip: GeneratedClip, sound: SoundInput) -> GeneratedClip:
    return replace(clip, audio=sound.waveform, sample_rate=sound.sample_rate, has_file_sound=True)


def _latents_per_second(run: Run) -> float:
    return audio_scale(run.files.config(AUDIO_VAE)).latents_per_second


def _outline(run: Run, window: Window) -> tuple[Run, Ledger]:
    """A run that computes nothing, of one window, and its accounts."""
    other = copy.copy(run)
    other.planning, other.ledger = True, Ledger(None, base=0)
    other.journal, other.uses = None, []
    return other.unobserved().of_window(window, run.noise.fork(), {}, None), other.ledger


def _made(
    run: Run, make: Make, windows: tuple[Window, ...], journal: Journal | None, steps: int
) -> Iterator[tuple[Window, GeneratedClip]]:
    """Every window with its clip, in order; frames of one are read before the next one is asked for."""
    noise, carried = run.noise.fork(), dict[str, Carried]()
    before, left = run.ledger.carried, 0
    for window in windows:
        if not run.planning:
            run.emit(WindowStarted(window, steps))
        tails = sum(of_stage.nbytes for of_stage in carried.values())
        run.ledger.carried = before + left + tails
        part = run.of_window(window, noise, carried, journal)
        clip = make(part)
        if window.index == 0:
            # What a window leaves in the process, such as code of readers, the next one finds there; and the encoder.
            left = run.ledger.carried - before
            if clip.frames is not None:
                left += writing_bytes(clip.height * clip.width, clip.num_frames, is_hdr=run.inputs.is_hdr)
        yield window, clip
        carried = part.left
    run.ledger.carried = before + left


class _ClipInWindows:
    """See `ltx2rt.graph.stages.run.ClipInWindows`.

    Args:
        run: of the clip. Results are kept in its journal, or where it has none in a folder that goes with this object.
        make: makes one window.
        windows: of the clip.
        sample_rate: of the sound that windows have; 0: they have none.
        sound: in its place.
        steps: sampler steps of a window.
    """

    def __init__(
        self,
        run: Run,
        make: Make,
        windows: tuple[Window, ...],
        sample_rate: int,
        sound: SoundInput | None,
        steps: int,
    ) -> None:
        self._run = run
        self._make = make
        self._windows = windows
        self._sample_rate = sample_rate
        self._given = sound
        self._steps = steps
        self._folder: Path | None = None
        self._is_told = False  # every window has been made, and told about

    def pieces(self) -> Iterator[Piece]:
        with tempfile.TemporaryFile(dir=self._journal().folder) as file:
            yield from self._joined(PictureJoin(FramesInFile(file)))
        self._is_told = True

    def _joined(self, picture: PictureJoin) -> Iterator[Piece]:
        rate = float(self._run.inputs.frame_rate)
        heard = SoundJoin(self._sample_rate, rate)
        shown, begin = 0, 0
        for window, clip in self._made():
            if clip.audio is not None and self._given is None:
                yield Piece(sound=heard.samples(window, clip.audio))
            if clip.frames is None:
                continue
            for frames in picture.frames(window, clip.frames()):
                shown += len(frames)
                yield Piece(frames=frames)
                del frames  # its memory is free while the next one is decoded
            if self._given is not None:
                samples = sound_until(self._given.waveform, begin, shown, rate, self._given.sample_rate)
                begin += len(samples)
                yield Piece(sound=samples)

    def frames(self) -> Iterator[Array]:
        for piece in self.pieces():
            if piece.frames is not None:
                yield piece.frames
            del piece

    def sound(self) -> Array | None:
        if self._given is not None:
            return self._given.waveform
        joined = SoundJoin(self._sample_rate, float(self._run.inputs.frame_rate))
        made = self._made(tells=not self._is_told)
        parts = [joined.samples(window, clip.audio) for window, clip in made if clip.audio is not None]
        return np.concatenate(parts) if parts else None

    def latents(self) -> tuple[Array, Array | None]:
        rate, per_second = float(self._run.inputs.frame_rate), _latents_per_second(self._run)
        step = self._run.inputs.frames_per_latent
        video: list[Array] = []
        audio: list[Array] = []
        cells, tokens = [], []
        for window, clip in self._made(tells=not self._is_told):
            assert clip.video_latent is not None
            video.append(clip.video_latent)
            cells.append((window.carry - 1) // step + 1)
            if clip.audio_latent is not None:
                audio.append(clip.audio_latent)
                tokens.append(carried_sound(window.carry, rate, per_second) if window.carry else 0)
        return joined_latents(video, cells), joined_latents(audio, tokens) if audio else None

    def _made(self, *, tells: bool = True) -> Iterator[tuple[Window, GeneratedClip]]:
        """The windows with their clips; ``tells``: the observer hears of it."""
        run = self._run if tells else self._run.unobserved()
        return _made(run, self._make, self._windows, self._journal(), self._steps)

    def _journal(self) -> Journal:
        """Where results of the windows are kept."""
        journal = self._run.journal
        if journal is not None and journal.folder.is_dir():
            return journal
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="ltx2rt-windows-"))
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        return Journal(self._folder)
