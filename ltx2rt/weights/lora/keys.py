"""The names of tensors in LoRA files: which module of which component each belongs to, and which part it is."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from ltx2rt.weights.names.diffusers import CONNECTOR_TOPS, TABLES, TRANSFORMER_TOPS
from ltx2rt.weights.names.official import TRANSFORMER


class Key(NamedTuple):
    """One tensor name, taken apart.

    ``module`` as the file writes it; ``part``: what the tensor is of it (see `_ENDINGS`); ``adapter``: the name that
    PEFT puts between factor and ``weight``, or empty.
    """

    module: str
    part: str
    adapter: str = ""


class Target(NamedTuple):
    """A tensor of the model: `identity` of its module, and ``weight`` or ``bias``."""

    module: str
    part: str


_DOWN = r"\.lora_A|\.lora_down|\.lora\.down|_lora\.down|\.lora_linear_layer\.down"
_UP = r"\.lora_B|\.lora_up|\.lora\.up|_lora\.up|\.lora_linear_layer\.up"
_ADAPTER = r"(?:\.(?!weight|bias)(?P<adapter>.+?))?"
_WEIGHT = rf"(?:{_ADAPTER}\.weight)?"
# Of parameters that are no modules; what is called a scale is the one of a quantised tensor.
_PARAMETER = r"(?:\.(?!weight|bias|.*scale)(?P<adapter>.+?))?(?:\.weight)?"

# Part -> how names of it end. The parts are those of `kinds`.
_ENDINGS = {
    "A": rf"(?:{_DOWN}){_WEIGHT}",
    "B": rf"(?:{_UP}){_WEIGHT}",
    "B_bias": rf"(?:{_UP}){_ADAPTER}\.bias",
    "alpha": r"\.alpha",
    "magnitude": rf"\.(?:dora_scale|lora_magnitude_vector|magnitude){_PARAMETER}",
    "hada": rf"\.(?P<hada>hada_w[12]_[ab]){_PARAMETER}",
    "lokr": rf"\.(?P<lokr>lokr_w[12](?:_[ab])?){_PARAMETER}",
    "diff": r"\.(?:diff|w_norm)",
    "diff_b": r"\.(?:diff_b|b_norm)",
    "set_weight": r"\.set_weight",
}
_PATTERNS = [(part, re.compile(rf"(?P<module>.+?){ending}", re.DOTALL)) for part, ending in _ENDINGS.items()]

# Ways of changing a weight that are not supported: how tensor names show them, and what they are called.
_FOREIGN = (
    (re.compile(r"\.boft_|\.butterfly_"), "BOFT"),
    (re.compile(r"\.oft_"), "OFT"),
    (re.compile(r"\.(?:a1|a2|b1|b2|bm1|bm2)(?:\.weight)?$"), "GLoRA"),
    (re.compile(r"\.(?:lora_mid|hada_t[12]|lokr_t[12])(?:\.|$)"), "Tucker"),
    (re.compile(r"\.(?:ia3_l|on_input)(?:\.|$)"), "IA3"),
)
# What every name above has in it somewhere; most names of checkpoints have none of it, and are not looked at further.
_HINTS = (
    "lora",
    "hada_",
    "lokr_",
    "dora_",
    "magnitude",
    "w_norm",
    "b_norm",
    "set_weight",
    ".alpha",
    "oft_",
    "butterfly_",
    ".a1",
    ".a2",
    ".b1",
    ".b2",
    ".bm",
    "ia3_l",
    "on_input",
)
# Transformers have ``.diffusion_model.`` in most of their names: the end alone tells a difference.
_HINT = re.compile("|".join(map(re.escape, _HINTS)) + r"|\.diff(?:_b)?\Z")
_LONGEST_NAME = 1000
# Vocoders have ``.alpha``, too, which makes no file a LoRA.
_SIGNS = (*(hint for hint in _HINTS if hint != ".alpha"), ".diff\n", ".diff_b\n")

# Parts that make no file a LoRA: vocoders have ``.alpha``, too.
_WITHOUT_SIGN = ("alpha", "B_bias")

# In front of a module's name, in any number and order, every dot written as an underscore.
_WRAPPERS = (
    "base_model_model_",
    "model_diffusion_model_",
    "diffusion_model_",
    "lora_unet_",
    "lora_transformer_",
    "lycoris_",
    "pipe_dit_",
    "connectors_",
    "transformer_",
    "model_",
    "unet_",
    "dit_",
    "net_",
)
# Modules of the model whose names look like one of the wrappers.
_NO_WRAPPER = ("transformer_blocks_", "transformer_1d_blocks_")

_TEXT_ENCODER = re.compile(
    r"(?:lora_)?(?:te\d?|text_encoders?\d?|text_model|language_model|gemma\w*?)_"
    r"|layers_\d+_(?:self_attn|mlp|input_layernorm|post_attention_layernorm)\b|layers_\d+_(?:self_attn|mlp)_"
)

# What precedes a component's local names in modules of LoRA files; other components are out of their reach.
PREFIXES = {
    "transformer": "",
    "video_connector": "video_embeddings_connector.",
    "audio_connector": "audio_embeddings_connector.",
    "text_projection": "text_embedding_projection.",
}

# First element of a name in diffusers' spelling -> ours. Dots are underscores.
_DIFFUSERS = {
    **TRANSFORMER_TOPS,
    **{theirs: ours.removeprefix(TRANSFORMER).replace(".", "_") for theirs, ours in CONNECTOR_TOPS.items()},
    "embeddings_connector": "video_embeddings_connector",
}
# The same for last elements.
_DIFFUSERS_ENDS = {
    "_norm_q": "_q_norm",
    "_norm_k": "_k_norm",
    **{f"_{theirs}": f"_{ours}" for theirs, ours in TABLES.items()},
}
_CONNECTORS = tuple(flattened.replace(".", "_") for flattened in PREFIXES.values() if "connector" in flattened)

_MODEL_MODULE = re.compile(
    r"(?:transformer_blocks_\d+|(?:audio_)?(?:patchify_proj|proj_out|caption_projection|(?:prompt_)?adaln_single)"
    r"|av_ca_(?:video_scale_shift|audio_scale_shift|a2v_gate|v2a_gate)_adaln_single"
    r"|(?:audio_)?scale_shift_table|keyframes_abs_pos_embedding)(?:_|$)"
)


def parse(name: str) -> Key | None:
    """A tensor name, taken apart; None for names that are no part of a LoRA or one of its relatives."""
    if not _may_be_part(name):
        return None
    for part, pattern in _PATTERNS:
        match = pattern.fullmatch(name)
        if match is not None:
            groups = match.groupdict()
            exact = groups.get("hada") or groups.get("lokr") or part
            return Key(match["module"], exact, groups.get("adapter") or "")
    return None


def foreign_method(name: str) -> str | None:
    """The method that is not supported and that a tensor name shows; None for other names."""
    if not _may_be_part(name):
        return None
    return next((method for pattern, method in _FOREIGN if pattern.search(name)), None)


def is_lora(names: Iterable[str]) -> bool:
    """Whether the tensor names are those of a LoRA file or of one of its relatives, supported or not."""
    names = list(names)
    together = "\n".join([*names, ""])  # few checkpoints have any name that is worth a look
    return any(hint in together for hint in _SIGNS) and any(_is_sign(name) for name in names)


def _may_be_part(name: str) -> bool:
    return len(name) <= _LONGEST_NAME and _HINT.search(name) is not None


def _is_sign(name: str) -> bool:
    if not _may_be_part(name):
        return False
    key = parse(name)
    return (key is not None and key.part not in _WITHOUT_SIGN) or foreign_method(name) is not None


def identity(module: str) -> str:
    """What the names of one module have in common, whoever wrote them.

    Dots and underscores are one and the same in it: flat names (``lora_unet_transformer_blocks_0_attn1_to_q``) cannot
    be taken apart, and no two modules of a model differ in nothing else. Wrappers are taken off, and diffusers' names
    are replaced.
    """
    flat = module.replace(".", "_")
    while not flat.startswith(_NO_WRAPPER):
        wrapper = next((wrapper for wrapper in _WRAPPERS if flat.startswith(wrapper)), None)
        if wrapper is None:
            break
        flat = flat[len(wrapper) :]
    for first, official in _DIFFUSERS.items():
        if (flat == first or flat.startswith(f"{first}_")) and not flat.startswith(official):
            flat = official + flat[len(first) :]
            break
    for last, official in _DIFFUSERS_ENDS.items():
        if flat.endswith(last):
            flat = flat.removesuffix(last) + official
    if flat.startswith(_CONNECTORS):
        flat = flat.replace("_transformer_blocks_", "_transformer_1d_blocks_", 1)
    return flat


def target(component: str, name: str) -> Target | None:
    """The tensor ``name`` of a component, as changes are found for it; None where LoRAs do not reach."""
    if component not in PREFIXES:
        return None
    part = "bias" if name.endswith(".bias") else "weight"
    return Target((PREFIXES[component] + name.removesuffix(f".{part}")).replace(".", "_"), part)


def component_of(module: str) -> str | None:
    """The component that a module belongs to by its `identity`; None if it is of no model that we know."""
    for component, prefix in PREFIXES.items():
        if prefix and module.startswith(prefix.replace(".", "_")):
            return component
    return "transformer" if _MODEL_MODULE.match(module) else None


def is_of_text_encoder(module: str) -> bool:
    """Whether a module, by its `identity`, belongs to a text encoder."""
    return _TEXT_ENCODER.match(module) is not None


def readable(module: str) -> str:
    """A module as messages name it: as the file writes it, without what precedes the model's own names."""
    for wrapper in ("base_model.model.", "pipe.dit.", "model.diffusion_model.", "diffusion_model.", "transformer."):
        module = module.removeprefix(wrapper)
    return module
