"""The configuration of a set of files, section by section, whichever of them states it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ltx2rt.errors import CheckpointError
from ltx2rt.weights.config import config_section
from ltx2rt.weights.inferred_config import transformer_section
from ltx2rt.weights.names.official import DIFFUSION_PARTS, DIFFUSION_VAE
from ltx2rt.weights.tensor_source import TensorInfo

Section = dict[str, Any]

_OF_CONNECTORS = ("connector_", "audio_connector_")
_OF_TEXT_PATH = (*_OF_CONNECTORS, "caption_proj", "text_encoder_norm_type")


@dataclass(frozen=True)
class Description:
    """What the files of a set say about the model together.

    Attributes:
        stated: what each file states, the one that holds the transformer first.
        holders: component -> what the file that holds it states.
        tensors: component -> local name -> entry.
    """

    stated: Sequence[Mapping[str, Any]]
    holders: Mapping[str, Mapping[str, Any]]
    tensors: Mapping[str, Mapping[str, TensorInfo]]
    _sections: dict[str, Section] = field(default_factory=dict, init=False, repr=False, compare=False)

    def section(self, component: str, name: str, where: str) -> Section:
        """The section ``name``, which describes ``component``.

        It is taken from the file that holds the component, else from any other that states it, else from the tensors.
        That of a text encoder says which one it is: what another file, which may have one of its own, says of it does
        not count, nor does what it says of a video VAE of the other kind.
        What a connector's file says about the connectors comes before what the transformer's file says about them.

        Raises:
            CheckpointError: no file states it, and it cannot be inferred; ``where`` names the file.
        """
        if name != "transformer":
            return config_section({name: self._stated(component, name)}, self.tensors, name, where)
        if name not in self._sections:
            self._sections[name] = self._transformer(where)
        return self._sections[name]

    def _stated(self, component: str, name: str) -> Section:
        own = self.holders.get(component, {})
        others = () if name == "text_encoder" else self.stated
        for stated in (own, *others):
            if stated.get(name) and (stated is own or self._is_of_kind(stated[name], component)):
                return dict(stated[name])
        return {}

    def _is_of_kind(self, section: Section, component: str) -> bool:
        """Whether a section describes a decoder of the kind that the video VAE has; of other components always."""
        names = self.tensors.get(component, {})
        if component != "video_vae" or not any(name.startswith("decoder.") for name in names):
            return True
        is_diffusion = any(name.startswith(DIFFUSION_PARTS) for name in names)
        return is_diffusion == (section.get("_class_name") == DIFFUSION_VAE)

    def _transformer(self, where: str) -> Section:
        section = self._stated("transformer", "transformer")
        connectors = self.holders.get("video_connector", {}).get("transformer") or {}
        if section:
            if not any(key.startswith(_OF_TEXT_PATH) for key in (*section, *connectors)):
                section = {**self._inferred_text_path(where), **section}
            section |= self._own_connectors(connectors)
        else:
            inferred = config_section({}, self.tensors, "transformer", where)
            section = {**inferred, **{k: v for k, v in connectors.items() if k.startswith(_OF_CONNECTORS)}}
        return config_section({"transformer": section}, self.tensors, "transformer", where)

    def _own_connectors(self, stated: Section) -> Section:
        """What the file of the connectors says about them; one that says nothing has the blocks that are in it."""
        if stated or not self.tensors.get("video_connector"):
            return {key: value for key, value in stated.items() if key.startswith(_OF_CONNECTORS)}
        blocks = [re.match(r"transformer_1d_blocks\.(\d+)\.", name) for name in self.tensors["video_connector"]]
        return {"connector_num_layers": 1 + max((int(found[1]) for found in blocks if found), default=-1)}

    def _inferred_text_path(self, where: str) -> Section:
        """What the tensors tell about the connectors and the projections; nothing where they do not."""
        tensors = {name: found for name, found in self.tensors.items() if name != "transformer"}
        try:
            inferred = transformer_section(tensors, where)
        except CheckpointError:
            return {}  # the defaults of the official configuration count
        return {key: value for key, value in inferred.items() if key.startswith(_OF_TEXT_PATH)}
