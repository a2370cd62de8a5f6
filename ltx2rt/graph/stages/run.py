"""One run of a pipeline: its files, inputs, noise, stages and observer."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from typing import Any, NamedTuple, Protocol

import mlx.core as mx

from ltx2rt.graph.diffusion.latent_state import AudioTarget, LatentState, VideoTarget, add_noise
from ltx2rt.graph.diffusion.noise import (
    FrameNoise,
    NoiseSource,
    RecordedNoise,
    StandardizedNoise,
    StartingNoise,
    TorchCpuNoise,
)
from ltx2rt.graph.diffusion.res_2s import STEP_NOISE_SEED, SUBSTEP_NOISE_SEED
from ltx2rt.graph.diffusion.windows import Carried, Window
from ltx2rt.graph.settings.settings import Settings
from ltx2rt.graph.stages.clip_team import ClipTeam, Machines
from ltx2rt.graph.stages.events import Event, Noised, Observer, StageFinished, StageStarted
from ltx2rt.graph.stages.handover import Handover, Use
from ltx2rt.graph.stages.inputs import GenerationInputs
from ltx2rt.graph.stages.journal import Arrays, Journal
from ltx2rt.graph.stages.keeping import Keeping
from ltx2rt.graph.stages.weight_set import WeightSet
from ltx2rt.memory.ledger import Ledger
from ltx2rt.memory.need import Need
from ltx2rt.memory.stage import Stage, StageRunner
from ltx2rt.types import Array
from ltx2rt.weights.checkpoint import Loaded
from ltx2rt.weights.kept_weights import StageWeights


class Piece(NamedTuple):
    """What of a clip comes next.

    Attributes:
        frames: float32 (f, H, W, 3) in [0, 1], after those of earlier pieces; None: none.
        sound: float32 (S, 2) in [-1, 1], after that of earlier pieces; None: none.
    """

    frames: Array | None = None
    sound: Array | None = None


class ClipInWindows(Protocol):
    """A clip whose windows are made when something of them is read, one after the other.

    What was computed is kept on disk, so that whatever is read later, or a second time, has the same bits.
    """

    def pieces(self) -> Iterator[Piece]:
        """Frames and sound from the beginning; each window's come before the next one is made."""

    def sound(self) -> Array | None:
        """All of the sound, (S, 2); None: silent."""

    def latents(self) -> tuple[Array, Array | None]:
        """(1, f, h, w, 128) and (1, L, 128) of the whole clip; the sound's are None where sound was given."""


@dataclass(frozen=True)
class GeneratedClip:
    """What a pipeline returns: sound, and frames that are decoded while they are read.

    Attributes:
        frames: called, it decodes from the beginning: chunks of float32 (f, H, W, 3) in [0, 1], in order, with the same
            bits each time; R'G'B' of BT.709, or ACEScct where the settings have an ``hdr_space``. None: sound only.
        audio: float32 (S, 2) in [-1, 1]; None: silent, or made together with the frames, see ``windows``.
        sample_rate: of the sound, Hz; 0: silent.
        frame_rate: frames per second.
        num_frames, height, width: of the video.
        video_latent: (1, f, h, w, 128) float32, normalised; None: sound only, or see ``windows``.
        audio_latent: (1, L, 128) float32, normalised; None where sound was given, or see ``windows``.
        windows: of a clip in several windows, what gives its sound and its latents.
        has_file_sound: the sound, or a part of it, comes from a file whose samples are to come out as they went in.
        kept_frames: of an edit, those that are the clip's own.
        kept_sound_s: of an edit, the seconds of sound (from, to) that are the clip's own.
    """

    frames: Callable[[], Iterator[Array]] | None
    audio: Array | None
    sample_rate: int
    frame_rate: Fraction
    num_frames: int
    height: int
    width: int
    video_latent: Array | None = None
    audio_latent: Array | None = None
    windows: ClipInWindows | None = None
    has_file_sound: bool = False
    kept_frames: tuple[range, ...] = ()
    kept_sound_s: tuple[tuple[float, float], ...] = ()

    def pieces(self) -> Iterator[Piece]:
        """Frames and sound from the beginning, with the same bits each time."""
        if self.windows is not None:
            yield from self.windows.pieces()
            return
        if self.audio is not None:
            yield Piece(sound=self.audio)
        if self.frames is not None:
            for chunk in self.frames():
                yield Piece(frames=chunk)
                del chunk  # its memory is free while the next one is decoded


class Run:
    """State that the stages of one run share.

    Args:
        files: opened weight files.
        inputs: decided settings and opened media.
        observer: told about every event; raising `Cancelled` from it stops the run.
        noise: source of the random draws, in the order of the official code; default: what the settings say.
        journal: where results are kept and looked up, for runs that survive an interruption.
        sde_noise: makes the step and substep noise of each res_2s stage; default: the fixed seeds of the official code.
        seeded_noise: makes noise that starts anew, from a number that is added to the seed; default: torch's CPU
            generator.
        ledger: memory accounts; default: without a budget.
        planning: nothing is loaded or computed. Every stage only declares what it needs, in the ledger, and gives
            zeros of the right shape.
        keeping: where weights stay after their stages; None: each stage frees its own.
        decoder_noise: what the video decoder draws from in place of ``noise``, from its beginning each time.
        handover: what stages leave in memory for later ones; None: nothing, unless ``keeping`` says so.
        machines: that share the denoising stages, in a plan; None: this one has all.
        team: the same in a run, with which it speaks.

    Attributes:
        uses: in a plan, what the stages hold.
        tasks: in a plan, what its denoising stages do.
        window: the part of the clip that is made; the whole clip where it is made at once.
        carried: what stages have from the window before, by their names.
        left: what stages leave to the next window, by their names.
        written_tokens: in a plan, the most tokens of a prompt that is still to be written; 0: the prompt is there.
    """

    def __init__(
        self,
        files: WeightSet,
        inputs: GenerationInputs,
        observer: Observer | None = None,
        noise: NoiseSource | None = None,
        sde_noise: Callable[[], tuple[NoiseSource, NoiseSource]] | None = None,
        journal: Journal | None = None,
        ledger: Ledger | None = None,
        planning: bool = False,
        keeping: Keeping | None = None,
        seeded_noise: Callable[[int], NoiseSource] | None = None,
        decoder_noise: NoiseSource | None = None,
        handover: Handover | None = None,
        machines: Machines | None = None,
        team: ClipTeam | None = None,
    ) -> None:
        self.files = files
        self.inputs = inputs
        self.ledger = Ledger() if ledger is None else ledger
        self.planning = planning
        self.written_tokens = 0
        self.stages = StageRunner(self.ledger)
        self.noise: NoiseSource = noise_of(inputs.settings) if noise is None else noise
        self.sde_noise = fixed_sde_noise if sde_noise is None else sde_noise
        self.seeded_noise = partial(_seeded_noise, inputs.settings) if seeded_noise is None else seeded_noise
        self.decoder_noise = decoder_noise
        self.journal = journal
        self.window = inputs.whole
        self.carried: Mapping[str, Carried] = {}
        self.left: dict[str, Carried] = {}
        self.uses: list[Use] = []
        self.tasks: list[Any] = []
        self.machines = machines if team is None else team.machines
        self.team = team
        self._handover = handover
        self._keeping = keeping
        self._observer = observer

    def of_window(
        self, window: Window, noise: NoiseSource, carried: Mapping[str, Carried], journal: Journal | None
    ) -> Run:
        """The same run for a window: its stages work as if the window were the clip.

        Args:
            window: of the clip.
            noise: where the draws go on.
            carried: what the window before has left.
            journal: of the run; the window's results have names of their own there.
        """
        other = copy.copy(self)
        other.inputs, other.window = self.inputs.of_window(window), window
        other.noise, other.carried, other.left = noise, carried, {}
        other.journal = None if journal is None else journal.part(f"window {window.index + 1}")
        return other

    def unobserved(self) -> Run:
        """The same run, of which nobody is told and for which nothing stays in memory."""
        other = copy.copy(self)
        other._observer, other._keeping, other._handover = None, None, None
        return other

    def emit(self, event: Event) -> None:
        if self._observer is not None:
            self._observer(event)

    @property
    def keeps_weights(self) -> bool:
        """Whether weights stay after their stages: then each is loaded whole, though a stage may use it only once."""
        return self._keeping is not None

    def choose(
        self,
        options: Iterable[Need],
        *weights: StageWeights,
        held: Callable[[Need], StageWeights] | None = None,
    ) -> Need:
        """The way in which the next stage will run.

        Args:
            options: best first.
            weights: what the stage loads where its weights are held whole.
            held: what it holds when it runs in a given way; None: ``weights``, or nothing where these come and go.

        Raises:
            MemoryBudgetError: none fits.
        """
        if self.window.count > 1:
            options = (replace(option, window=self.window.index + 1) for option in options)
        need = self.ledger.choose(options if self._keeping is None else self._keeping.options(options, weights))
        if self.planning:
            whole = weights if need.can_be_kept else ()
            self.uses.append(Use(need, whole if held is None else (held(need),)))
        elif self._handover is not None:
            need = self._handover.expected(need)
            self.ledger.needs[-1] = need
        return need

    def load(self, stage: Stage, weights: StageWeights) -> dict[str, Loaded]:
        """Weights for a running stage: those that are kept, and the others from their file."""
        kept = self._keeping or self._handover
        if kept is None:
            return stage.hold(weights.load())
        arrays, loaded = kept.load(weights)
        return stage.hold(arrays, loaded)

    @contextmanager
    def stage(self, need: Need, steps: int = 0) -> Iterator[Stage]:
        """A stage that is announced, held to what it needs, measured and emptied."""
        self.emit(StageStarted(need.name, steps))
        if self._keeping is not None:
            need = self._keeping.now(need)
        if self._handover is None:
            with self.stages.stage(need.name, need) as stage:
                yield stage
        else:
            with self._handing_on(need, self._handover) as stage:
                yield stage
        self.emit(StageFinished(need.name))

    @contextmanager
    def _handing_on(self, need: Need, handover: Handover) -> Iterator[Stage]:
        """A stage that leaves to later ones what was planned; a failure ends that."""
        with self.stages.stage(need.name, handover.begin(need)) as stage:
            try:
                yield stage
            except BaseException:
                handover.drop()
                raise
            handover.end()

    def remember(self, name: str, compute: Callable[[], Arrays]) -> dict[str, mx.array]:
        """Arrays from the journal, where an earlier run left them, else from ``compute``."""
        if self.journal is not None:
            return self.journal.remember(name, compute)
        return {key: value if isinstance(value, mx.array) else mx.array(value) for key, value in compute().items()}

    def pass_over(self, draws: Iterable[tuple[int, ...]]) -> None:
        """Leave out float32 draws that somebody else makes from a copy of the noise; a plan only counts given ones."""
        if self.planning and not isinstance(self.noise, RecordedNoise):
            return
        source = FrameNoise(self.noise)
        for shape in draws:
            source.skip(shape)

    def add_noise(
        self, state: LatentState, target: VideoTarget | AudioTarget, noise_scale: float, source: NoiseSource | None
    ) -> LatentState:
        """The state noised with the next draw, of the run (None) or of ``source``, announced to the observer; in a plan
        the state as it is."""
        source = self.noise if source is None else source
        if self.planning:
            if isinstance(source, RecordedNoise):
                source.skip(state.latent.shape)
            return state
        noise = source.normal(state.latent.shape, state.dtype)
        noised = add_noise(state, RecordedNoise([noise]), noise_scale=noise_scale)
        self.emit(Noised(target, state, noised, noise, noise_scale))
        return noised


def noise_of(settings: Settings) -> NoiseSource:
    """The draws of a run: those given, or of torch's CPU generator with the seed; ``latents`` stand for the first."""
    if settings.noise is not None:
        return settings.noise.fork()
    source = TorchCpuNoise(settings.seed or 0)
    if settings.latents is None:
        return source
    channels = settings.latents.shape[-1]
    return StartingNoise(settings.latents.reshape(1, -1, channels), source)


def _seeded_noise(settings: Settings, offset: int) -> NoiseSource:
    """The draws of torch's CPU generator with the user's seed plus ``offset``."""
    return TorchCpuNoise((settings.seed or 0) + offset)


def fixed_sde_noise() -> tuple[NoiseSource, NoiseSource]:
    """Step and substep noise of res_2s; it does not depend on the user's seed and starts anew in every stage."""
    return StandardizedNoise(TorchCpuNoise(STEP_NOISE_SEED)), StandardizedNoise(TorchCpuNoise(SUBSTEP_NOISE_SEED))
