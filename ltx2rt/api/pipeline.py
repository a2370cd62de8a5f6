"""A pipeline with opened weight files, ready to be called."""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import mlx.core as mx

from ltx2rt.api.call import Call
from ltx2rt.api.call_arguments import CallArguments
from ltx2rt.api.clip import Clip
from ltx2rt.api.diffusers_names import DIFFUSERS_NAMES
from ltx2rt.api.opened_component import OpenedComponent, components_of
from ltx2rt.api.pipeline_files import Lora, PipelineFiles
from ltx2rt.api.planning import ledger
from ltx2rt.api.planning import rates as measured_rates
from ltx2rt.api.previews import Preview, Previews
from ltx2rt.api.record import Record
from ltx2rt.api.run_state import RunState
from ltx2rt.errors import ConnectionLost, OutOfMemory, UsageError
from ltx2rt.graph.components import TRANSFORMER
from ltx2rt.graph.diffusion.guidance import GuiderParams
from ltx2rt.graph.pipelines.assumed_files import with_assumed
from ltx2rt.graph.pipelines.checks import no_length, require_parts
from ltx2rt.graph.pipelines.decide import decide
from ltx2rt.graph.pipelines.defaults import GenerationDefaults, defaults_for
from ltx2rt.graph.pipelines.open_inputs import frames_per_latent, input_files, open_inputs
from ltx2rt.graph.pipelines.pipeline import PipelineEntry
from ltx2rt.graph.pipelines.plan import Plan, Rates, plan_assistance
from ltx2rt.graph.settings.setting import plain_values, settings_of, stored_values
from ltx2rt.graph.settings.settings import DRIVING_SOUND, GUIDANCE, Settings
from ltx2rt.graph.settings.weight_files import WeightFiles
from ltx2rt.graph.stages.clip_team import Budget, ClipTeam, Machines, may_group, measured_pace
from ltx2rt.graph.stages.denoise.assistance import Assistant
from ltx2rt.graph.stages.denoise.team_passes import tell_alone
from ltx2rt.graph.stages.events import Event
from ltx2rt.graph.stages.inputs import GenerationInputs
from ltx2rt.graph.stages.media_inputs import WHOLE_SOUND_S
from ltx2rt.graph.stages.run import GeneratedClip, Run
from ltx2rt.graph.stages.team_facts import agree, machine_facts
from ltx2rt.graph.stages.text.duration import predicted_frames
from ltx2rt.graph.stages.text.enhancement import enhance_prompt
from ltx2rt.graph.stages.text.stage import guided_contexts, positive_context
from ltx2rt.graph.stages.weight_set import WeightSet, sources_of
from ltx2rt.memory.allocator import give_back
from ltx2rt.memory.stage import StageReport
from ltx2rt.paths import expanded
from ltx2rt.spelling import spelled
from ltx2rt.team.team import Team
from ltx2rt.types import Array
from ltx2rt.weights.checkpoint import Checkpoint
from ltx2rt.weights.kept_weights import KeptWeights
from ltx2rt.weights.lora.fusing import is_changed

if TYPE_CHECKING:
    from typing_extensions import Unpack

log = logging.getLogger(__name__)

# Used where the checkpoint is the embedded model: a clip that takes seconds on two cores.
EMBEDDED_HEIGHT, EMBEDDED_WIDTH, EMBEDDED_FRAMES = 256, 256, 25


class Pipeline:
    """A pipeline with its opened weight files. Calling it loads and runs one stage after the other.

    Where the weights of all stages fit the budget of a call together, beside what the largest stage needs, they stay in
    memory: the next call reads none of them. `close`, or the end of a ``with`` block, gives that memory back. Otherwise
    each stage frees its weights before the next one begins. The result is the same.

    Attributes:
        entry: what the pipeline says about itself.
        has_fixed_schedule: whether it takes the fixed distilled schedule, without guidance.
        is_embedded: whether it runs the small model inside the package.
        keep_loaded: whether weights stay in memory. None: where they fit; True: a call in whose budget they do not fit
            is an error; False: never. A change counts from the next call on.
    """

    def __init__(
        self,
        entry: PipelineEntry,
        files: WeightSet,
        dtype: mx.Dtype,
        origin: PipelineFiles,
        variant: str,
        keep_loaded: bool | None = None,
    ) -> None:
        self.entry = entry
        self.is_embedded = origin.is_embedded
        self.keep_loaded = keep_loaded
        self.has_fixed_schedule = entry.has_fixed_schedule(variant)
        self._files = files
        self._dtype = dtype
        self._origin = origin
        self._kept = KeptWeights()

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the memory of the weights back.

        Clips that were made can still be read, and the pipeline can be called: what is needed is loaded again.
        """
        # Runs that are not at their end (frames still to be read) know the old store alone, and keep nothing any more.
        self._kept = KeptWeights()
        give_back()

    @property
    def kept_bytes(self) -> int:
        """Bytes of the weights that are in memory for the next call."""
        return self._kept.nbytes

    @property
    def loras(self) -> tuple[tuple[Path, float], ...]:
        """The LoRA files in use, with their strengths."""
        return self._origin.used.loras

    def set_loras(self, loras: Sequence[Lora]) -> None:
        """Take other LoRAs or strengths from the next call on, whose result is that of a pipeline loaded with them.

        Weights that no LoRA changes stay in memory.

        Args:
            loras: as for `ltx2rt.load`; empty: none.

        Raises:
            UsageError: no list of LoRA files, or a strength outside its range.
            CheckpointError: a file is missing, damaged or for another model. The LoRAs are then those from before.
        """
        stored = stored_values(WeightFiles, {"loras": loras})
        origin = replace(self._origin, given=replace(self._origin.given, **stored))
        self._files = self._files.with_loras(origin.used.loras)
        self._origin = origin
        changed = self._files.loras
        self._kept.want(
            {
                key: size
                for key, size in self._kept.sizes.items()
                if not key.loras and not is_changed(key.component, key.spec.name, changed)
            }
        )

    @property
    def name(self) -> str:
        return self.entry.name

    def __repr__(self) -> str:
        return f"<Pipeline {self.name}: {self._files.checkpoint.path}>"

    @property
    def components(self) -> dict[str, OpenedComponent]:
        """Name -> what has been opened, with its file, configuration and tensors: ``transformer``, ``video_vae``."""
        return components_of(self._files)

    @property
    def weights(self) -> tuple[Path, ...]:
        """Every weight file that a call reads, and every folder of such files."""
        return self._origin.weights_with(source.path for source in self._files.sources.values())

    @property
    def taken(self) -> Mapping[str, Path]:
        """Argument of `ltx2rt.load` -> the file that was taken for it without having been named."""
        return self._files.taken

    @property
    def generation(self) -> str:
        """Name of the model's generation."""
        return self._files.generation.name

    @property
    def defaults(self) -> GenerationDefaults:
        """What a call uses for everything it is not given."""
        defaults = self._for_small_model(self.entry.adjusted(defaults_for(self._files.generation)))
        if self.is_embedded:
            return replace(defaults, height=EMBEDDED_HEIGHT, width=EMBEDDED_WIDTH, num_frames=EMBEDDED_FRAMES)
        if self.entry.two_stage:
            return replace(defaults, height=2 * defaults.height, width=2 * defaults.width)
        return defaults

    def _for_small_model(self, defaults: GenerationDefaults) -> GenerationDefaults:
        """Perturbed blocks at the same relative depth; the official ones do not exist in a small transformer."""
        layers = self._files.config(TRANSFORMER).num_layers
        official_layers = 48
        if layers >= official_layers:
            return defaults

        def moved(guider: GuiderParams) -> GuiderParams:
            return replace(guider, stg_blocks=tuple(block * layers // official_layers for block in guider.stg_blocks))

        return replace(defaults, video_guider=moved(defaults.video_guider), audio_guider=moved(defaults.audio_guider))

    @overload
    def __call__(
        self,
        prompt: str | None = None,
        *,
        observer: Callable[[Event], None] | None = None,
        on_settings: Callable[[Mapping[str, Any]], None] | None = None,
        on_preview: Callable[[Preview], None] | None = None,
        preview_decoder: str | PathLike[str] | None = None,
        state_folder: str | PathLike[str] | None = None,
        resume: bool = False,
        noted: Mapping[str, Any] | None = None,
        repeated: Record | None = None,
        memory: str | int | None = None,
        team: Team | None = None,
        **settings: Unpack[CallArguments],
    ) -> Clip: ...

    @overload
    def __call__(
        self,
        prompt: list[str] | tuple[str, ...],
        *,
        observer: Callable[[Event], None] | None = None,
        on_settings: Callable[[Mapping[str, Any]], None] | None = None,
        on_preview: Callable[[Preview], None] | None = None,
        preview_decoder: str | PathLike[str] | None = None,
        memory: str | int | None = None,
        team: Team | None = None,
        **settings: Unpack[CallArguments],
    ) -> list[Clip]: ...

    def __call__(
        self,
        prompt: str | list[str] | tuple[str, ...] | None = None,
        *,
        observer: Callable[[Event], None] | None = None,
        on_settings: Callable[[Mapping[str, Any]], None] | None = None,
        on_preview: Callable[[Preview], None] | None = None,
        preview_decoder: str | PathLike[str] | None = None,
        state_folder: str | PathLike[str] | None = None,
        resume: bool = False,
        noted: Mapping[str, Any] | None = None,
        repeated: Record | None = None,
        memory: str | int | None = None,
        team: Team | None = None,
        **settings: Unpack[CallArguments],
    ) -> Clip | list[Clip]:
        """Generate a clip, or one for each prompt of a list, one after the other.

        Args:
            prompt: what to generate; may be missing when ``embedding`` or ``zero_text`` is given. Of a list every
                prompt has the same settings, the seed included; all are checked before the first one runs.
            observer: called with every event; raise `Cancelled` from it to stop.
            on_settings: called once with the resolved settings before anything is loaded.
            on_preview: called after every sampler step with a `Preview` that can be decoded on demand.
            preview_decoder: file of a tiny decoder (taehv) that decodes previews in place of the video VAE.
            state_folder: keep there what is computed, so that an interrupted run can be continued; `Clip.save`
                removes it.
            resume: continue what is in ``state_folder``.
            noted: JSON values that are kept in ``state_folder`` beside the settings, for whoever continues.
            repeated: the record of a run that this one repeats; its weights and inputs must be the same.
            memory: what the process may take, ``12GB`` or bytes; None: most of what is free. It decides what is
                streamed from disk and worked on in parts, not the result.
            team: machines that share the denoising, of which this one leads (`ltx2rt.team`); the others call `assist`.
                The result is that of one machine. None: this one does all.
            settings: see `Settings`. ``num_frames=None`` makes the clip of audio-to-video as long as its sound.

        Returns:
            A `Clip` whose sound is ready and whose frames decode while they are read; a list of them for a list.

        Raises:
            UsageError: a setting cannot work.
            CheckpointError: a weight file lacks something.
            MediaError: an input cannot be read.
            StateError: ``resume`` of a state that is damaged.
            MemoryBudgetError: a stage does not fit, or with ``keep_loaded=True`` the weights of all; before anything is
                loaded. `OutOfMemory`: the system refuses memory later.
            NotFiniteError: a model computed values that are not finite numbers.
            MachineLost: another machine of the team says nothing, or cannot do its part. One that has gone is done
                without.
        """
        for name, called in (("observer", observer), ("on_settings", on_settings), ("on_preview", on_preview)):
            if called is not None and not callable(called):
                raise UsageError(f"{name} must be a function, got {called!r}.")
        if isinstance(prompt, (list, tuple)):
            if state_folder is not None or repeated is not None:
                raise UsageError("state_folder and repeated are of one run; give one prompt with them, not a list.")
            self._check_all(prompt, settings)
            return [
                self(
                    one,
                    observer=observer,
                    on_settings=on_settings,
                    on_preview=on_preview,
                    preview_decoder=preview_decoder,
                    memory=memory,
                    team=team,
                    **settings,
                )
                for one in prompt
            ]
        inputs, record = self._prepare({"prompt": prompt, **settings}, self._files)
        store = self._kept
        self._files.require_finite_loras()
        if on_preview is None and preview_decoder is not None:
            raise UsageError("preview_decoder decodes previews, which nobody looks at; give on_preview, too.")
        call = Call(
            self._files,
            store,
            memory,
            keep_loaded=self.keep_loaded,
            previews=None if on_preview is None else Previews.of(on_preview, preview_decoder, inputs),
            team=None if team is None else self._lead(team, memory),
        )
        works: list[Callable[[Run], Any]] = [self._generate]
        planned = call.planned(self._generate, inputs.shortest)
        if inputs.duration is not None:
            # How long the clip will be is only known once the prompt is encoded. The shortest one fits.
            works = [self._begin, self.entry.generate]
            planned = call.planned(self._begin, inputs)
        if repeated is not None:
            record.require_same_sources(repeated)
        if on_settings is not None:
            on_settings(self._shown(record))
        state = None
        if state_folder is not None:
            state = RunState.begin(_folder(state_folder), record, resume=resume, noted=noted)
        journal = None if state is None else state.journal()
        reports: list[StageReport] = []
        try:
            for number, work in enumerate(works):
                if number:
                    planned = call.planned(work, inputs)
                run = call.run(inputs, planned, observer, journal)
                run.stages.reports[:0] = reports
                made = work(run)
                inputs, reports = run.inputs, run.stages.reports
            if inputs.settings.enhance_prompt:
                record = replace(record, result={"enhanced_prompt": inputs.prompt})
            return Clip(made, run, record, state)
        except BaseException as error:
            if isinstance(error, OutOfMemory):
                store.want({})  # so that the same call may work another time
            if state is not None:
                state.remove_if_empty()
            raise

    def assist(
        self,
        team: Team,
        memory: str | int | None = None,
        *,
        messages: Iterator[tuple[Any, list[Array | None]]] | None = None,
    ) -> None:
        """Take part in the clips of another machine, which leads the team and calls this pipeline with it.

        This returns when the leader lets the team go. Weights that were loaded stay until then.

        Args:
            team: of which this machine does not lead.
            memory: what the process may take, as for a call.
            messages: of the leader (`Team.messages`), where the first ones have been read already; None: none has.

        Raises:
            UsageError: this machine leads, or differs from the leader in weights, versions or settings.
            MachineLost: the leader has gone or says nothing, or a machine has too little memory for its part.
        """
        if team.leads:
            raise UsageError("this machine leads the team; call the pipeline with it, and assist on the others.")
        assistant = Assistant(team, self._files, lambda kept: ledger(memory, kept))
        for head, arrays in team.messages() if messages is None else messages:
            if head["do"] == "clip":
                accounts = ledger(memory)
                agree(
                    team,
                    self._facts(team),
                    Budget(accounts.budget, accounts.base),
                    allow_mixed=head["allow_mixed"],
                )
                may_group(team, head["split"])
                measured_pace(team, head["split"])
            else:
                assistant.stage(head, arrays)

    def _lead(self, team: Team, memory: str | int | None) -> ClipTeam:
        """A clip begins: the machines compare what they have."""
        if not team.leads:
            raise UsageError(f"machine {team.rank} does not lead the team; call assist(team) there.")
        accounts = ledger(memory, self._kept.nbytes)
        budget = Budget(accounts.budget, accounts.base)
        allow_mixed, split = team.rules.allow_mixed, team.rules.split
        if not team.is_there:
            return ClipTeam(team, (budget,))
        try:
            team.tell({"do": "clip", "allow_mixed": allow_mixed, "split": split, "request": team.rules.request})
            budgets = agree(team, self._facts(team), budget, allow_mixed=allow_mixed)
            grouping, pace = may_group(team, split), measured_pace(team, split)
            team.rest()
        except ConnectionLost as error:
            tell_alone(error)
            return ClipTeam(team, (budget,))
        return ClipTeam(team, budgets, grouping=grouping, pace=pace)

    def facts(self) -> dict[str, str]:
        """What machines must have in common to make a clip together: fact -> value."""
        return {"pipeline": self.name, **machine_facts(self._files, self._dtype)}

    def _facts(self, team: Team) -> dict[str, str]:
        return {**team.rules.terms, **self.facts()}

    def _check_all(self, prompts: Sequence[Any], settings: CallArguments) -> None:
        """Raise UsageError when one of a list of prompts cannot work."""
        if not prompts:
            raise UsageError("the list of prompts is empty; give one prompt or more.")
        for one in prompts:
            if not isinstance(one, str):
                raise UsageError(f"prompt must be a text or a list of texts, got {one!r} in a list.")
            self.record_for(one, **settings)

    def record_for(self, prompt: str | None = None, **settings: Unpack[CallArguments]) -> Record:
        """What a call with these settings would be made from; checks them and runs nothing.

        Raises:
            UsageError, CheckpointError, MediaError: as calling the pipeline.
        """
        return self._prepare({"prompt": prompt, **settings}, self._files)[1]

    def plan(
        self,
        prompt: str | None = None,
        *,
        memory: str | int | None = None,
        rates: Rates | None = None,
        preview_decoder: str | PathLike[str] | None = None,
        machines: Machines | None = None,
        **settings: Unpack[CallArguments],
    ) -> tuple[Plan, list[str]]:
        """What a call with these settings would take; loads nothing.

        Args:
            prompt: its length counts.
            memory: see `__call__`.
            rates: speeds to predict seconds with; default: measured and assumed ones.
            preview_decoder: see `__call__`; its memory counts.
            machines: that share the denoising stages, and the one to plan for: the leader runs everything else, the
                others have these stages alone. None: one machine.
            settings: see `Settings`.

        Returns:
            The plan, and which files it assumes in the place of those that were not given.

        Raises:
            MemoryBudgetError: a stage does not fit.
            MachineLost: another machine has too little memory for its part.
            UsageError, CheckpointError, MediaError: as calling the pipeline.
        """
        files, assumed = with_assumed(self._files)
        inputs, _ = self._prepare({"prompt": prompt, **settings}, files)
        speeds = measured_rates() if rates is None else rates
        previews = None if preview_decoder is None else Previews.of(None, preview_decoder, inputs)
        call = Call(files, self._kept, memory, keep_loaded=self.keep_loaded, previews=previews, machines=machines)
        if machines is None or machines.rank == 0:
            found = call.planned(self._generate, inputs, speeds).plan
        else:
            found = plan_assistance(self._generate, files, inputs, call.accounts(), machines, speeds)
        names = {stage.need.name for stage in found.stages}
        told = [text for text in assumed if any(text.startswith(name) for name in names)]
        if inputs.duration is not None:
            told.append(
                f"length: {inputs.num_frames} frames, the longest that may be predicted; {spelled('num_frames', 'N')} "
                "plans another"
            )
        return found, told

    def with_checkpoint(self, checkpoint: Checkpoint) -> Pipeline:
        """The same pipeline with another checkpoint of the same generation."""
        other = copy.copy(self)
        other._files = self._files.with_sources(sources_of(checkpoint))
        other._kept = KeptWeights()
        return other

    def _prepare(self, settings: Mapping[str, Any], files: WeightSet) -> tuple[GenerationInputs, Record]:
        fixed = self.has_fixed_schedule
        asked = Settings.of(_as_long_as_the_sound(settings, self.entry), DIFFUSERS_NAMES)
        require_parts(files, asked, self.entry)
        decided = decide(
            asked,
            self.entry,
            self.defaults,
            fixed_schedule=fixed,
            no_length=no_length(files),
            frames_per_latent=frames_per_latent(files),
        )
        inputs = open_inputs(decided, self.entry, files, fixed_schedule=fixed, dtype=self._dtype)
        topics = self.entry.topics - GUIDANCE if fixed else self.entry.topics
        stored = decided.as_dict(topics)
        return inputs, Record.of(
            self._origin.arguments, stored, self.weights, input_files(decided), decided.inputs_in_memory()
        )

    def _generate(self, run: Run) -> GeneratedClip:
        """What a call does with a run, planned or real."""
        self._begin(run)
        return self.entry.generate(run)

    def _begin(self, run: Run) -> None:
        """What comes before the pipeline: the prompt is rewritten and the length predicted, where that is wanted."""
        settings = run.inputs.settings
        if settings.enhance_prompt:
            has_image = bool(settings.images)
            if has_image and not run.planning:
                log.warning("the prompt enhancement does not see the image; it rewrites the text alone")
            text = enhance_prompt(run, run.inputs.prompt, settings.enhancement, has_image=has_image)
            run.inputs = replace(run.inputs, settings=replace(settings, prompt=text))
        duration = run.inputs.duration
        if duration is not None:
            is_guided = self.entry.is_guided and not run.inputs.fixed_schedule
            context, negative = guided_contexts(run) if is_guided else (positive_context(run), None)
            frames = predicted_frames(run, context, duration, with_sound=not self.entry.silent)
            run.inputs = replace(
                run.inputs,
                context=context,
                negative_context=negative,
                num_frames=frames,
                duration=None,
                media=run.inputs.media.placed(frames),
            )
            run.inputs.check()  # again: places in the clip that it may be too short for

    def _shown(self, record: Record) -> dict[str, Any]:
        defaults = plain_values(Settings())
        shown: dict[str, Any] = {"pipeline": self.name, "checkpoint": str(self._files.checkpoint.path)}
        if self.is_embedded:
            shown["embedded_model"] = True
        return (
            shown
            | {key: value for key, value in record.files.items() if key not in shown}
            | {name: value for name, value in record.settings.items() if value != defaults.get(name)}
        )


def _as_long_as_the_sound(settings: Mapping[str, Any], entry: PipelineEntry) -> Mapping[str, Any]:
    """Arguments of a call in which ``num_frames=None``, where sound drives the video, asks for all of the sound.

    Source: Lightricks/LTX-2 ltx_pipelines/a2vid_two_stage.py @ 1.4.
    """
    lengths = ("num_frames", "duration", "audio_max_duration")
    if DRIVING_SOUND not in entry.topics or "num_frames" not in settings:
        return settings
    if any(settings.get(name) is not None for name in lengths):
        return settings
    return {**settings, "audio_max_duration": WHOLE_SOUND_S}


def _folder(path: Any) -> Path:
    if not isinstance(path, (str, PathLike)):
        raise UsageError(f"state_folder must be a path, got {path!r}.")
    return expanded(path)


def _with_settings(method: Callable[..., Any]) -> inspect.Signature:
    """The signature of a method with every setting spelled out, which completion and `help` show."""
    signature = inspect.signature(method)
    own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    settings = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=entry.default, annotation=said.kind.annotation)
        for name, (entry, said) in settings_of(Settings).items()
        if name not in signature.parameters
    ]
    return signature.replace(parameters=[*own, *settings])


for _method in (Pipeline.__call__, Pipeline.plan, Pipeline.record_for):
    _method.__signature__ = _with_settings(_method)  # type: ignore[union-attr]  # functions take attributes
