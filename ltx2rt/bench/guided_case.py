"""One guided step of LTX-2.3: four passes that share what is the same, beside a call of the model for each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
import numpy as np

from ltx2rt.bench.attention_cases import AUDIO_TOKENS, TEXT_TOKENS
from ltx2rt.bench.block_case import SECTION_23, SMALL
from ltx2rt.bench.case import MLX, OURS, UNFORKED, Call, Prepared, Way, Work, normal
from ltx2rt.bench.stage import random_params
from ltx2rt.graph.models.layers.params import Array, Params
from ltx2rt.graph.models.transformer.config import StreamConfig, TransformerConfig, block_param_specs, param_specs
from ltx2rt.graph.models.transformer.footprint import CallShape, walk_flops
from ltx2rt.graph.models.transformer.modality import Modality, ModelPass, Perturbation
from ltx2rt.graph.models.transformer.model import Transformer
from ltx2rt.kernels.selection import forced

# 28 of 48 blocks come before the one that the published settings perturb, counted from 0.
_SHARED = 28 / 48


@dataclass(frozen=True)
class GuidedStepCase:
    """Classifier-free, spatio-temporal and modality guidance of video and five seconds of audio with E4M3 weights.

    All blocks have the same weights, which are larger than any cache.

    Attributes:
        tokens: of the video.
        layers: blocks.
        small: reduced for a test.
    """

    tokens: int
    layers: int = 12
    small: bool = False

    @property
    def name(self) -> str:
        return f"guided_step/2.3/e4m3/{self.layers}-blocks/v{self.tokens}-a{AUDIO_TOKENS}-t{TEXT_TOKENS}"

    def reduced(self) -> GuidedStepCase:
        return replace(self, tokens=48, layers=2, small=True)

    @property
    def perturbed(self) -> int:
        """The block whose self-attention one of the passes leaves out."""
        return int(self.layers * _SHARED)

    def prepare(self, wanted: Sequence[str]) -> Prepared:
        step = _GuidedStep(self)
        ways = {OURS: Way(lambda share: step.forked), UNFORKED: Way(lambda share: step.unforked)}
        if MLX in wanted:
            ways[MLX] = Way(lambda share: _plain(step.forked))
        return Prepared(step.work, ways, fields=step.fields)


def _plain(call: Call) -> Call:
    def plain() -> Any:
        with forced("reference"):
            return call()

    return plain


class _GuidedStep:
    """A model of random weights with the inputs of a step."""

    def __init__(self, case: GuidedStepCase) -> None:
        section = {**SECTION_23, **(SMALL if case.small else {}), "num_layers": case.layers}
        config = TransformerConfig.from_dict(section)
        self._model = Transformer(config, Params(_weights(config)))
        audio, text = (24, 40) if case.small else (AUDIO_TOKENS, TEXT_TOKENS)
        self._video = random_modality(config.video, case.tokens, text, seed=1)
        self._audio = random_modality(config.audio, audio, text, seed=2)
        positive = self._video.context, self._audio.context
        negative = [normal(context.shape, 20 + i, context.dtype) for i, context in enumerate(positive)]
        blocks_skipped = frozenset([case.perturbed])
        skipped = (
            Perturbation("skip_video_self_attn", blocks_skipped),
            Perturbation("skip_audio_self_attn", blocks_skipped),
        )
        isolated = (Perturbation("skip_a2v_cross_attn"), Perturbation("skip_v2a_cross_attn"))
        self._passes = [
            ModelPass(*positive),
            ModelPass(negative[0], negative[1]),
            ModelPass(*positive, skipped),
            ModelPass(*positive, isolated),
        ]
        self._counted = {"forked": 0, "unforked": 0}
        passes = len(self._passes)
        shape = CallShape(case.tokens, audio, text)
        blocks = passes * case.layers - case.perturbed
        operations = walk_flops(config, shape, blocks=blocks, text_keys=2 * case.layers, passes=passes)
        of_block = sum(
            int(np.prod(spec.shape)) * (1 if spec.layout == "linear" else 4) for spec in block_param_specs(config, 0)
        )
        self.work = Work(operations, blocks * of_block, "bfloat16")

    def forked(self) -> mx.array:
        """The velocities of all passes, side by side as one vector."""
        before = self._model.block_evaluations
        velocities = self._model.guided(self._video, self._audio, self._passes)
        found = _as_vector([values for pair in velocities for values in pair])
        self._counted["forked"] = self._model.block_evaluations - before
        return found

    def unforked(self) -> mx.array:
        """The same with a call per pass."""
        before = self._model.block_evaluations
        found: list[mx.array | None] = []
        for own in self._passes:
            assert own.video_context is not None
            assert own.audio_context is not None
            video = replace(self._video, context=own.video_context)
            audio = replace(self._audio, context=own.audio_context)
            found += self._model(video, audio, [own.perturbations])
        vector = _as_vector(found)
        self._counted["unforked"] = self._model.block_evaluations - before
        return vector

    def fields(self) -> dict[str, Any]:
        return {
            "block_evaluations": self._counted["forked"],
            "block_evaluations_unforked": self._counted["unforked"],
        }


def _as_vector(arrays: Sequence[mx.array | None]) -> mx.array:
    vector = mx.concatenate([values.reshape(-1) for values in arrays if values is not None])
    mx.eval(vector)
    return vector


def _weights(config: TransformerConfig) -> dict[str, Array]:
    """The model's own tensors, and those of the first block for every block."""
    specs = param_specs(config)
    params = random_params([spec for spec in specs if not spec.name.startswith("transformer_blocks.")], "bf16")
    block = random_params(block_param_specs(config, 0), "bf16", "e4m3")
    for index in range(config.num_layers):
        params |= {name.replace("_blocks.0.", f"_blocks.{index}.", 1): array for name, array in block.items()}
    return params


def random_modality(config: StreamConfig, tokens: int, text: int, seed: int) -> Modality:
    """A stream of random latents halfway through the noise, every token at a place of its own."""
    axes = len(config.max_positions)
    starts = np.arange(tokens, dtype=np.float32)[None, None] / tokens + np.zeros((1, axes, 1), np.float32)
    return Modality(
        latent=normal((1, tokens, config.in_channels), seed, mx.float32),
        sigma=np.full(1, 0.5, np.float32),
        timesteps=np.full((1, tokens), 0.5, np.float32),
        positions=np.stack([starts, starts + 1 / tokens], axis=-1),
        context=normal((1, text, config.context_dim), seed + 10, mx.bfloat16),
    )


def guided_cases() -> list[GuidedStepCase]:
    """Few tokens, where the text counts for much, and as many as have the products fill the machine."""
    return [GuidedStepCase(tokens) for tokens in (256, 1024)]
