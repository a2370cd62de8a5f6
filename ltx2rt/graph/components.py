"""The parts of a model, each stated once: its name, how its configuration is read, and which tensors it needs.

A new kind of a part (another text encoder, another video decoder) is a model and one entry here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from ltx2rt.errors import CheckpointError, Ltx2rtError
from ltx2rt.graph.models.audio import mel, vocoder
from ltx2rt.graph.models.audio import vae as audio_vae
from ltx2rt.graph.models.text import connector, duration_head, feature_extractor
from ltx2rt.graph.models.text.gemma3_encoder import Gemma3Encoder
from ltx2rt.graph.models.text.gemma4_encoder import Gemma4Encoder, Gemma4Writer
from ltx2rt.graph.models.transformer import config as transformer
from ltx2rt.graph.models.upscaler import model as upscaler
from ltx2rt.graph.models.video_vae import specs as video_vae
from ltx2rt.graph.models.video_vae.config import CONVOLUTIONAL, DIFFUSION
from ltx2rt.graph.models.video_vae.convolutional_decoder import ConvolutionalDecoder
from ltx2rt.graph.models.video_vae.diffusion_ways import DiffusionDecoder
from ltx2rt.graph.protocols import TextEncoder, TextWriter, VideoDecoder
from ltx2rt.types import ParamSpec
from ltx2rt.weights.checkpoint import Checkpoint
from ltx2rt.weights.config import require_plausible
from ltx2rt.weights.generations import GENERATIONS, LTX_2, contradiction
from ltx2rt.weights.sets.pairing import check_declared

Config = TypeVar("Config")

# Versions of Gemma that were tuned for encoding.
_ENCODING_ONLY = tuple(g.text_encoder_version for g in GENERATIONS if g.text_encoder_version is not None)


class Expected(NamedTuple):
    """The tensors that a file should have of a component; those under ``unchecked`` belong to no model of ours."""

    specs: list[ParamSpec]
    unchecked: tuple[str, ...] = ()


# Every tensor belongs to a model that does not exist yet, or to none.
NOTHING_KNOWN = Expected([], ("",))


@dataclass(frozen=True)
class Component(Generic[Config]):
    """One part of a model.

    Attributes:
        name: its place in a `WeightSet`.
        read: the configuration, from the checkpoint that holds the component; `parse` is what to call.
        specs: every tensor that the model of a configuration may need.
        expected: what a file that holds the component should have of it; None: all of ``specs``. Files may hold a part
            of a component, and models that we do not have.
        stored: its name in `Checkpoint`; empty: ``name``.
    """

    name: str
    read: Callable[[Checkpoint], Config]
    specs: Callable[[Config], list[ParamSpec]]
    expected: Callable[[Checkpoint], Expected] | None = None
    stored: str = ""

    @property
    def stored_name(self) -> str:
        return self.stored or self.name

    def parse(self, checkpoint: Checkpoint) -> Config:
        """The configuration, from the checkpoint that holds the component.

        Raises:
            CheckpointError: it is missing, contradictory or not supported, or its values are none.
        """
        require_plausible(checkpoint.section(self.stored_name), f"{checkpoint.path}: the configuration")
        try:
            return self.read(checkpoint)
        except CheckpointError as error:
            if str(checkpoint.path) in str(error):
                raise
            raise CheckpointError(f"{checkpoint.path}: {error}") from error
        except Ltx2rtError:
            raise
        except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
            # Any value of a file may be of another kind than the models expect, or a number that makes no sense.
            raise CheckpointError(
                f"{checkpoint.path}: the configuration of the {self.name} cannot be used "
                f"({type(error).__name__}: {error}); the file is damaged, download or convert it again."
            ) from error

    def expectation(self, checkpoint: Checkpoint) -> Expected:
        """What ``checkpoint``, which holds the component, should have of it.

        Raises:
            CheckpointError: the configuration is missing, contradictory or not supported.
        """
        if self.expected is not None:
            return self.expected(checkpoint)
        return Expected(self.specs(self.parse(checkpoint)))


def _from_section(name: str, from_dict: Callable[[Mapping[str, Any]], Config]) -> Callable[[Checkpoint], Config]:
    """Reads the section of the configuration that describes ``name``."""
    return lambda checkpoint: from_dict(checkpoint.section(name))


def _expected_transformer(checkpoint: Checkpoint) -> Expected:
    names = checkpoint.names("transformer")
    contradicted = contradiction(checkpoint.metadata, names)
    if contradicted:
        raise CheckpointError(f"{checkpoint.path}: {contradicted}; use the file as it was published.")
    audio = "audio_patchify_proj.weight" in names
    video = "patchify_proj.weight" in names or not audio
    return Expected(transformer.param_specs(TRANSFORMER.parse(checkpoint), video=video, audio=audio))


def _parse_text_projection(checkpoint: Checkpoint) -> feature_extractor.FeatureExtractorConfig:
    # The projection reads all states of the text encoder at once; only the product of both numbers shows in shapes.
    columns = {info.shape[1] for info in checkpoint.names("text_projection").values() if len(info.shape) == 2}
    if len(columns) != 1:
        raise CheckpointError(
            f"{checkpoint.path}: the text projections have input widths {sorted(columns)}, expected one."
        )
    return feature_extractor.FeatureExtractorConfig.from_dict(
        checkpoint.section("text_projection"), encoder_width=columns.pop(), encoder_states=1
    )


def _expected_text_projection(checkpoint: Checkpoint) -> Expected:
    if not (checkpoint.components & {"transformer", "video_connector"} or checkpoint.is_described):
        return NOTHING_KNOWN  # its output widths are stated in another file, that of the connectors
    return Expected(feature_extractor.param_specs(TEXT_PROJECTION.parse(checkpoint)))


def _parse_video_vae(checkpoint: Checkpoint) -> video_vae.VideoVaeConfig:
    return video_vae.VideoVaeConfig.from_dict(checkpoint.section("video_vae"), checkpoint.names("video_vae"))


def _expected_video_vae(checkpoint: Checkpoint) -> Expected:
    names, config = checkpoint.names("video_vae"), VIDEO_VAE.parse(checkpoint)
    specs = video_vae.statistics_specs(config.latent_channels)
    if any(name.startswith("encoder.") for name in names):  # files with one half alone are complete in themselves
        specs += video_vae.encoder_specs(config)
    if any(name.startswith("decoder.") for name in names):
        specs += video_vae.decoder_specs(config)
    return Expected(specs)


class AudioConfig(NamedTuple):
    """The audio VAE, and the analysis of sound that its encoder reads."""

    vae: audio_vae.AudioVaeConfig
    mel: mel.MelConfig


def _parse_audio_vae(checkpoint: Checkpoint) -> AudioConfig:
    section = checkpoint.section("audio_vae")
    return AudioConfig(audio_vae.AudioVaeConfig.from_dict(section), mel.MelConfig.from_dict(section))


def _expected_audio_vae(checkpoint: Checkpoint) -> Expected:
    config = AUDIO_VAE.parse(checkpoint).vae
    halves = {name.partition(".")[0] for name in checkpoint.names("audio_vae")}
    if "encoder" not in halves:
        return Expected(audio_vae.decoder_specs(config))
    return Expected(audio_vae.param_specs(config) if "decoder" in halves else audio_vae.encoder_specs(config))


def _parse_duration_head(checkpoint: Checkpoint) -> duration_head.DurationHeadConfig:
    shapes = {name: info.shape for name, info in checkpoint.names("duration_head").items()}
    return duration_head.DurationHeadConfig.of(checkpoint.section("duration_head"), shapes, str(checkpoint.path))


def _expected_text_encoder(checkpoint: Checkpoint) -> Expected:
    section = checkpoint.section("text_encoder")
    check_declared(section, str(checkpoint.path))
    return Expected(TEXT_ENCODER.specs(TEXT_ENCODER.parse(checkpoint)))


def text_encoder(config: Mapping[str, Any]) -> TextEncoder:
    """The text encoder of a Hugging Face ``config.json``, by its ``model_type``.

    Raises:
        CheckpointError: another kind than those of `TEXT_ENCODERS`, or a configuration that is not supported.
    """
    text = config.get("text_config", config)
    if not isinstance(text, Mapping):
        raise CheckpointError(f"text_config must be a JSON object, got a {type(text).__name__}; the file is damaged.")
    model_type = text.get("model_type", config.get("model_type"))
    if not isinstance(model_type, str) or model_type not in TEXT_ENCODERS:
        raise CheckpointError(
            f"a text encoder of model_type {str(model_type)[:80]!r} is not supported, only {', '.join(TEXT_ENCODERS)}; "
            f"use the {LTX_2.text_encoder_name} folder."
        )
    return TEXT_ENCODERS[model_type](config)


def _text_writer(config: Mapping[str, Any]) -> TextWriter:
    """A language model that rewrites prompts, by the ``model_type`` of its ``config.json``.

    Raises:
        CheckpointError: another kind than those of `TEXT_WRITERS`, or the fine-tune of LTX-2.5, which only encodes.
    """
    text = config.get("text_config")
    stated = config.get("model_type") or (text.get("model_type") if isinstance(text, Mapping) else None)
    if stated not in TEXT_WRITERS or config.get("gemma_version") in _ENCODING_ONLY:
        said = config.get("gemma_version", stated)
        raise CheckpointError(
            f"prompts are rewritten by a Gemma 3 or a Gemma 4 that was made to write, such as gemma-4-E2B-it, and this "
            f"is {str(said)[:80]!r}; give the folder of one."
        )
    return TEXT_WRITERS[str(stated)](config)


def _text_encoder_specs(encoder: TextEncoder) -> list[ParamSpec]:
    layers = [spec for specs in encoder.layer_specs() for spec in specs]
    return [encoder.embedding_spec(), *layers, *encoder.resident_specs(), *encoder.looked_up_specs()]


def video_decoder(config: video_vae.VideoVaeConfig) -> VideoDecoder:
    """The decoder of a video VAE, by its class.

    Raises:
        CheckpointError: the file holds no decoder of a kind of `VIDEO_DECODERS`.
    """
    if config.decoder_class not in VIDEO_DECODERS:
        config.require_decoder()  # raises, naming the file to use
    return VIDEO_DECODERS[config.decoder_class](config)


# By ``model_type``.
TEXT_ENCODERS: dict[str, Callable[[Mapping[str, Any]], TextEncoder]] = {
    "gemma3": Gemma3Encoder.from_dict,
    "gemma3_text": Gemma3Encoder.from_dict,
    "gemma4": Gemma4Encoder.from_dict,
    "gemma4_text": Gemma4Encoder.from_dict,
    "gemma4_unified": Gemma4Encoder.from_dict,
    "gemma4_unified_text": Gemma4Encoder.from_dict,
}
# Language models that rewrite prompts, by ``model_type``.
TEXT_WRITERS: dict[str, Callable[[Mapping[str, Any]], TextWriter]] = {
    "gemma3": Gemma3Encoder.from_dict,
    "gemma3_text": Gemma3Encoder.from_dict,
    "gemma4": Gemma4Writer.from_dict,
    "gemma4_text": Gemma4Writer.from_dict,
}
# By ``_class_name``.
VIDEO_DECODERS: dict[str, Callable[[video_vae.VideoVaeConfig], VideoDecoder]] = {
    CONVOLUTIONAL: ConvolutionalDecoder,
    DIFFUSION: DiffusionDecoder,
}


TRANSFORMER = Component(
    "transformer",
    _from_section("transformer", transformer.TransformerConfig.from_dict),
    transformer.param_specs,
    _expected_transformer,
)
VIDEO_CONNECTOR = Component(
    "video_connector",
    _from_section("video_connector", lambda section: connector.ConnectorConfig.from_dict(section, "video")),
    connector.param_specs,
)
AUDIO_CONNECTOR = Component(
    "audio_connector",
    _from_section("audio_connector", lambda section: connector.ConnectorConfig.from_dict(section, "audio")),
    connector.param_specs,
)
CONNECTORS = (VIDEO_CONNECTOR, AUDIO_CONNECTOR)
TEXT_PROJECTION = Component(
    "text_projection", _parse_text_projection, feature_extractor.param_specs, _expected_text_projection
)
VIDEO_VAE = Component(
    "video_vae",
    _parse_video_vae,
    video_vae.param_specs,
    _expected_video_vae,
)
AUDIO_VAE = Component(
    "audio_vae", _parse_audio_vae, lambda config: audio_vae.param_specs(config.vae), _expected_audio_vae
)
VOCODER = Component("vocoder", _from_section("vocoder", vocoder.VocoderConfig.from_dict), vocoder.param_specs)
TEXT_ENCODER = Component(
    "text_encoder",
    _from_section("text_encoder", text_encoder),
    _text_encoder_specs,
    _expected_text_encoder,
)
PROMPT_ENHANCER = Component(
    "prompt_enhancer",
    _from_section("text_encoder", _text_writer),
    _text_encoder_specs,
    stored=TEXT_ENCODER.name,
)
DURATION_HEAD = Component("duration_head", _parse_duration_head, duration_head.param_specs)
UPSCALER = Component(
    "upscaler", _from_section("upscaler", upscaler.LatentUpscalerConfig.from_dict), upscaler.param_specs
)
SPATIAL_UPSCALER = Component("spatial_upscaler", UPSCALER.parse, UPSCALER.specs, stored=UPSCALER.name)
TEMPORAL_UPSCALER = Component("temporal_upscaler", UPSCALER.parse, UPSCALER.specs, stored=UPSCALER.name)

# By their names in files.
COMPONENTS: dict[str, Component[Any]] = {
    component.stored_name: component
    for component in (
        TRANSFORMER,
        VIDEO_CONNECTOR,
        AUDIO_CONNECTOR,
        TEXT_PROJECTION,
        VIDEO_VAE,
        AUDIO_VAE,
        VOCODER,
        UPSCALER,
        TEXT_ENCODER,
        DURATION_HEAD,
    )
}
