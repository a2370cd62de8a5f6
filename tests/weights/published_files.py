"""Files of the published models in every form that people have, as headers: the sizes are real, the data are holes.

Names and shapes come from the models' own lists, configurations from `published_models.json`. Each form is made by the
rules of those who publish it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from renamed_files import MODEL, bare, diffusers_configs, diffusers_repository, mlx_axes, mlx_pack, parts
from tiny_files import model_specs, upscaler_specs
from tiny_gguf import PLAIN, Stored, nbytes, write_gguf
from tiny_vocabulary import gguf_values, sentencepiece

from ltx2rt import embedded
from ltx2rt.graph.components import TEXT_ENCODER, text_encoder
from ltx2rt.types import ParamSpec
from ltx2rt.weights.tensor_source import DTYPES

PUBLISHED = json.loads((Path(__file__).parents[1] / "metal" / "published_models.json").read_text())
CONFIGS: dict[str, dict[str, Any]] = dict(PUBLISHED["models"])
# The parts of 2.5 have the shapes of 2.3 but for these.
CONFIGS["2.5"] = CONFIGS["2.3"] | {
    "transformer": CONFIGS["2.3"]["transformer"] | {"ff_bias": False, "use_keyframes_abs_pos_embedding": True}
}
UPSCALERS_25 = {
    "spatial": PUBLISHED["upscalers"]["ltx-2.3-spatial-upscaler-x2-1.0"],
    "temporal": PUBLISHED["upscalers"]["ltx-2.3-temporal-upscaler-x2-1.0"]
    | {"spatial_scale": 1.0, "rational_resampler": True},
}
VERSIONS = {"19b": "2.0.0", "2.3": "2.3.0", "2.5": "2.5.0"}
SIZES = {"19b": "19b", "2.3": "22b", "2.5": "22b"}

_GEMMA = {
    "hidden_size": 3840,
    "num_hidden_layers": 48,
    "intermediate_size": 15360,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 256,
    "sliding_window": 1024,
}
GEMMA_3 = {
    "model_type": "gemma3",
    "text_config": {**_GEMMA, "model_type": "gemma3_text", "query_pre_attn_scalar": 256, "vocab_size": 262208},
}
GEMMA_4 = {
    "model_type": "gemma4_unified",
    "gemma_version": "gemma4-12b-ltx-v1",
    "text_config": {
        **_GEMMA,
        "model_type": "gemma4_unified_text",
        "num_global_key_value_heads": 1,
        "global_head_dim": 512,
        "attention_k_eq_v": True,
        "vocab_size": 262144,
        "layer_types": (["sliding_attention"] * 5 + ["full_attention"]) * 8,
    },
}
# The states of the text encoder that the projection reads: their width, and one more than there are layers.
_STATES = (3840, 49)

_LLAMA_CPP = {
    "embed_tokens": "token_embd",
    "norm": "output_norm",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


class Listed(NamedTuple):
    """A tensor of a header; ``data`` None: a hole."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes | None = None


Header = dict[str, Listed]


def specs_of(generation: str) -> dict[str, ParamSpec]:
    """Official name -> spec of everything but the text encoder."""
    return model_specs(CONFIGS[generation], _STATES)


def encoder_specs(generation: str) -> list[ParamSpec]:
    """Of the text encoder."""
    return TEXT_ENCODER.specs(text_encoder(GEMMA_4 if generation == "2.5" else GEMMA_3))


def listed(specs: Mapping[str, ParamSpec]) -> Header:
    return {name: Listed(spec.dtype, tuple(spec.shape)) for name, spec in specs.items()}


def save(path: Path, tensors: Mapping[str, Listed], **metadata: str) -> Path:
    """A safetensors file of which the header, and the data that are given, are there."""
    entries: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    places: list[tuple[int, bytes]] = []
    end = 0
    for name, (dtype, shape, data) in tensors.items():
        size = prod(shape) * DTYPES[dtype].itemsize
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + size]}
        if data is not None:
            places.append((end, data))
        end += size
    header = json.dumps(entries).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for place, data in places:
            file.seek(8 + len(header) + place)
            file.write(data)
        file.truncate(8 + len(header) + end)
    return path


def fp8_scaled(tensors: Header) -> Header:
    """The matrices of the blocks in fp8, with a scale each."""
    result: Header = {}
    for name, tensor in tensors.items():
        if "transformer_blocks." in name and name.endswith(".weight") and len(tensor.shape) == 2:
            result[name] = Listed("F8_E4M3", tensor.shape)
            result[f"{name}_scale"] = Listed("F32", ())
        else:
            result[name] = tensor
    return result


def affine(tensors: Header, which: str, bits: int = 4, group: int = 64) -> Header:
    """MLX's 4 bits for the matrices whose names match ``which``."""
    result: Header = {}
    for name, tensor in tensors.items():
        module = name.removesuffix(".weight")
        if module == name or len(tensor.shape) != 2 or tensor.shape[1] % group or not re.search(which, name):
            result[name] = tensor
            continue
        rows, columns = tensor.shape
        result[name] = Listed("U32", (rows, columns * bits // 32))
        result[f"{module}.scales"] = result[f"{module}.biases"] = Listed("BF16", (rows, columns // group))
    return result


def save_gguf(path: Path, tensors: Header, **values: Any) -> Path:
    """A GGUF file with the mixture of types of Q4_K_M; ``values`` are those of its header, ``__`` for a dot."""
    stored = {}
    for name, (_, shape, _) in tensors.items():
        few = len(shape) < 2 or prod(shape) <= 1024 or "scale_shift_table" in name
        better = re.search(r"to_v|attn_v|net\.2|ffn_down|token_embd", name)
        dtype = "F32" if few else "F16" if shape[-1] % 256 or len(shape) > 2 else "Q6_K" if better else "Q4_K"
        assert dtype in PLAIN or len(shape) == 2
        stored[name] = Stored(dtype, shape or (1,), nbytes(dtype, shape or (1,)))
    return write_gguf(path, stored, {key.replace("__", "."): value for key, value in values.items()})


def comfyui(folder: Path, generation: str, *, prefixed: bool = False) -> Path:
    """ComfyUI's models folder with split files: bare bf16 ones without metadata, or prefixed ones in scaled fp8."""
    split = parts(listed(specs_of(generation)))
    stem = f"ltx-{generation.removesuffix('b')}-{SIZES[generation]}-distilled"
    transformer = fp8_scaled(split["transformer"]) if prefixed else bare(split["transformer"], MODEL)
    kind = "fp8_scaled" if prefixed else "bf16"
    save(folder / "diffusion_models" / f"{stem}_transformer_only_{kind}.safetensors", transformer)
    _beside(folder, generation, split, prefixed=prefixed)
    weights = {f"model.{spec.name}": Listed(spec.dtype, tuple(spec.shape)) for spec in encoder_specs(generation)}
    vocabulary = sentencepiece()
    weights["spiece_model"] = Listed("U8", (len(vocabulary),), vocabulary)
    save(folder / "text_encoders" / "gemma_3_12B_it.safetensors", weights)
    return folder


def _beside(folder: Path, generation: str, split: dict[str, Header], *, prefixed: bool = False) -> None:
    """What goes with a split transformer in ComfyUI's folder: connectors, projection, VAEs and an upscaler."""
    connectors, projection = split["connectors"], split["projection"]
    if not prefixed:
        connectors = bare(connectors, MODEL)
    if generation == "19b":  # whose files of connectors hold the projection, too
        connectors, projection = connectors | projection, {}
    stem = f"ltx-{generation}-distilled"
    save(folder / "text_encoders" / f"{stem}_embeddings_connectors.safetensors", connectors)
    if projection:
        save(folder / "text_encoders" / f"{stem}_text_projection_bf16.safetensors", projection)
    save(folder / "vae" / "video_vae_bf16.safetensors", split["vae"] if prefixed else bare(split["vae"], "vae."))
    save(folder / "vae" / "audio_vae_bf16.safetensors", split["audio"])
    upscaler = "ltx-2-spatial-upscaler-x2-1.0" if generation == "19b" else "ltx-2.3-spatial-upscaler-x2-1.0"
    config = PUBLISHED["upscalers"][upscaler]
    path = folder / "latent_upscale_models" / f"{upscaler}.safetensors"
    save(path, listed(upscaler_specs(config)), config=json.dumps(config))


def gguf(folder: Path, generation: str) -> Path:
    """A transformer and a Gemma in GGUF, bare names and llama.cpp's, beside safetensors files of the rest."""
    split = parts(listed(specs_of(generation)))
    transformer = bare(split["transformer"], MODEL)
    path = folder / "unet" / f"ltx-{generation}-distilled-Q4_K_M.gguf"
    if generation == "2.5":  # whose files hold the connectors, and most state what they are
        transformer |= bare(split["connectors"], MODEL)
        stated = {"model_version": VERSIONS[generation], "config": json.dumps(_config(generation, "transformer"))}
        save_gguf(path, transformer, general__architecture="ltxv", **stated)
        _official_25(folder, split)
        return folder
    save_gguf(path, transformer, general__architecture="ltxv")
    _beside(folder, generation, split)
    save_gguf(
        folder / "clip" / "gemma-3-12b-it-Q4_K_M.gguf",
        {_llama_cpp(spec.name): Listed(spec.dtype, tuple(spec.shape)) for spec in encoder_specs(generation)},
        **{f"gemma3__{key}": value for key, value in _gemma_values().items()},
        **gguf_values(),
    )
    return folder


def official_25(folder: Path, generation: str) -> Path:
    """The official files of 2.5, each in its folder."""
    split = parts(listed(specs_of(generation)))
    stated = {"model_version": VERSIONS[generation], "config": json.dumps(_config(generation, "transformer"))}
    stated["gemma_source_checkpoint"] = json.dumps({"ltx_version": "2.5.0", "gemma_version": "gemma4-12b-ltx-v1"})
    path = folder / "diffusion_models" / "ltx-2.5-22b-distilled-transformer-bf16.safetensors"
    save(path, split["transformer"] | split["connectors"], **stated)
    _official_25(folder, split)
    return folder


def _official_25(folder: Path, split: dict[str, Header]) -> None:
    """Text encoder with projection and tokenizer, and the VAEs."""
    tokenizer = (embedded.TEXT_ENCODER / "tokenizer.json").read_bytes()
    weights = {f"model.{spec.name}": Listed(spec.dtype, tuple(spec.shape)) for spec in encoder_specs("2.5")}
    weights |= split["projection"] | {"tokenizer_json": Listed("U8", (len(tokenizer),), tokenizer)}
    path = folder / "text_encoders" / "gemma4-12b-with-proj-ltx-2.5-bf16.safetensors"
    save(path, weights, format="pt", gemma_config=json.dumps(GEMMA_4))
    version = VERSIONS["2.5"]
    stated = {"model_version": version, "config": json.dumps(_config("2.5", "vae"))}
    save(folder / "vae" / "ltx-2.5-video-vae-conv-bf16.safetensors", bare(split["vae"], "vae."), **stated)
    stated = {"model_version": version, "config": json.dumps(_config("2.5", "audio_vae", "vocoder"))}
    save(folder / "vae" / "ltx-2.5-audio-vae-bf16.safetensors", split["audio"], **stated)
    for axis, config in UPSCALERS_25.items():
        path = folder / "latent_upscale_models" / f"ltx-2.5-latent-{axis}-upscaler-x2-bf16-1.0.safetensors"
        save(path, listed(upscaler_specs(config)), config=json.dumps(config))


def diffusers(folder: Path, generation: str) -> Path:
    """A diffusers repository with its text encoder in shards and the tokenizer in a folder of its own."""
    config = CONFIGS[generation]
    diffusers_repository(folder, listed(specs_of(generation)), diffusers_configs(config), save)
    _gemma_folder(folder / "text_encoder", shards=5)
    _tokenizer(folder / "tokenizer")
    return folder


def mlx(folder: Path, generation: str) -> Path:
    """A pack for MLX programs in 4 bits; that of 2.5 has its text encoder inside, beside others a Gemma folder lies."""
    tensors = listed(specs_of(generation))

    def save_packed(path: Path, found: Mapping[str, Listed], **metadata: str) -> None:
        save(path, affine(dict(found), r"^transformer\.transformer_blocks\."), **metadata)

    mlx_pack(folder, tensors, CONFIGS[generation], VERSIONS[generation], save_packed, _channels_last)
    if generation != "2.5":
        _gemma_folder(folder / "gemma-3-12b-it-4bit", shards=1, bits=4)
        _tokenizer(folder / "gemma-3-12b-it-4bit")
        return folder
    encoder = {f"text_encoder.model.{s.name}": Listed(s.dtype, tuple(s.shape)) for s in encoder_specs(generation)}
    save(folder / "text_encoder.safetensors", affine(encoder, r"_proj\."), format="mlx")
    (folder / "text_encoder_config.json").write_text(json.dumps(GEMMA_4))
    _tokenizer(folder)
    return folder


def _gemma_folder(folder: Path, *, shards: int, bits: int | None = None) -> None:
    """Gemma 3 as Hugging Face has it, in so many shards with an index; ``bits``: quantised by MLX, embedding too."""
    weights = {f"language_model.model.{s.name}": Listed(s.dtype, tuple(s.shape)) for s in encoder_specs("19b")}
    config: dict[str, Any] = dict(GEMMA_3)
    if bits is not None:
        weights = affine(weights, "", bits)
        config["quantization"] = {"group_size": 64, "bits": bits}
    names = list(weights)
    weight_map: dict[str, str] = {}
    for index in range(shards):
        file = f"model-{index + 1:05}-of-{shards:05}.safetensors"
        here = names[index::shards]
        save(folder / file, {name: weights[name] for name in here}, format="pt" if bits is None else "mlx")
        weight_map |= dict.fromkeys(here, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps(config))


def _tokenizer(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").symlink_to(embedded.TEXT_ENCODER / "tokenizer.json")


def _channels_last(name: str, tensor: Listed) -> Listed:
    return tensor._replace(shape=tuple(tensor.shape[axis] for axis in mlx_axes(name, len(tensor.shape))))


def _config(generation: str, *sections: str) -> dict[str, Any]:
    return {section: CONFIGS[generation][section] for section in sections}


def _llama_cpp(name: str) -> str:
    layer = re.fullmatch(r"layers\.(\d+)\.(.+)\.weight", name)
    return f"blk.{layer[1]}.{_LLAMA_CPP[layer[2]]}.weight" if layer else f"{_LLAMA_CPP[name[:-7]]}.weight"


def _gemma_values() -> dict[str, Any]:
    return {
        "block_count": _GEMMA["num_hidden_layers"],
        "embedding_length": _GEMMA["hidden_size"],
        "feed_forward_length": _GEMMA["intermediate_size"],
        "attention__head_count": _GEMMA["num_attention_heads"],
        "attention__head_count_kv": _GEMMA["num_key_value_heads"],
        "attention__key_length": _GEMMA["head_dim"],
        "attention__sliding_window": _GEMMA["sliding_window"],
        "attention__layer_norm_rms_epsilon": 1e-6,
        "rope__freq_base": 1e6,
    }


FORMS: dict[str, Callable[[Path, str], Path]] = {
    "ComfyUI, bare": comfyui,
    "ComfyUI, prefixed, fp8": lambda folder, generation: comfyui(folder, generation, prefixed=True),
    "GGUF": gguf,
    "diffusers": diffusers,
    "MLX": mlx,
    "official": official_25,
}
