"""The official configuration as far as tensor names and shapes tell it, for files without metadata."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ltx2rt.errors import CheckpointError
from ltx2rt.weights.formats import encoding_of, format_of
from ltx2rt.weights.tensor_source import TensorInfo

Tensors = Mapping[str, TensorInfo]

# What every published transformer states and no tensor shows.
_TRANSFORMER_CONSTANTS = {
    "_class_name": "AVTransformer3DModel",
    "norm_eps": 1e-6,
    "positional_embedding_theta": 10000.0,
    "positional_embedding_max_pos": [20, 2048, 2048],
    "audio_positional_embedding_max_pos": [20],
    "timestep_scale_multiplier": 1000,
    "av_ca_timestep_scale_multiplier": 1000.0,
    "rope_type": "split",
    "frequencies_precision": "float64",
    "use_middle_indices_grid": True,
    "connector_positional_embedding_max_pos": [4096],
    "connector_norm_output": True,
}
_AUDIO_PREPROCESSING: dict[str, dict[str, Any]] = {
    "audio": {"sampling_rate": 16000, "max_wav_value": 32768.0, "duration": 5.12, "stereo": True, "causal_padding": 3},
    "stft": {"filter_length": 1024, "hop_length": 160, "win_length": 1024, "causal": True},
    "mel": {"n_mel_channels": 64, "mel_fmin": 0, "mel_fmax": 8000},
}
# Kernel size of a vocoder upsampling stage -> its rate, in every published vocoder.
_VOCODER_RATES = {16: 6, 15: 5, 12: 6, 11: 5, 8: 2, 4: 2}
# Positions per cell of a VAE resampling block -> its name.
_RESAMPLERS = {2: "compress_time", 4: "compress_space", 8: "compress_all"}
_AUDIO_MEL_COMPRESSION = 4


def _shape(tensors: Tensors, name: str, rank: int, where: str, columns: Iterable[int | None] = ()) -> tuple[int, ...]:
    """The logical shape of a tensor that the inference rests on.

    Where storage leaves several, the first is taken that has one of ``columns``, which other tensors tell.
    """
    found = _shapes(tensors, name, rank, where)
    if len(found) > 1:
        told = (shape for number in columns for shape in found if shape[1] == number)
        shape = next(told, None)
        if shape is not None:
            return shape
        raise CheckpointError(
            f"{where}: it has no config metadata, and tensor {name!r}, which would tell the configuration, may be "
            f"{' or '.join(str(list(shape)) for shape in found)} as it is packed. Use a file with metadata."
        )
    return found[0]


def _rows(tensors: Tensors, name: str, where: str) -> int:
    """The rows of a matrix that the inference rests on; no packing leaves them in doubt."""
    return _shapes(tensors, name, 2, where)[0][0]


def _shapes(tensors: Tensors, name: str, rank: int, where: str) -> list[tuple[int, ...]]:
    """What `LinearFormat.shapes` says of a tensor."""
    if name not in tensors:
        raise CheckpointError(
            f"{where}: it has no config metadata, and tensor {name!r}, which would tell the configuration, is missing. "
            "Use a file with metadata."
        )
    encoding = encoding_of(name, tensors)
    found = format_of(encoding).shapes(encoding)
    if not found or any(len(shape) != rank or 0 in shape for shape in found):
        raise CheckpointError(
            f"{where}: tensor {name!r} should have {rank} dimensions, its shape is {list(encoding.info.shape)}."
        )
    return found


def _size(tensors: Tensors, name: str, axis: int) -> int | None:
    """One dimension of a tensor that is not packed; None where there is no such tensor."""
    info = tensors.get(name)
    return info.shape[axis] if info is not None and len(info.shape) > axis else None


def _count(names: Iterable[str], pattern: str) -> int:
    """One more than the largest index that the group of ``pattern`` matches at the start of a name; 0 for none."""
    found = (re.match(pattern, name) for name in names)
    return max((int(match.group(1)) + 1 for match in found if match), default=0)


def _heads(tensors: Tensors, gate: str, width: int, head_dim: int, where: str) -> int:
    """Attention heads: the rows of the gate if there is one, else what the published head size gives."""
    if gate in tensors:
        heads = _rows(tensors, gate, where)
        if width % heads:
            raise CheckpointError(f"{where}: tensor {gate!r} has {heads} rows, which do not divide the width {width}.")
        return heads
    if width % head_dim:
        raise CheckpointError(
            f"{where}: it has no config metadata, and the number of attention heads of a model of width {width} "
            "cannot be told; use a file with metadata."
        )
    return width // head_dim


def transformer_section(components: Mapping[str, Tensors], where: str) -> dict[str, Any]:
    """The section ``transformer`` from the tensors of the transformer, connectors and text projection.

    Raises:
        CheckpointError: a tensor that decides something is missing, or the head count cannot be told.

    Source: the rules of the published checkpoints (gates, tables and biases that exist only in some generations).
    """
    section = dict(_TRANSFORMER_CONSTANTS)
    if "transformer" in components:
        captions = _size(components.get("video_connector", {}), "learnable_registers", 1)
        section.update(_main_transformer(components["transformer"], captions, where))
    if "video_connector" in components:
        section.update(_connector(components["video_connector"], "connector_", where))
    if "audio_connector" in components:
        section.update(_connector(components["audio_connector"], "audio_connector_", where))
    separate_projections = "video_aggregate_embed.weight" in components.get("text_projection", {})
    transformer = components.get("transformer", {})
    if separate_projections or (transformer and "caption_projection.linear_1.weight" not in transformer):
        section.update(
            caption_proj_before_connector=True,
            caption_projection_first_linear=False,
            caption_proj_input_norm=False,
            caption_projection_second_linear=False,
            text_encoder_norm_type="per_token_rms",
        )
    return section


def _main_transformer(tensors: Tensors, captions: int | None, where: str) -> dict[str, Any]:
    """``captions``: width of the connectors' output, if it is known."""
    out_channels = _rows(tensors, "proj_out.weight", where)
    width, in_channels = _shape(tensors, "patchify_proj.weight", 2, where, [out_channels])
    context = [_size(tensors, "transformer_blocks.0.prompt_scale_shift_table", 1)]
    context += [_size(tensors, "caption_projection.linear_2.bias", 0), captions, width]
    table_rows = _rows(tensors, "transformer_blocks.0.scale_shift_table", where)
    heads = _heads(tensors, "transformer_blocks.0.attn1.to_gate_logits.weight", width, 128, where)
    section = {
        "num_layers": _count(tensors, r"transformer_blocks\.(\d+)\."),
        "num_attention_heads": heads,
        "attention_head_dim": width // heads,
        "in_channels": in_channels,
        "out_channels": out_channels,
        "cross_attention_dim": _shape(tensors, "transformer_blocks.0.attn2.to_k.weight", 2, where, context)[1],
        "cross_attention_adaln": table_rows == 9,
        "use_prompt_adaln_single": "prompt_adaln_single.linear.weight" in tensors or table_rows != 9,
        "apply_gated_attention": "transformer_blocks.0.attn1.to_gate_logits.weight" in tensors,
        "ff_bias": "transformer_blocks.0.ff.net.0.proj.bias" in tensors,
        "use_keyframes_abs_pos_embedding": "keyframes_abs_pos_embedding" in tensors,
    }
    if "caption_projection.linear_1.weight" in tensors:
        section["caption_channels"] = _shape(tensors, "caption_projection.linear_1.weight", 2, where, [captions])[1]
    if "audio_adaln_single.linear.weight" in tensors:
        audio_out = _rows(tensors, "audio_proj_out.weight", where)
        audio_width, audio_in = _shape(tensors, "audio_patchify_proj.weight", 2, where, [audio_out])
        context = [_size(tensors, "transformer_blocks.0.audio_prompt_scale_shift_table", 1)]
        context += [_size(tensors, "audio_caption_projection.linear_2.bias", 0), audio_width]
        audio_context = _shape(tensors, "transformer_blocks.0.audio_attn2.to_k.weight", 2, where, context)[1]
        audio_heads = _heads(tensors, "transformer_blocks.0.audio_attn1.to_gate_logits.weight", audio_width, 64, where)
        section.update(
            audio_num_attention_heads=audio_heads,
            audio_attention_head_dim=audio_width // audio_heads,
            audio_in_channels=audio_in,
            audio_out_channels=audio_out,
            audio_cross_attention_dim=audio_context,
            audio_ff_bias="transformer_blocks.0.audio_ff.net.0.proj.bias" in tensors,
        )
    return section


def _connector(tensors: Tensors, prefix: str, where: str) -> dict[str, Any]:
    registers, width = _shape(tensors, "learnable_registers", 2, where)
    gate = "transformer_1d_blocks.0.attn1.to_gate_logits.weight"
    heads = _heads(tensors, gate, width, 128, where)
    section = {
        f"{prefix}num_layers": _count(tensors, r"transformer_1d_blocks\.(\d+)\."),
        f"{prefix}num_attention_heads": heads,
        f"{prefix}attention_head_dim": width // heads,
    }
    if prefix == "connector_":
        section["connector_num_learnable_registers"] = registers
        section["connector_apply_gated_attention"] = gate in tensors
        section["connector_ff_bias"] = "transformer_1d_blocks.0.ff.net.0.proj.bias" in tensors
    return section


def vae_section(components: Mapping[str, Tensors], where: str) -> dict[str, Any]:
    """The section ``vae`` of a convolutional video VAE; its block lists follow from the shapes.

    Raises:
        CheckpointError: a diffusion decoder (its windows are not in the shapes), or blocks of an unknown kind.
    """
    tensors = components["video_vae"]
    if any(name.startswith("decoder.det_stages.") for name in tensors):
        raise CheckpointError(
            f"{where}: a diffusion video decoder without config metadata, whose attention windows cannot be told from "
            "the tensors; use a file with metadata."
        )
    latent_channels = _shape(tensors, "per_channel_statistics.mean-of-means", 1, where)[0]
    section: dict[str, Any] = {
        "_class_name": "CausalVideoAutoencoder",
        "dims": 3,
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": latent_channels,
        "norm_layer": "pixel_norm",
        "latent_log_var": "uniform",
        "causal_decoder": False,
        "timestep_conditioning": any(name.startswith("decoder.last_time_embedder.") for name in tensors),
    }
    patched = None
    if "encoder.conv_in.conv.weight" in tensors:
        base, patched = _shape(tensors, "encoder.conv_in.conv.weight", 5, where)[:2]
        end = _shape(tensors, "encoder.conv_out.conv.weight", 5, where)[1]
        section["encoder_base_channels"] = base
        section["encoder_blocks"] = _video_blocks(tensors, "encoder.down_blocks", end, _encoder_resampler, where)
    if "decoder.conv_in.conv.weight" in tensors:
        patched, end = _shape(tensors, "decoder.conv_out.conv.weight", 5, where)[:2]
        section["decoder_base_channels"] = end
        blocks = _video_blocks(tensors, "decoder.up_blocks", end, _decoder_resampler, where)
        if all(name in ("res_x", "compress_all") for name, _ in blocks):
            # The first generation: every upsampling block is residual, frames are padded by reflection (the default).
            for name, parameters in blocks:
                if name == "compress_all":
                    parameters["residual"] = True
        else:
            section["spatial_padding_mode"] = "zeros"
        section["decoder_blocks"] = blocks[::-1]
    if patched is None:
        raise CheckpointError(f"{where}: its video VAE has neither an encoder nor a decoder.")
    section["patch_size"] = math.isqrt(patched // 3)
    return section


Resampler = Callable[[int, int, int], "tuple[str, int] | None"]


def _encoder_resampler(rows: int, channels: int, following: int) -> tuple[str, int] | None:
    """Name and multiplier of a space-to-depth block, whose convolution has following / P rows."""
    name = _RESAMPLERS.get(following // rows) if following % rows == 0 and following % channels == 0 else None
    return None if name is None else (name + "_res", following // channels)


def _decoder_resampler(rows: int, channels: int, following: int) -> tuple[str, int] | None:
    """Name and multiplier of a depth-to-space block, whose convolution has P * following rows."""
    name = _RESAMPLERS.get(rows // following) if rows % following == 0 and channels % following == 0 else None
    return None if name is None else (name, channels // following)


def _video_blocks(tensors: Tensors, prefix: str, end: int, resampler: Resampler, where: str) -> list[list[Any]]:
    """Block list in execution order; ``end`` is the width that the last block leaves."""
    count = _count(tensors, re.escape(prefix) + r"\.(\d+)\.")
    blocks: list[list[Any]] = []
    for index in range(count):
        at = f"{prefix}.{index}"
        layers = _count(tensors, re.escape(at) + r"\.res_blocks\.(\d+)\.")
        if layers:
            noise = {"inject_noise": True} if f"{at}.res_blocks.0.per_channel_scale1" in tensors else {}
            blocks.append(["res_x", {"num_layers": layers, **noise}])
            continue
        rows, channels = _shape(tensors, f"{at}.conv.conv.weight", 5, where)[:2]
        following = end
        for entrance in (
            f"{prefix}.{index + 1}.res_blocks.0.conv1.conv.weight",
            f"{prefix}.{index + 1}.conv.conv.weight",
        ):
            if entrance in tensors:
                following = _shape(tensors, entrance, 5, where)[1]
        found = resampler(rows, channels, following)
        if found is None:
            raise CheckpointError(
                f"{where}: block {at} has a convolution from {channels} to {rows} channels before a width of "
                f"{following}, which is no known resampling block; use a file with metadata."
            )
        blocks.append([found[0], {"multiplier": found[1]}])
    return blocks


def audio_vae_section(components: Mapping[str, Tensors], where: str) -> dict[str, Any]:
    """The section ``audio_vae``; sampling rates and transform sizes are those of every published file."""
    tensors = components["audio_vae"]
    half = "decoder" if "decoder.conv_in.conv.weight" in tensors else "encoder"
    level = {"decoder": "up", "encoder": "down"}[half]
    if half == "decoder":
        z_channels = _shape(tensors, "decoder.conv_in.conv.weight", 4, where)[1]
        channels, base = _shape(tensors, "decoder.conv_out.conv.weight", 4, where)[:2]
    else:
        base, channels = _shape(tensors, "encoder.conv_in.conv.weight", 4, where)[:2]
        z_channels = _shape(tensors, "encoder.conv_out.conv.weight", 4, where)[0] // 2
    levels = _count(tensors, rf"{half}\.{level}\.(\d+)\.")
    widths = [_shape(tensors, f"{half}.{level}.{i}.block.0.conv1.conv.weight", 4, where)[0] for i in range(levels)]
    blocks = _count(tensors, rf"{half}\.{level}\.0\.block\.(\d+)\.")
    statistics = _shape(tensors, "per_channel_statistics.mean-of-means", 1, where)[0]
    mel_bins = statistics * _AUDIO_MEL_COMPRESSION // z_channels
    ddconfig = {
        "double_z": True,
        "mel_bins": mel_bins,
        "z_channels": z_channels,
        "resolution": 256,
        "downsample_time": False,
        "in_channels": channels,
        "out_ch": channels,
        "ch": base,
        "ch_mult": [width // base for width in widths],
        "num_res_blocks": blocks - 1 if half == "decoder" else blocks,
        "attn_resolutions": [],
        "dropout": 0.0,
        "mid_block_add_attention": any(".mid.attn_1." in name for name in tensors),
        "norm_type": "pixel",
        "causality_axis": "height",
    }
    mel = {**_AUDIO_PREPROCESSING["mel"], "n_mel_channels": mel_bins}
    return {
        "model": {"params": {"ddconfig": ddconfig, "sampling_rate": 16000}},
        "preprocessing": {**_AUDIO_PREPROCESSING, "mel": mel},
    }


def vocoder_section(components: Mapping[str, Tensors], where: str) -> dict[str, Any]:
    """The section ``vocoder``: flat for the first generation, ``vocoder`` and ``bwe`` for the later ones."""
    tensors = components["vocoder"]
    if not any(name.startswith("bwe_generator.") for name in tensors):
        return _generator(tensors, "", where)
    transform_rows, _, window = _shape(tensors, "mel_stft.stft_fn.forward_basis", 3, where)
    bands, bins = _shape(tensors, "mel_stft.mel_basis", 2, where)
    if transform_rows != 2 * bins:
        raise CheckpointError(f"{where}: the vocoder's Fourier basis has {transform_rows} rows for {bins} frequencies.")
    bwe = {
        **_generator(tensors, "bwe_generator.", where),
        "apply_final_activation": False,
        "input_sampling_rate": 16000,
        "output_sampling_rate": 48000,
        "hop_length": 80,
        "n_fft": window,
        "win_size": window,
        "num_mels": bands,
    }
    return {"vocoder": _generator(tensors, "vocoder.", where), "bwe": bwe}


def _generator(tensors: Tensors, prefix: str, where: str) -> dict[str, Any]:
    stages = _count(tensors, re.escape(prefix) + r"ups\.(\d+)\.")
    blocks = _count(tensors, re.escape(prefix) + r"resblocks\.(\d+)\.")
    kernels = [_shape(tensors, f"{prefix}ups.{i}.weight", 3, where)[2] for i in range(stages)]
    unknown = [kernel for kernel in kernels if kernel not in _VOCODER_RATES]
    if unknown or not stages or blocks % stages:
        raise CheckpointError(
            f"{where}: the vocoder has no config metadata, and its rates cannot be told from {stages} stages "
            f"of kernels {kernels} with {blocks} residual blocks; use a file with metadata."
        )
    branches = blocks // stages
    antialiased = f"{prefix}act_post.act.alpha" in tensors
    section: dict[str, Any] = {
        "upsample_initial_channel": _shape(tensors, f"{prefix}conv_pre.weight", 3, where)[0],
        "resblock": "AMP1" if antialiased else "1",
        "upsample_rates": [_VOCODER_RATES[kernel] for kernel in kernels],
        "upsample_kernel_sizes": kernels,
        "resblock_kernel_sizes": [
            _shape(tensors, f"{prefix}resblocks.{i}.convs1.0.weight", 3, where)[2] for i in range(branches)
        ],
        "resblock_dilation_sizes": [[1, 3, 5]] * branches,
        "stereo": _shape(tensors, f"{prefix}conv_post.weight", 3, where)[0] == 2,
    }
    if antialiased:
        snakebeta = f"{prefix}resblocks.0.acts1.0.act.beta" in tensors
        section.update(
            activation="snakebeta" if snakebeta else "snake",
            use_tanh_at_final=False,
            use_bias_at_final=f"{prefix}conv_post.bias" in tensors,
        )
    return section


def upscaler_section(tensors: Tensors, where: str) -> dict[str, Any]:
    """The flat configuration of a latent upscaler.

    Raises:
        CheckpointError: the upsampling weight has a shape that no known upscaler has.
    """
    middle, channels = _shape(tensors, "initial_conv.weight", 5, where)[:2]
    section: dict[str, Any] = {
        "_class_name": "LatentUpsampler",
        "in_channels": channels,
        "mid_channels": middle,
        "num_blocks_per_stage": _count(tensors, r"res_blocks\.(\d+)\."),
        "dims": 3,
        "spatial_upsample": True,
        "temporal_upsample": False,
        "spatial_scale": 2.0,
        "rational_resampler": False,
    }
    if "upsampler.conv.weight" in tensors:
        rows = _shape(tensors, "upsampler.conv.weight", 4, where)[0]
        numerator = math.isqrt(rows // middle)
        scales = {2: 2.0, 3: 1.5}
        if numerator * numerator * middle != rows or numerator not in scales:
            raise CheckpointError(
                f"{where}: tensor 'upsampler.conv.weight' has {rows} rows for width {middle}; "
                "no known upscaler has that."
            )
        return {**section, "rational_resampler": True, "spatial_scale": scales[numerator]}
    info = tensors.get("upsampler.0.weight")
    rows = info.shape[0] if info is not None and info.shape else 0
    kind = (len(info.shape) if info is not None else 0, rows // middle if rows % middle == 0 else 0)
    if kind == (4, 4):
        return section
    if kind == (5, 2):
        return {**section, "spatial_upsample": False, "temporal_upsample": True}
    if kind == (5, 8):
        return {**section, "temporal_upsample": True}
    raise CheckpointError(
        f"{where}: it has no config metadata, and its 'upsampler' tensors are those of no known upscaler."
    )


def text_encoder_section(components: Mapping[str, Tensors], where: str) -> dict[str, Any]:
    """The Hugging Face configuration of a Gemma text model; its constants are those of the published families."""
    tensors = components["text_encoder"]
    if any(name.endswith(".layer_scalar") for name in tensors):
        return _gemma_4(tensors, where)
    head_dim = _shape(tensors, "layers.0.self_attn.q_norm.weight", 1, where)[0]
    text = {
        **_gemma(tensors, where),
        "model_type": "gemma3_text",
        "num_attention_heads": _rows(tensors, "layers.0.self_attn.q_proj.weight", where) // head_dim,
        "num_key_value_heads": _rows(tensors, "layers.0.self_attn.k_proj.weight", where) // head_dim,
        "head_dim": head_dim,
        "query_pre_attn_scalar": head_dim,
        "rope_theta": 1000000.0,
        "rope_local_base_freq": 10000.0,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        "sliding_window_pattern": 6,
    }
    return {"model_type": "gemma3", "text_config": text}


def _gemma(tensors: Tensors, where: str) -> dict[str, Any]:
    """What both families have in common."""
    return {
        "vocab_size": _rows(tensors, "embed_tokens.weight", where),
        "hidden_size": _shape(tensors, "norm.weight", 1, where)[0],
        "intermediate_size": _rows(tensors, "layers.0.mlp.gate_proj.weight", where),
        "num_hidden_layers": _count(tensors, r"layers\.(\d+)\."),
        "rms_norm_eps": 1e-6,
        "sliding_window": 1024,
        "hidden_activation": "gelu_pytorch_tanh",
    }


def _gemma_4(tensors: Tensors, where: str) -> dict[str, Any]:
    """Layers that have no values of their own see all tokens; where all have some, it is every sixth layer."""
    common = _gemma(tensors, where)
    layers: int = common["num_hidden_layers"]
    no_values = [f"layers.{layer}.self_attn.v_proj.weight" not in tensors for layer in range(layers)]
    is_global = no_values if any(no_values) else [layer % 6 == 5 for layer in range(layers)]
    sizes = {}
    for kind in (False, True):
        if kind not in is_global:
            raise CheckpointError(
                f"{where}: a Gemma 4 text encoder without its gemma_config metadata, which has {layers} layers of one "
                "kind and so does not tell the sizes of the other; use a file with metadata."
            )
        at = f"layers.{is_global.index(kind)}.self_attn."
        head_dim = _shape(tensors, f"{at}q_norm.weight", 1, where)[0]
        rows = (_rows(tensors, f"{at}{name}.weight", where) for name in ("q_proj", "k_proj"))
        sizes[kind] = (head_dim, *(count // head_dim for count in rows))
    text = {
        **common,
        "model_type": "gemma4_unified_text",
        "num_attention_heads": sizes[False][1],
        "num_key_value_heads": sizes[False][2],
        "head_dim": sizes[False][0],
        "num_global_key_value_heads": sizes[True][2],
        "global_head_dim": sizes[True][0],
        "attention_k_eq_v": any(no_values),
        "layer_types": ["full_attention" if full else "sliding_attention" for full in is_global],
    }
    return {"model_type": "gemma4_unified", "text_config": text}
