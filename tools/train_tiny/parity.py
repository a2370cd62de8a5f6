"""Compares every exported part, read by the package in float32, with the PyTorch module it was trained as.

``python -m tools.train_tiny.parity FOLDER`` reads the files that `export` wrote to FOLDER; the PyTorch modules get the
same bfloat16 weights, so only arithmetic differs. Prints the largest error relative to the largest value of each part.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import torch
from torch import Tensor

from ltx2rt import embedded
from ltx2rt.graph.diffusion.latent_geometry import AudioLatentShape, AudioScale, VideoLatentShape, VideoScale
from ltx2rt.graph.diffusion.positions import audio_positions, video_positions
from ltx2rt.graph.models.audio import vae as audio_vae
from ltx2rt.graph.models.audio import vocoder
from ltx2rt.graph.models.layers.params import Params
from ltx2rt.graph.models.text import connector, feature_extractor, gemma, gemma3
from ltx2rt.graph.models.transformer import model as graph_transformer
from ltx2rt.graph.models.transformer.modality import Modality
from ltx2rt.graph.models.upscaler import model as upscaler
from ltx2rt.graph.models.video_vae import specs as video_vae
from ltx2rt.graph.models.video_vae.decoder import VideoDecoder
from ltx2rt.graph.models.video_vae.encoder import VideoEncoder
from ltx2rt.weights.checkpoint import Checkpoint

from . import audio, config, export, flow_matching, spectrum, text, transformer
from .upscaler import Upscaler
from .video_vae import VideoVae

PREFIX = "model.diffusion_model."

# The geometry of the tiny VAEs.
VIDEO_SCALE, AUDIO_SCALE = VideoScale(8, 32, 32), AudioScale(16000, 160, 4)


def state(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def error(ours: mx.array, truth: Tensor) -> float:
    """Largest difference over the largest value."""
    expected = truth.detach().numpy()
    return float(np.abs(np.array(ours.astype(mx.float32)) - expected).max() / np.abs(expected).max())


def padded(x: Tensor, channels: int = 128) -> mx.array:
    """Used channels in the last axis, filled up with zeros."""
    return mx.array(torch.nn.functional.pad(x, (0, channels - x.shape[-1])).numpy())


def compare(folder: Path) -> dict[str, float]:
    torch.manual_seed(0)
    tensors = export.read_exported(folder / embedded.CHECKPOINT.name)
    checkpoint = Checkpoint.open(folder / embedded.CHECKPOINT.name)
    text_folder = folder / embedded.TEXT_ENCODER.name
    encoder = Checkpoint.open(text_folder)
    errors: dict[str, float] = {}
    with torch.no_grad():
        errors |= compare_vaes(checkpoint, tensors)
        errors |= compare_text(checkpoint, encoder, tensors, text_folder)
        errors |= compare_transformer(checkpoint, tensors)
        for name, settings in (
            (embedded.SPATIAL_UPSCALER.name, config.SPATIAL_UPSCALER),
            (embedded.TEMPORAL_UPSCALER.name, config.TEMPORAL_UPSCALER),
        ):
            if (folder / name).exists():
                errors[name] = compare_upscaler(folder / name, settings)
    return errors


def load(checkpoint: Checkpoint, component: str, specs: Any) -> Params:
    return Params(checkpoint.load(component, specs))


def compare_vaes(checkpoint: Checkpoint, tensors: dict[str, Tensor]) -> dict[str, float]:
    used = config.VIDEO_CHANNELS_USED
    vae = VideoVae()
    vae.load_state_dict(state(tensors, "vae."))
    video_config = video_vae.VideoVaeConfig.from_dict(checkpoint.section("video_vae"))
    params = load(checkpoint, "video_vae", video_vae.param_specs(video_config))
    frames = torch.rand(1, 3, 17, 64, 96) * 2 - 1
    latent = vae.encode(frames)
    encoded = VideoEncoder(video_config, params, mx.float32)(frames.permute(0, 2, 3, 4, 1).contiguous().numpy())
    expected = latent.permute(0, 2, 3, 4, 1).contiguous()
    errors = {"video encoder": error(encoded[..., :used], expected), "unused": float(mx.abs(encoded[..., used:]).max())}
    decoded = VideoDecoder(video_config, params, mx.float32)(padded(expected))
    errors["video decoder"] = error(decoded, vae.decode(latent).permute(0, 2, 3, 4, 1))

    sound = audio.AudioVae()
    sound.load_state_dict(state(tensors, "audio_vae."))
    audio_config = audio_vae.AudioVaeConfig.from_dict(checkpoint.section("audio_vae"))
    params = load(checkpoint, "audio_vae", audio_vae.param_specs(audio_config))
    mel = spectrum.log_mel(torch.randn(1, 2, 100 * spectrum.HOP) * 0.1)
    tokens = sound.encode(mel)
    encoded = audio_vae.AudioEncoder(audio_config, params, mx.float32)(
        mx.array(mel.permute(0, 2, 3, 1).contiguous().numpy())
    )
    errors["audio encoder"] = error(encoded[..., : audio.USED], tokens)
    decoded = audio_vae.AudioDecoder(audio_config, params, mx.float32)(padded(tokens))
    expected_mel = sound.decode(tokens)
    errors["audio decoder"] = error(decoded, expected_mel.permute(0, 2, 3, 1))
    voice = audio.Vocoder()
    voice.load_state_dict(state(tensors, "vocoder."))
    voice_config = vocoder.VocoderConfig.from_dict(checkpoint.section("vocoder"))
    params = load(checkpoint, "vocoder", vocoder.param_specs(voice_config))
    waves = vocoder.Vocoder(voice_config, params)(mx.array(expected_mel.permute(0, 2, 3, 1).contiguous().numpy()))
    errors["vocoder"] = error(waves, voice(expected_mel).transpose(1, 2))
    return errors


def compare_text(
    checkpoint: Checkpoint, encoder: Checkpoint, tensors: dict[str, Tensor], folder: Path
) -> dict[str, float]:
    prompts = text.Prompts(folder / "tokenizer.json")
    path = text.TextPath(prompts.vocabulary)
    own = {key: value for key, value in state(tensors, PREFIX).items() if "embeddings_connector" in key}
    own |= state(tensors, "text_embedding_projection.")
    stored = state(export.read_exported(folder / "model.safetensors"), "language_model.model.")
    path.load_state_dict(own | {f"encoder.{key}": value for key, value in stored.items()})
    ids, counts = prompts(["A red ball drifts slowly to the left on a blue background, cinematic"])
    truth = path(ids, counts)
    gemma_config = gemma3.Gemma3Config.from_dict(encoder.section("text_encoder"))
    section = checkpoint.section("transformer")
    features_config = feature_extractor.FeatureExtractorConfig.from_dict(
        section, encoder_width=gemma_config.hidden_size, encoder_states=gemma_config.num_states
    )
    model = gemma.Gemma(gemma_config, load(encoder, "text_encoder", gemma.param_specs(gemma_config)), mx.float32)
    projection = load(checkpoint, "text_projection", feature_extractor.param_specs(features_config))
    features = feature_extractor.FeatureExtractor(features_config, projection, mx.float32)(
        model.hidden_states(ids[0].numpy())
    )
    errors = {}
    for stream, expected, given in (("video", truth.video, features.video), ("audio", truth.audio, features.audio)):
        settings = connector.ConnectorConfig.from_dict(section, stream)
        params = load(checkpoint, f"{stream}_connector", connector.param_specs(settings))
        errors[f"{stream} context"] = error(connector.Connector(settings, params, mx.float32)(given), expected)
    return errors


def compare_transformer(checkpoint: Checkpoint, tensors: dict[str, Tensor]) -> dict[str, float]:
    model = transformer.Transformer()
    own = {key: value for key, value in state(tensors, PREFIX).items() if "embeddings_connector" not in key}
    model.load_state_dict(own)
    batch, length = 2, 18
    shape = VideoLatentShape(batch=batch, frames=3, height=4, width=4)
    video, sound = torch.randn(batch, shape.tokens, config.VIDEO_CHANNELS_USED), torch.randn(batch, length, audio.USED)
    sigma, sound_sigma = torch.tensor([0.9, 0.3]), torch.tensor([0.9, 0.0])
    mask, sound_mask = torch.ones(batch, shape.tokens), torch.ones(batch, length)
    mask[0, :16], sound_mask[1] = 0, 0
    context = text.Context(torch.randn(batch, 40, 64), torch.randn(batch, 40, 64), None)
    places = flow_matching.video_positions(3, 4, 4).expand(batch, -1, -1)
    sound_places = flow_matching.sound_positions(length).expand(batch, -1, -1)
    truth = model(
        transformer.Tokens(video, sigma, mask, places),
        transformer.Tokens(sound, sound_sigma, sound_mask, sound_places),
        context,
    )
    settings = graph_transformer.TransformerConfig.from_dict(checkpoint.section("transformer"))
    params = load(checkpoint, "transformer", graph_transformer.param_specs(settings))
    velocities = graph_transformer.Transformer(settings, params, mx.float32)(
        Modality(
            latent=padded(video),
            sigma=sigma.numpy(),
            timesteps=(mask * sigma[:, None]).numpy(),
            positions=video_positions(shape, 24.0, VIDEO_SCALE),
            context=mx.array(context.video.numpy()),
        ),
        Modality(
            latent=padded(sound),
            sigma=sound_sigma.numpy(),
            timesteps=(sound_mask * sound_sigma[:, None]).numpy(),
            positions=audio_positions(AudioLatentShape(batch=batch, frames=length), AUDIO_SCALE),
            context=mx.array(context.audio.numpy()),
        ),
    )
    return {
        f"{name} velocity": error(ours[..., : expected.shape[-1]], expected)
        for name, ours, expected in zip(("video", "audio"), velocities, truth, strict=True)
    }


def compare_upscaler(path: Path, settings: dict[str, Any]) -> float:
    model = Upscaler(settings)
    model.load_state_dict(export.read_exported(path))
    latent = torch.randn(1, config.VIDEO_CHANNELS_USED, 3, 4, 6)
    checkpoint = Checkpoint.open(path)
    upscaler_config = upscaler.LatentUpscalerConfig.from_dict(checkpoint.section("upscaler"))
    params = load(checkpoint, "upscaler", upscaler.param_specs(upscaler_config))
    ours = upscaler.LatentUpscaler(upscaler_config, params, mx.float32)(
        padded(latent.permute(0, 2, 3, 4, 1).contiguous())
    )
    expected = model(latent).permute(0, 2, 3, 4, 1)
    return error(ours[..., : expected.shape[-1]], expected)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=embedded.FOLDER)
    for name, value in compare(parser.parse_args().folder).items():
        print(f"{value:10.2e}  {name}")


if __name__ == "__main__":
    main()
