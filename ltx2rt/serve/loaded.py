"""The pipelines of a process of the server: opened by name, with the LoRAs of a request; one holds its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ltx2rt.api.loading import open_pipeline
from ltx2rt.api.outputs import OutputOptions
from ltx2rt.api.pipeline import Pipeline
from ltx2rt.graph.settings.setting import Setting, settings_of, stored_values
from ltx2rt.graph.settings.settings import Settings
from ltx2rt.graph.settings.weight_files import WeightFiles
from ltx2rt.serve.fields import FIELDS
from ltx2rt.serve.job_folder import JobFolder


class LoadedPipelines:
    """Opened pipelines.

    Args:
        files: settings of `WeightFiles` as JSON values.
        loras: name -> path of the LoRAs that a request may ask for.
        keep_loaded: as for `ltx2rt.load`.
    """

    def __init__(self, files: Mapping[str, Any], loras: Mapping[str, str], *, keep_loaded: bool | None = None) -> None:
        said = {name: found for name, (_, found) in settings_of(WeightFiles).items()}
        given = {name: from_plain(said[name], value) for name, value in files.items()}
        self._files = WeightFiles(**stored_values(WeightFiles, given))
        self._loras = loras
        self._keep_loaded = keep_loaded
        self._opened: dict[str, Pipeline] = {}
        self._asked: dict[str, Sequence[Sequence[Any]]] = {}
        self._current: Pipeline | None = None

    def get(self, name: str, loras: Sequence[Sequence[Any]] = ()) -> Pipeline:
        """A pipeline with these LoRAs besides those of the server. The one before gives its memory back.

        Raises:
            UsageError, CheckpointError: it cannot run with the files.
        """
        if name not in self._opened:
            self._opened[name] = open_pipeline(name, self._files, self._keep_loaded)
        pipeline = self._opened[name]
        if self._current is not None and self._current is not pipeline:
            self._current.close()
        self._current = pipeline
        if loras != self._asked.get(name, []):
            pipeline.set_loras([*self._files.loras, *((self._loras[lora], strength) for lora, strength in loras)])
            self._asked[name] = loras
        return pipeline


def weight_flags() -> dict[str, str]:
    """Setting of the weights -> the option of the command that sets it, for errors while the server starts."""
    said = {name: found for name, (_, found) in settings_of(WeightFiles).items()}
    return {name: (found.flags or (f"--{name.replace('_', '-')}",))[0] for name, found in said.items()}


def from_plain(said: Setting, value: Any) -> Any:
    """What a setting takes, from its JSON value."""
    if isinstance(value, list) and said.kind.words is not None:
        return said.kind.rows(value if said.kind.repeats else [value])
    return value


def call_settings(asked: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Arguments of a pipeline call from a stored request.

    Args:
        asked: see `Asked.as_dict`.
        folder: where its files lie.
    """
    said = {name: found for name, (_, found) in settings_of(Settings).items()}
    found: dict[str, Any] = {"prompt_cache": False}  # it lies outside of the server's folder
    for name, value in asked["settings"].items():
        form = FIELDS[name].form
        if form == "file":
            value = folder / value
        elif form in ("images", "videos"):
            value = [[str(folder / row[0]), *row[1:]] for row in value]
        found[name] = from_plain(said[name], value)
    return found


def output_options(asked: Mapping[str, Any], folder: JobFolder, *, pictures: bool) -> OutputOptions:
    """How the clip of a request is written: with a first frame and a sheet of frames beside it."""
    further = {"save_first_frame": folder.thumbnail, "contact_sheet": folder.sheet} if pictures else {}
    return OutputOptions.of({**asked["output"], **further})
