"""Stages that turn prompts into contexts: the text encoder, then the connectors."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from ltx2rt.errors import UsageError
from ltx2rt.graph.models import connector, feature_extractor, gemma3
from ltx2rt.graph.models.params import Params
from ltx2rt.graph.models.transformer import TransformerConfig
from ltx2rt.graph.pipelines.prompt_encoding import PromptContext, check_pairing, connect, extract_features
from ltx2rt.graph.pipelines.run import Run
from ltx2rt.weights.checkpoint import Checkpoint
from ltx2rt.weights.tokenizer import MAX_TOKENS


def positive_context(run: Run) -> PromptContext:
    """Context of the prompt, from the request or from the text encoder."""
    return run.request.context or encode_prompts(run, [run.request.prompt])[0]


def guided_contexts(run: Run) -> tuple[PromptContext, PromptContext | None]:
    """Contexts of the prompt and the negative prompt, from the request or from the text encoder."""
    request = run.request
    if request.context is not None:
        return request.context, request.negative_context
    positive, negative = encode_prompts(run, [request.prompt, request.negative_prompt])
    return positive, negative


def zero_context(checkpoint: Checkpoint) -> PromptContext:
    """A context of zeros, for tests of everything but the text encoder."""
    config = TransformerConfig.from_dict(checkpoint.section("transformer"))
    widths = (config.caption_channels or stream.context_dim for stream in (config.video, config.audio))
    return PromptContext(*(mx.zeros((1, MAX_TOKENS, width), mx.bfloat16) for width in widths))


def encode_prompts(run: Run, prompts: Sequence[str]) -> list[PromptContext]:
    """Contexts of each prompt: stage "text encoder" (Gemma and the projection), then stage "connectors"."""

    def compute() -> dict[str, mx.array]:
        contexts = _encode(run, prompts)
        return {f"{index}.{name}": value for index, c in enumerate(contexts) for name, value in c._asdict().items()}

    arrays = run.remember("text contexts", compute)
    return [PromptContext(arrays[f"{index}.video"], arrays[f"{index}.audio"]) for index in range(len(prompts))]


def _encode(run: Run, prompts: Sequence[str]) -> list[PromptContext]:
    checkpoint, encoder = run.files.checkpoint, run.files.text_encoder
    tokenizer = run.files.tokenizer
    if encoder is None or tokenizer is None:
        raise UsageError("the text encoder is missing; give the Gemma folder or a text embedding.")
    dtype = run.request.dtype
    config = gemma3.Gemma3Config.from_dict(encoder.section("text_encoder"))
    check_pairing(checkpoint.metadata, encoder.section("text_encoder"), str(checkpoint.path))
    section = checkpoint.section("transformer")
    extractor_config = feature_extractor.FeatureExtractorConfig.from_dict(
        section, encoder_width=config.hidden_size, encoder_states=config.num_states
    )
    with run.stage("text encoder") as stage:
        arrays = stage.hold(encoder.load("text_encoder", gemma3.param_specs(config)))
        projection = stage.hold(checkpoint.load("text_projection", feature_extractor.param_specs(extractor_config)))
        model = gemma3.Gemma3(config, Params(arrays), dtype)
        extractor = feature_extractor.FeatureExtractor(extractor_config, Params(projection), dtype)
        features = [extract_features(model, extractor, tokenizer.encode(prompt)) for prompt in prompts]
    with run.stage("connectors") as stage:
        video_config = connector.ConnectorConfig.from_dict(section, "video")
        audio_config = connector.ConnectorConfig.from_dict(section, "audio")
        video_arrays = stage.hold(checkpoint.load("video_connector", connector.param_specs(video_config)))
        audio_arrays = stage.hold(checkpoint.load("audio_connector", connector.param_specs(audio_config)))
        video = connector.Connector(video_config, Params(video_arrays), dtype)
        audio = connector.Connector(audio_config, Params(audio_arrays), dtype)
        return [connect(feature, video, audio) for feature in features]
