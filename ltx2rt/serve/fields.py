"""What a request may say: fields derived from the settings of a call, and names that clients of other servers use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ltx2rt.api.outputs import OutputOptions
from ltx2rt.graph.pipelines import pipelines_taking
from ltx2rt.graph.settings.kinds import (
    EmbeddingKind,
    FilePath,
    Images,
    Number,
    Switch,
    Text,
    Videos,
    Whole,
)
from ltx2rt.graph.settings.setting import Setting, settings_of
from ltx2rt.graph.settings.settings import Settings

Form = Literal["text", "whole", "number", "switch", "choice", "list", "words", "file", "images", "videos"]

# Settings of a call that a client cannot use, with what to do in place of them.
UNSERVED: Mapping[str, str] = {
    "prompt_file": "send the text as prompt",
    "latents_only": "a job makes a clip; use ltx2rt generate for latents",
    "prompt_cache": "a server keeps no prompts besides its jobs",
    "zero_text": "it tests the program; use ltx2rt generate for that",
}
# Names of other servers and clients -> the setting.
ALIASES: Mapping[str, str] = {
    "seconds": "duration",
    "fps": "frame_rate",
    "steps": "num_inference_steps",
    "guidance_scale": "video_cfg_guidance_scale",
}
# Fields that are no settings, with what they are.
OWN: Mapping[str, str] = {
    "model": "name of the served model, as GET /v1/models has it",
    "pipeline": "name of a pipeline",
    "size": "width and height, 768x512",
    "input_reference": "picture that the clip begins with",
    "loras": "LoRAs that the server was started with, by name, with strengths",
    "n": "how many clips; 1",
}


@dataclass(frozen=True)
class Field:
    """One field of a request.

    Attributes:
        name: of the field and the setting.
        said: what is said about the setting.
        default: of the setting.
        target: whether it is a setting of the call or of how the clip is written.
        form: what kind of value it takes.
    """

    name: str
    said: Setting
    default: Any
    target: Literal["settings", "output"]
    form: Form

    @property
    def is_media(self) -> bool:
        """Whether its values are files that a client uploads."""
        return self.form in ("file", "images", "videos")

    def as_dict(self) -> dict[str, Any]:
        """The field for the page that shows it."""
        said = self.said
        default = self.default if isinstance(self.default, (str, int, float)) else None
        return {
            "name": self.name,
            "label": self.name.replace("_", " "),
            "help": f"no: {said.help}" if said.turns_off else said.help,
            "group": said.group,
            "form": self.form,
            "choices": list(said.choices),
            "low": said.low,
            "high": said.high,
            "default": said.shown_default or default,
            "pipelines": list(pipelines_taking(self.name)) if self.target == "settings" else [],
        }


def _form(said: Setting) -> Form:
    kind = said.kind
    if said.choices:
        return "choice"
    for kinds, form in _FORMS:
        if isinstance(kind, kinds):
            return form
    return "list" if kind.words is not None else "words"


# The first row whose kinds a setting has decides; whatever else has one word is written as words.
_FORMS: tuple[tuple[tuple[type, ...], Form], ...] = (
    ((Images,), "images"),
    ((Videos,), "videos"),
    ((FilePath, EmbeddingKind), "file"),
    ((Switch,), "switch"),
    ((Text,), "text"),
    ((Whole,), "whole"),
    ((Number,), "number"),
)


def _fields() -> dict[str, Field]:
    found = {}
    owners: tuple[tuple[type, Literal["settings", "output"]], ...] = ((Settings, "settings"), (OutputOptions, "output"))
    for owner, target in owners:
        for name, (entry, said) in settings_of(owner).items():
            form = _form(said)
            if said.for_python or name in UNSERVED or (target == "output" and (form == "file" or name == "sidecar")):
                continue
            found[name] = Field(name, said, entry.default, target, form)
    return found


FIELDS: Mapping[str, Field] = _fields()
