"""A pipeline with opened weight files, ready to be called."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlx.core as mx

from ltx2rt.api.clip import Clip
from ltx2rt.api.planning import ledger
from ltx2rt.api.planning import rates as measured_rates
from ltx2rt.api.previews import Preview, PreviewObserver
from ltx2rt.api.record import Record
from ltx2rt.api.resolve import build_request, enhancement_options, guidance_settings, input_files, resolve
from ltx2rt.api.run_state import RunState
from ltx2rt.api.settings import EDITING, Settings
from ltx2rt.graph.diffusion.guidance import GuiderParams
from ltx2rt.graph.models.transformer.model import TransformerConfig
from ltx2rt.graph.pipelines import PIPELINES
from ltx2rt.graph.pipelines.assumed_files import with_assumed
from ltx2rt.graph.pipelines.defaults import GenerationDefaults, defaults_for, high_quality
from ltx2rt.graph.pipelines.plan import Plan, Rates, plan
from ltx2rt.graph.stages.events import Event
from ltx2rt.graph.stages.model_files import ModelFiles
from ltx2rt.graph.stages.request import Request
from ltx2rt.graph.stages.run import Run
from ltx2rt.graph.stages.text.enhancement import enhance_prompt
from ltx2rt.memory.ledger import Ledger
from ltx2rt.weights.checkpoint import Checkpoint

log = logging.getLogger(__name__)

# Used where the checkpoint is the embedded model: a clip that takes seconds on two cores.
EMBEDDED_HEIGHT, EMBEDDED_WIDTH, EMBEDDED_FRAMES = 256, 256, 25


@dataclass(frozen=True)
class PipelineFiles:
    """What a pipeline was loaded from, as `load` got it, for records."""

    arguments: Mapping[str, Any]
    weights: tuple[Path, ...]


class Pipeline:
    """A pipeline with its opened weight files. Calling it loads, runs and frees one stage after the other.

    Attributes:
        name: of the pipeline.
        distilled: whether it takes the fixed distilled schedule, without guidance.
        is_embedded: whether it runs the small model inside the package.
    """

    def __init__(
        self,
        name: str,
        files: ModelFiles,
        dtype: mx.Dtype,
        origin: PipelineFiles,
        *,
        is_embedded: bool,
        distilled_checkpoint: bool,
    ) -> None:
        self.name = name
        self.distilled = not PIPELINES[name].guided or (name in EDITING and distilled_checkpoint)
        self.is_embedded = is_embedded
        self._files = files
        self._dtype = dtype
        self._origin = origin

    @property
    def defaults(self) -> GenerationDefaults:
        """What a call uses for everything it is not given."""
        defaults = defaults_for(self._files.checkpoint.model_version)
        if self.name == "two-stage-hq":
            defaults = high_quality(defaults)
        defaults = self._for_small_model(defaults)
        if self.is_embedded:
            return replace(defaults, height=EMBEDDED_HEIGHT, width=EMBEDDED_WIDTH, num_frames=EMBEDDED_FRAMES)
        if PIPELINES[self.name].two_stage:
            return replace(defaults, height=2 * defaults.height, width=2 * defaults.width)
        return defaults

    def _for_small_model(self, defaults: GenerationDefaults) -> GenerationDefaults:
        """Perturbed blocks at the same relative depth; the official ones do not exist in a small transformer."""
        layers = TransformerConfig.from_dict(self._files.checkpoint.section("transformer")).num_layers
        official_layers = 48
        if layers >= official_layers:
            return defaults

        def moved(guider: GuiderParams) -> GuiderParams:
            return replace(guider, stg_blocks=tuple(block * layers // official_layers for block in guider.stg_blocks))

        return replace(defaults, video_guider=moved(defaults.video_guider), audio_guider=moved(defaults.audio_guider))

    def __call__(
        self,
        prompt: str | None = None,
        *,
        observer: Callable[[Event], None] | None = None,
        on_settings: Callable[[Mapping[str, Any]], None] | None = None,
        on_preview: Callable[[Preview], None] | None = None,
        state_folder: str | Path | None = None,
        resume: bool = False,
        repeated: Record | None = None,
        memory: str | int | None = None,
        **settings: Any,
    ) -> Clip:
        """Generate a clip.

        Args:
            prompt: what to generate; may be missing when ``embedding`` or ``no_gemma`` is given.
            observer: called with every event; raise `Cancelled` from it to stop.
            on_settings: called once with the resolved settings before anything is loaded.
            on_preview: called after every sampler step with a `Preview` that can be decoded on demand.
            state_folder: keep there what is computed, so that an interrupted run can be continued; `Clip.save`
                removes it.
            resume: continue what is in ``state_folder``.
            repeated: the record of a run that this one repeats; its weights and inputs must be the same.
            memory: what the process may take, ``12GB`` or bytes; None: most of what is free. It decides what is
                streamed from disk and worked on in parts, not the result.
            settings: see `Settings`.

        Returns:
            A `Clip` whose sound is ready and whose frames decode while they are read.

        Raises:
            UsageError: a setting cannot work.
            CheckpointError: a weight file lacks something.
            MediaError: an input cannot be read.
            MemoryBudgetError: a stage does not fit; before anything is loaded, unless the system refuses memory later.
        """
        resolved, request, record = self._prepare({"prompt": prompt, **settings}, self._files)
        entry = PIPELINES[self.name]
        accounts = ledger(memory)
        plan(self.name, self._files, request, Ledger(accounts.budget, accounts.base), Rates(1.0, 1.0))
        if repeated is not None:
            record.require_same_sources(repeated)
        if on_settings is not None:
            on_settings(self._shown(record, resolved))
        state = None
        if state_folder is not None:
            state = RunState.begin(Path(state_folder), record, resume=resume)
        if on_preview is not None:
            observer = PreviewObserver(self._files, request, entry.two_stage, on_preview, observer)
        run = Run(self._files, request, observer, journal=None if state is None else state.journal(), ledger=accounts)
        try:
            run.request, record = self._enhanced(run, resolved, record)
            return Clip(entry.generate(run), run, resolved, record, state)
        except BaseException:
            if state is not None:
                state.remove_if_empty()
            raise

    def resolve(self, prompt: str | None = None, **settings: Any) -> Record:
        """What a call with these settings would be made from; checks them and runs nothing.

        Raises:
            UsageError, CheckpointError, MediaError: as calling the pipeline.
        """
        return self._prepare({"prompt": prompt, **settings}, self._files)[2]

    def plan(
        self,
        prompt: str | None = None,
        *,
        memory: str | int | None = None,
        rates: Rates | None = None,
        **settings: Any,
    ) -> tuple[Plan, list[str]]:
        """What a call with these settings would take; loads nothing.

        Args:
            prompt: its length counts.
            memory: see `__call__`.
            rates: speeds to predict seconds with; default: measured and assumed ones.
            settings: see `Settings`.

        Returns:
            The plan, and which files it assumes in the place of those that were not given.

        Raises:
            MemoryBudgetError: a stage does not fit.
            UsageError, CheckpointError, MediaError: as calling the pipeline.
        """
        files, assumed = with_assumed(self._files)
        _, request, _ = self._prepare({"prompt": prompt, **settings}, files)
        found = plan(self.name, files, request, ledger(memory), measured_rates() if rates is None else rates)
        names = {stage.need.name for stage in found.stages}
        return found, [text for text in assumed if any(text.startswith(name) for name in names)]

    def with_checkpoint(self, checkpoint: Checkpoint) -> Pipeline:
        """The same pipeline with another checkpoint of the same generation."""
        other = copy.copy(self)
        other._files = replace(self._files, checkpoint=checkpoint)
        return other

    def _prepare(self, settings: Mapping[str, Any], files: ModelFiles) -> tuple[Settings, Request, Record]:
        given = Settings.of(settings)
        resolved = resolve(given, self.name, self.defaults, distilled=self.distilled)
        request = build_request(resolved, self.name, files, distilled=self.distilled, dtype=self._dtype)
        PIPELINES[self.name].check(request, files)
        record = Record.of(
            self._origin.arguments,
            resolved.as_dict(self.name, without=guidance_settings() if self.distilled else ()),
            list(self._origin.weights),
            input_files(resolved),
        )
        return resolved, request, record

    def _enhanced(self, run: Run, resolved: Settings, record: Record) -> tuple[Request, Record]:
        """Request and record with the rewritten prompt, if one is wanted."""
        if not resolved.enhance_prompt:
            return run.request, record
        has_image = bool(resolved.images)
        if has_image:
            log.warning("the prompt enhancement does not see the image; it rewrites the text alone")
        text = enhance_prompt(run, run.request.prompt, enhancement_options(resolved), has_image=has_image)
        return replace(run.request, prompt=text), replace(record, result={"enhanced_prompt": text})

    def _shown(self, record: Record, resolved: Settings) -> dict[str, Any]:
        shown: dict[str, Any] = {"pipeline": self.name, "checkpoint": str(self._files.checkpoint.path)}
        if self.is_embedded:
            shown["embedded_model"] = True
        return (
            shown
            | {key: value for key, value in record.files.items() if key not in shown}
            | {name: record.settings[name] for name in resolved.given() if name in record.settings}
        )
