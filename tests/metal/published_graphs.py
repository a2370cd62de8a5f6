"""What the launch code does for the graphs of the published models: every op's variant, kernels and function constants.

The graphs run with the widths, channels and dtypes of the published files (`published_models.json` holds their
configurations) on the fake device, which notes each dispatch and computes nothing; weights are memory that nobody
touches. One block of each model is enough, and sizes that do not decide about a launch, those of pictures and clips,
are small: `classes` of rows and tokens are all there.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import re
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any
from unittest import mock

import mlx.core as mx
import numpy as np
from simulated_kernels import OPS, simulated_kernels

from ltx2rt.graph.diffusion.noise import FrameNoise, TorchCpuNoise
from ltx2rt.graph.models.audio import vae as audio_vae
from ltx2rt.graph.models.audio import vocoder
from ltx2rt.graph.models.layers.params import Params
from ltx2rt.graph.models.text import connector, feature_extractor, gemma, gemma3, gemma4
from ltx2rt.graph.models.text.generation import generate_tokens
from ltx2rt.graph.models.text.token_sampling import SamplingOptions
from ltx2rt.graph.models.transformer import model as transformer
from ltx2rt.graph.models.transformer.modality import Modality, Perturbation
from ltx2rt.graph.models.upscaler import model as upscaler
from ltx2rt.graph.models.video_vae import specs as video_vae
from ltx2rt.graph.models.video_vae.decoder import VideoDecoder
from ltx2rt.graph.models.video_vae.diffusion_decoder import DiffusionVideoDecoder
from ltx2rt.graph.models.video_vae.diffusion_keyframes import KeyFrames
from ltx2rt.graph.models.video_vae.encoder import VideoEncoder
from ltx2rt.kernels.uninitialized import uninitialized
from ltx2rt.kernels.variants import Variant
from ltx2rt.types import GGML_BLOCKS, LinearWeight, ParamSpec
from ltx2rt.weights.quantized_manifest import GROUP_SIZE
from tools.metal_sim.device import Given, SimulatedDevice, Triple

ROOT = Path(__file__).parents[2]
PUBLISHED = json.loads(Path(__file__).with_name("published_models.json").read_text())
# The transformer of 2.5 is that of 2.3 but for these.
TRANSFORMERS = {name: model["transformer"] for name, model in PUBLISHED["models"].items()}
TRANSFORMERS["2.5"] = TRANSFORMERS["2.3"] | {"ff_bias": False, "use_keyframes_abs_pos_embedding": True}
# How the matrices of transformer blocks are stored: int8 and int4 are MLX's; int8-convrot is that of the official files
# of 2.5, nvfp4 that of ComfyUI, gguf a mixture like Q4_K_M with the tensors of few values in float32.
FORMS = ("bf16", "fp8", "int8", "int4")
PACKED_FORMS = ("int8-convrot", "nvfp4", "gguf")
TEXT_FORMS = ("bf16", "int8", "int4", "int8-convrot", "gguf")
ROTATION = 256
# What ComfyUI's quantisers leave as it is, and what llama.cpp's mixtures store in more bits and in fewer.
NOT_PACKED = r"to_gate_logits|embed_tokens"
GGUF_TYPES = (
    (r"to_v|v_proj|net\.2|down_proj|embed_tokens", "q6_k"),
    (r"to_[qk]|[qk]_proj|up_proj", "q4_k"),
    ("", "q5_k"),
)
GEMMA = {
    "model_type": "gemma3_text",
    "hidden_size": 3840,
    "num_hidden_layers": 2,
    "intermediate_size": 15360,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "vocab_size": 262208,
    "sliding_window": 1024,
    "sliding_window_pattern": 2,
}
GEMMA_4 = {
    "model_type": "gemma4_unified_text",
    "hidden_size": 3840,
    "num_hidden_layers": 2,
    "intermediate_size": 15360,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "num_global_key_value_heads": 1,
    "head_dim": 256,
    "global_head_dim": 512,
    "attention_k_eq_v": True,
    "vocab_size": 262144,
    "layer_types": ["sliding_attention", "full_attention"],
}
# Numbers of rows on every side of the limits at which launches change: one to four, up to 16, 32, 64 and more.
ROWS = (1, 2, 3, 4, 11, 27, 50, 150, 600)
VIDEO_TOKENS, AUDIO_TOKENS, TEXT_TOKENS = 1536, 126, 1024

# Where the loader moves axes to, and the dtype numbers of the fake device's parameters.
_AXES = {"conv": (1, -1), "conv_transpose1d": (0, -1)}
_DTYPES = {"BF16": mx.bfloat16, "F32": mx.float32}
_LINEAR_PARAMS = "<q14i"  # metal_shared::LinearParams


@dataclass(frozen=True)
class Pipeline:
    """What Metal compiles: a kernel with its function constants."""

    kernel: str
    constants: tuple[tuple[int, bool | int | float], ...]


# What else of a launch takes other paths through a pipeline: several simdgroups, several threadgroups along an axis of
# the grid, more than one step over the depth of a product, more than one slab of expanded weights.
Traits = frozenset[str]


@dataclass
class Launches:
    """The launches of one variant of an op."""

    traits: dict[Pipeline, set[str]] = field(default_factory=dict)

    def add(self, pipeline: Pipeline, traits: Traits) -> None:
        self.traits.setdefault(pipeline, set()).update(traits)

    def missing(self, there: Launches) -> list[str]:
        """What of these launches is not among those ``there``."""
        found = []
        for pipeline, traits in self.traits.items():
            if pipeline not in there.traits:
                found.append(f"{pipeline.kernel} {dict(pipeline.constants)}")
            elif traits - there.traits[pipeline]:
                found.append(f"{pipeline.kernel} {sorted(traits - there.traits[pipeline])}")
        return found


Uses = dict[Variant, Launches]


def _traits(kernel: str, arguments: dict[int, Given], grid: Triple, group: Triple, grid_is_threads: bool) -> Traits:
    traits = {f"axis {axis}" for axis in range(3) if grid[axis] > (group[axis] if grid_is_threads else 1)}
    if group[0] > 32:
        traits.add("simdgroups")
    if kernel.startswith(("linear_few", "linear_tile")):
        given = arguments[8]
        assert isinstance(given, bytes)
        params = struct.unpack(_LINEAR_PARAMS, given)
        depth, row_blocks, column_blocks = params[4], params[7], params[8]
        traits |= {name for name, blocks in (("rows", row_blocks), ("columns", column_blocks)) if blocks > 1}
        if kernel.startswith("linear_few") and depth > 8 * 32:
            traits.add("deep")
    return frozenset(traits)


@contextmanager
def recording() -> Iterator[Uses]:
    """Every op that is built inside is launched on the fake device and noted under its variant; results are zeros."""
    uses: Uses = {}
    current = Launches()
    cleared: set[int] = set()
    expanded: set[str] = set()  # kernels of this op

    def record(device: SimulatedDevice, source: str, kernel: str, constants: dict[int, Any],
               arguments: dict[int, Given], memory: object, grid: Triple, group: Triple,
               grid_is_threads: bool) -> None:  # fmt: skip
        pipeline = Pipeline(kernel, tuple(sorted(constants.items())))
        traits = _traits(kernel, arguments, grid, group, grid_is_threads)
        if kernel.startswith("dequantise") and kernel in expanded:
            traits |= {"slabs"}
        expanded.add(kernel)
        current.add(pipeline, traits)
        for argument in arguments.values():
            if isinstance(argument, tuple) and argument[4] and argument[0] not in cleared:
                cleared.add(argument[0])
                ctypes.memset(argument[0], 0, argument[1])

    def built(front_end: object, build: Callable[[str], mx.array], variant: Callable[[], Variant]) -> mx.array:
        nonlocal current
        out = build("kernel")
        current = uses.setdefault(variant(), Launches())
        cleared.clear()
        expanded.clear()
        mx.eval(out)
        return out

    with ExitStack() as patches:
        patches.enter_context(mock.patch.object(SimulatedDevice, "__call__", record))
        patches.enter_context(simulated_kernels())
        for op in OPS:
            patches.enter_context(mock.patch.object(importlib.import_module(f"ltx2rt.kernels.{op}"), "built", built))
        yield uses


def packed_memory(form: str, spec: ParamSpec) -> LinearWeight:
    """Memory for a matrix in a packed form."""
    rows, columns = spec.shape
    if form == "int8-convrot":
        return LinearWeight(
            "int8", uninitialized(spec.shape, mx.int8), uninitialized((rows,), mx.float32), rotation=ROTATION
        )
    if form == "nvfp4":
        scale = uninitialized((rows, columns // 16), mx.uint8)
        return LinearWeight("nvfp4", uninitialized((rows, columns // 2), mx.uint8), scale, mx.array(1.0))
    mode = next(mode for names, mode in GGUF_TYPES if re.search(names, spec.name))
    count, size = GGML_BLOCKS[mode]
    return LinearWeight(mode, uninitialized((rows, columns // count * size), mx.uint8))


def weights(specs: list[ParamSpec], form: str = "bf16", quantised: str = r"transformer_blocks\.") -> dict[str, Any]:
    """Memory for every tensor; matrices whose names match ``quantised`` in the given form."""
    arrays: dict[str, Any] = {}
    for spec in specs:
        dtype = mx.float32 if form == "gguf" else _DTYPES[spec.dtype]
        shape = list(spec.shape)
        if spec.layout in _AXES:
            source, target = _AXES[spec.layout]
            shape.insert(len(shape) if target == -1 else target, shape.pop(source))
        if spec.layout != "linear":
            arrays[spec.name] = uninitialized(tuple(shape), dtype)
        elif form == "bf16" or not re.search(quantised, spec.name) or spec.shape[1] % GROUP_SIZE:
            arrays[spec.name] = LinearWeight("dense", uninitialized(spec.shape, dtype))
        elif form == "gguf" or (form in PACKED_FORMS and not re.search(NOT_PACKED, spec.name)):
            arrays[spec.name] = packed_memory(form, spec)
        elif form in PACKED_FORMS:
            arrays[spec.name] = LinearWeight("dense", uninitialized(spec.shape, dtype))
        elif form == "fp8":
            arrays[spec.name] = LinearWeight("e4m3", uninitialized(spec.shape, mx.uint8), mx.array(1.0))
        else:
            bits, (rows, columns) = int(form.removeprefix("int")), spec.shape
            groups = [uninitialized((rows, columns // GROUP_SIZE), mx.bfloat16) for _ in range(2)]
            packed = uninitialized((rows, columns * bits // 32), mx.uint32)
            arrays[spec.name] = LinearWeight("affine", packed, *groups, GROUP_SIZE, bits)
    return arrays


def _zeros(*shape: int, dtype: mx.Dtype) -> mx.array:
    return mx.zeros(shape, dtype)


def _modality(config: Any, tokens: int, rows: int, batch: int, context_width: int, dtype: mx.Dtype) -> Modality:
    """Tokens with ``rows`` different timesteps."""
    axes = len(config.max_positions)
    start = np.broadcast_to(np.arange(tokens, dtype=np.float32), (batch, axes, tokens))
    return Modality(
        latent=_zeros(batch, tokens, config.in_channels, dtype=mx.float32),
        sigma=np.full(batch, 0.7, np.float32),
        timesteps=np.broadcast_to((np.arange(tokens) % rows / 1000).astype(np.float32), (batch, tokens)),
        positions=np.stack([start, start + 1], axis=-1),
        context=_zeros(batch, TEXT_TOKENS, context_width, dtype=dtype),
    )


def run_transformer(name: str, form: str, dtype: mx.Dtype) -> None:
    """One block: a plain step, guidance passes, masks, token parts, one stream alone, all numbers of timesteps."""
    config = replace(transformer.TransformerConfig.from_dict(TRANSFORMERS[name]), num_layers=1)
    arrays = weights(transformer.param_specs(config), form)
    widths = [config.caption_channels or stream.context_dim for stream in (config.video, config.audio)]

    def step(
        video_tokens: int, audio_tokens: int, rows: int = 1, batch: int = 1, limit: int | None = None, **options: Any
    ) -> None:
        model = transformer.Transformer(config, Params(arrays), dtype, token_limit=limit)
        video = _modality(config.video, video_tokens, rows, batch, widths[0], dtype) if video_tokens else None
        audio = _modality(config.audio, audio_tokens, rows, batch, widths[1], dtype) if audio_tokens else None
        if options.pop("masked", False) and video is not None:
            video = replace(video, attention_mask=np.ones((batch, video_tokens, video_tokens), np.float32) / 2)
        if options.pop("frozen", False) and audio is not None:
            audio = replace(audio, enabled=False)
        mx.eval([a for a in model(video, audio, options.pop("perturbations", None)) if a is not None])
        mx.clear_cache()

    step(VIDEO_TOKENS, AUDIO_TOKENS)
    for tokens in (50, 27, 9):  # the smallest clips have few tokens
        step(tokens, tokens)
    if form != "bf16":
        return  # the rest does not depend on the matrices of blocks
    step(VIDEO_TOKENS, 501, limit=512)  # twenty seconds of sound; tokens part by part
    passes = [[], [Perturbation("skip_video_self_attn"), Perturbation("skip_audio_self_attn")],
              [Perturbation("skip_a2v_cross_attn"), Perturbation("skip_v2a_cross_attn")]]  # fmt: skip
    step(384, 51, batch=3, perturbations=passes)
    step(384, 51, masked=True)
    step(384, 51, frozen=True)
    step(384, 0)
    step(0, AUDIO_TOKENS)
    for rows in ROWS[:-1]:
        step(192, 0, rows=rows)
        step(0, 192, rows=rows)


def run_text(name: str, dtype: mx.Dtype) -> None:
    """Text projection and connectors. Two slabs of states stand for seven."""
    section = PUBLISHED["models"][name]["transformer"]
    config = feature_extractor.FeatureExtractorConfig.from_dict(section, encoder_states=14)
    arrays = weights(feature_extractor.param_specs(config))
    arrays = {key: value.values if isinstance(value, LinearWeight) else value for key, value in arrays.items()}
    extractor = feature_extractor.FeatureExtractor(config, Params(arrays), dtype, rows_per_slab=1024)
    for tokens in ROWS:
        features = extractor([_zeros(1, tokens, config.encoder_width, dtype=dtype)] * config.encoder_states)
        mx.eval(features)
    for stream in connector.STREAMS:
        of_stream = replace(connector.ConnectorConfig.from_dict(section, stream), num_layers=1)
        model = connector.Connector(of_stream, Params(weights(connector.param_specs(of_stream))), dtype)
        mx.eval(model(_zeros(1, 40, of_stream.width, dtype=dtype)))


def run_text_encoder(form: str, dtype: mx.Dtype) -> None:
    """Prompts of several lengths, and tokens written one by one."""
    model = run_prompts(gemma3.Gemma3Config.from_dict(GEMMA), form, dtype)
    list(generate_tokens(model, np.arange(20), [], SamplingOptions(max_new_tokens=2)))


def run_prompts(config: gemma.GemmaConfig, form: str, dtype: mx.Dtype) -> gemma.Gemma:
    """Prompts of several lengths through a text encoder, which is returned."""
    arrays = weights(gemma.param_specs(config), form, quantised="_proj|embed_tokens")
    model = gemma.Gemma(config, Params(arrays), dtype)
    for tokens in ROWS:
        for state in model.hidden_states(np.arange(tokens)):
            mx.eval(state)
    return model


def run_text_encoder_of_25(form: str, dtype: mx.Dtype) -> None:
    """Prompts of several lengths; it writes nothing."""
    run_prompts(gemma4.Gemma4Config.from_dict(GEMMA_4), form, dtype)


def run_video_vae(name: str, dtype: mx.Dtype) -> None:
    """Encoder and decoder, at once and piece by piece; a clip and an image."""
    config = video_vae.VideoVaeConfig.from_dict(PUBLISHED["models"][name]["vae"])
    arrays = Params(weights(video_vae.param_specs(config)))
    encoder, decoder = VideoEncoder(config, arrays, dtype), VideoDecoder(config, arrays, dtype)
    frames = np.zeros((17, 64, 96, 3), np.float32)
    for clip in (frames, frames[:1]):
        mx.eval(encoder.encode_frames(clip[None]))
    mx.eval(list(encoder.encode_stream(iter([frames[:8], frames[8:]]))))
    latent = _zeros(1, 3, 2, 3, config.latent_channels, dtype=dtype)
    list(decoder.decode_frames(latent))
    list(decoder.stream_frames(latent))
    list(decoder.decode_frames(latent[:, :1]))


def run_diffusion_decoder(dtype: mx.Dtype) -> None:
    """One block of each stage, without key frames, with one and with several; frames in pieces of several sizes."""
    config = video_vae.VideoVaeConfig.from_dict(PUBLISHED["diffusion_vae"])
    stages = replace(config.require_diffusion(), depths=(1,) * len(config.require_diffusion().depths))
    config = replace(config, encoder=None, diffusion=stages)
    arrays = Params(weights(video_vae.param_specs(config)))
    latent = _zeros(1, 2, 2, 3, config.latent_channels, dtype=dtype)
    planes = _zeros(1, 3, 2, 3, config.latent_channels, dtype=dtype)
    for frames_per_push in (1, 5):
        decoder = DiffusionVideoDecoder(config, arrays, dtype, frames_per_push)
        for keyframes in (None, KeyFrames(planes[:, :1], (4,)), KeyFrames(planes, (0, 3, 8))):
            list(decoder.stream_frames(latent, None, FrameNoise(TorchCpuNoise(0)), keyframes))


def run_sound(name: str) -> None:
    """Encoder, decoder and vocoder of sound, which always compute in float32."""
    config = audio_vae.AudioVaeConfig.from_dict(PUBLISHED["models"][name]["audio_vae"])
    arrays = Params(weights(audio_vae.param_specs(config)))
    mx.eval(audio_vae.AudioEncoder(config, arrays, mx.float32)(mx.zeros((1, 33, config.mel_bins, 2))))
    log_mel = audio_vae.AudioDecoder(config, arrays, mx.float32)(mx.zeros((1, 9, config.token_width)))
    of_vocoder = vocoder.VocoderConfig.from_dict(PUBLISHED["models"][name]["vocoder"])
    mx.eval(vocoder.Vocoder(of_vocoder, Params(weights(vocoder.param_specs(of_vocoder))))(log_mel))


def run_upscaler(name: str, dtype: mx.Dtype) -> None:
    config = upscaler.LatentUpscalerConfig.from_dict(PUBLISHED["upscalers"][name])
    model = upscaler.LatentUpscaler(config, Params(weights(upscaler.param_specs(config))), dtype)
    mx.eval(model(_zeros(1, 3, 4, 6, config.in_channels, dtype=dtype)))


def graphs(dtype: mx.Dtype = mx.bfloat16) -> dict[str, Callable[[], None]]:
    """Every published graph by name, with activations of ``dtype`` where that can be chosen."""
    made: dict[str, Callable[[], None]] = {}
    for name in PUBLISHED["models"]:
        for form in FORMS:
            made[f"transformer {name} {form}"] = lambda name=name, form=form: run_transformer(name, form, dtype)
        made[f"text {name}"] = lambda name=name: run_text(name, dtype)
        made[f"video VAE {name}"] = lambda name=name: run_video_vae(name, dtype)
        made[f"sound {name}"] = lambda name=name: run_sound(name)
    made["diffusion decoder"] = lambda: run_diffusion_decoder(dtype)
    for form in PACKED_FORMS:
        made[f"transformer 2.5 {form}"] = lambda form=form: run_transformer("2.5", form, dtype)
    for form in TEXT_FORMS:
        made[f"text encoder {form}"] = lambda form=form: run_text_encoder(form, dtype)
        made[f"text encoder of 2.5 {form}"] = lambda form=form: run_text_encoder_of_25(form, dtype)
    for name in PUBLISHED["upscalers"]:
        made[f"upscaler {name}"] = lambda name=name: run_upscaler(name, dtype)
    return made


def used(name: str) -> Uses:
    """The variants of a published graph and their launches."""
    with recording() as uses:
        graphs()[name]()
    mx.clear_cache()
    return uses


def as_listed(variant: Variant) -> list[Any]:
    """Op and the fields that differ from their defaults, for ltx2rt/verify/model_variants.json."""
    changed = {f.name: getattr(variant, f.name) for f in fields(variant) if getattr(variant, f.name) != f.default}
    return [variant.op, changed]


def main() -> None:
    """Writes that list."""
    listed = {variant.key: json.dumps(as_listed(variant)) for name in graphs() for variant in used(name)}
    lines = ",\n".join(listed[key] for key in sorted(listed))
    (ROOT / "ltx2rt/verify/model_variants.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
