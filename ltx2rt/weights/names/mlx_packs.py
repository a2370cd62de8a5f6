"""Names of packs for other MLX programs: the prefix is the component, convolutions keep their channels last."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ltx2rt.weights.names import official
from ltx2rt.weights.names.official import TRANSFORMER, locate
from ltx2rt.weights.names.origin import Origin, keeps_channels_last
from ltx2rt.weights.tensor_source import TensorInfo

_STATISTICS = {
    "mean": "mean-of-means",
    "std": "std-of-means",
    "_mean_of_means": "mean-of-means",
    "_std_of_means": "std-of-means",
}
_HALVES = re.compile(r"vae_(encoder|decoder)(?:_conv|_av)?\.")
_UPSCALER = re.compile(r"(?:upsampler|spatial_upscaler\w*|temporal_upscaler\w*|latent_\w*upscaler\w*)\.")
# After the prefix of an upscaler's file its own names follow, which begin so.
_UPSCALER_NAMES = tuple(rule.prefix for rule in official._RULES if rule.component == "upscaler")
_TRANSFORMER_MARKS = (".ff.proj_in.", ".audio_ff.proj_in.", ".timestep_embedder.linear1.")
_TRANSFORMER_MARK = re.compile("|".join(map(re.escape, _TRANSFORMER_MARKS)))
_AUDIO_PARTS = ("encoder.", "decoder.", "per_channel_statistics.")
_CONVOLUTIONS = ("vae.", "audio_vae.", "vocoder.", *_UPSCALER_NAMES)


def recognises(tensors: Mapping[str, TensorInfo], metadata: Mapping[str, str]) -> bool:
    """Whether a file has names, a stated format or an order of axes that only these packs have."""
    if metadata.get("format") == "mlx" and not any(name.startswith(("model.", "language_model.")) for name in tensors):
        return True
    return any(
        _HALVES.match(name)
        or _is_first_of_upscaler(name)
        or name.endswith("._mean_of_means")
        or name.startswith(("connector.", "text_encoder."))
        or _TRANSFORMER_MARK.search(name)
        for name in tensors
    ) or keeps_channels_last(info.shape for name, info in tensors.items() if name.startswith(_CONVOLUTIONS))


def official_names(tensors: Mapping[str, TensorInfo]) -> list[tuple[str, Origin]]:
    """(official name, origin) of every tensor of a file of such a pack."""
    before = official.wrappers(tensors)
    bare_vae = official.bare_vae_prefix(tensors)
    nested_vocoder = any(name.startswith("vocoder.bwe_generator.") for name in tensors) and not any(
        name.startswith("vocoder.vocoder.") for name in tensors
    )
    prefixed_upscaler = any(_is_first_of_upscaler(name) for name in tensors)
    result = []
    for name in tensors:
        found = _renamed(name, before, bare_vae, nested_vocoder=nested_vocoder, prefixed_upscaler=prefixed_upscaler)
        convolution = found.startswith(_CONVOLUTIONS)
        transposed = re.search(r"\.ups\.\d+\.weight$", found) is not None
        result.append((found, Origin(name, channels_last=convolution, transposed=convolution and transposed)))
    return result


def _is_first_of_upscaler(name: str) -> bool:
    """Whether something stands before the names of an upscaler, by the first of them."""
    upscaler = _UPSCALER.match(name)
    return upscaler is not None and name[upscaler.end() :].startswith("initial_conv.")


def _renamed(
    name: str, before: tuple[str, ...], bare_vae: str, *, nested_vocoder: bool, prefixed_upscaler: bool
) -> str:
    half = _HALVES.match(name)
    if half:
        return "vae." + _statistics(name[half.end() :], f"{half.group(1)}.")
    if name.startswith("connector."):
        rest = name.removeprefix("connector.")
        return rest if rest.startswith("text_embedding_projection.") else TRANSFORMER + rest
    if name.startswith("audio_vae."):
        return "audio_vae." + _statistics(name.removeprefix("audio_vae."), "decoder.")
    if name.startswith("vocoder."):
        rest = name.removeprefix("vocoder.")
        nested = nested_vocoder and not rest.startswith(("bwe_generator.", "mel_stft."))
        return f"vocoder.vocoder.{rest}" if nested else name
    if name.startswith("text_encoder."):
        return _text_encoder(name.removeprefix("text_encoder."))
    upscaler = _UPSCALER.match(name)
    if upscaler and prefixed_upscaler and name[upscaler.end() :].startswith(_UPSCALER_NAMES):
        return name[upscaler.end() :]
    found = official.official_name(name, before, bare_vae)
    if found.startswith(("vae.", "audio_vae.")):
        component, _, rest = found.partition(".")
        return f"{component}.{_statistics(rest, '')}"
    return _transformer(found) if (locate(found) or ("",))[0] == "transformer" else found


def _transformer(name: str) -> str:
    """Undo what such packs do to the names of the transformer; those of the connectors stay official."""
    name = re.sub(r"\.to_out\.(?!0\.)", ".to_out.0.", name)
    name = re.sub(r"(ff)\.proj_in\.", r"\1.net.0.proj.", name)
    name = re.sub(r"(ff)\.proj_out\.", r"\1.net.2.", name)
    return re.sub(r"\.linear([12])\.", r".linear_\1.", name)


def _text_encoder(name: str) -> str:
    return f"model.{name}" if name.startswith(("layers.", "embed_tokens.", "norm.")) else name


def _statistics(name: str, half: str) -> str:
    """A name inside a VAE, whose ``half`` it lacks unless it belongs to both."""
    head, _, last = name.rpartition(".")
    if head == "per_channel_statistics":
        return f"{head}.{_STATISTICS.get(last, last)}"
    if half == "decoder." and name.startswith(_AUDIO_PARTS):
        return name
    return half + name
