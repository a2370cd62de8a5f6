"""How several denoised predictions of one step become one: guidance strengths and formulas, all in float32."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ltx2rt.errors import UsageError
from ltx2rt.graph.diffusion.precision import Float32Array, StateDtype, round_to


@dataclass(frozen=True)
class ApgOptions:
    """Adaptive projected guidance in place of plain classifier-free guidance (see `MomentumApg`).

    Attributes:
        eta: weight of the part along the prediction.
        norm_threshold: largest norm of the difference; 0 = no limit.
        momentum: weight of the differences of earlier steps.
    """

    eta: float = 1.0
    norm_threshold: float = 0.0
    momentum: float = 0.0


@dataclass(frozen=True)
class GuiderParams:
    """Guidance of one stream; the defaults mean none.

    Attributes:
        cfg_scale: classifier-free guidance away from the negative prompt; 1 = off.
        stg_scale: guidance away from a pass with self-attention skipped in ``stg_blocks``; 0 = off.
        rescale_scale: share of the guided prediction whose deviation is brought back to that of the plain one; 0 = off.
        modality_scale: guidance away from a pass in which the streams do not see each other; 1 = off.
        skip_step: after each evaluated step, this many steps reuse its prediction.
        stg_blocks: transformer blocks perturbed for ``stg_scale``.
        apg: how ``cfg_scale`` acts; None is plain classifier-free guidance.
    """

    cfg_scale: float = 1.0
    stg_scale: float = 0.0
    rescale_scale: float = 0.0
    modality_scale: float = 1.0
    skip_step: int = 0
    stg_blocks: tuple[int, ...] = ()
    apg: ApgOptions | None = None

    def __post_init__(self) -> None:
        if self.skip_step < 0:
            raise UsageError(f"skip_step must be 0 or more, got {self.skip_step}.")
        if any(block < 0 for block in self.stg_blocks):
            raise UsageError(f"stg_blocks must be block numbers from 0 on, got {list(self.stg_blocks)}.")

    @property
    def needs_uncond(self) -> bool:
        return not math.isclose(self.cfg_scale, 1.0)

    @property
    def needs_perturbed(self) -> bool:
        # Relative closeness alone: any strength but an exact 0 counts.
        return not math.isclose(self.stg_scale, 0.0)

    @property
    def needs_isolated(self) -> bool:
        return not math.isclose(self.modality_scale, 1.0)

    def skips(self, step_index: int) -> bool:
        """Whether this step reuses the stream's last prediction; never true for step 0."""
        return step_index % (self.skip_step + 1) != 0


class GuiderSchedule:
    """Guidance strengths that may depend on sigma: each entry holds for sigmas up to and including its bound."""

    def __init__(self, params: GuiderParams | Mapping[float, GuiderParams]) -> None:
        """One set for all sigmas, or sets by upper bound; above the largest bound its set holds too.

        Raises:
            UsageError: if the mapping is empty.
        """
        bins = {math.inf: params} if isinstance(params, GuiderParams) else dict(params)
        if not bins:
            raise UsageError("A guidance schedule needs at least one entry, got none.")
        self._bins = sorted(bins.items())

    def at(self, sigma: float) -> GuiderParams:
        """The strengths at ``sigma``."""
        return next((params for bound, params in self._bins if bound >= sigma), self._bins[-1][1])


def combine_predictions(
    params: GuiderParams,
    cond: Float32Array,
    *,
    uncond: Float32Array | None = None,
    perturbed: Float32Array | None = None,
    isolated: Float32Array | None = None,
    cfg: Float32Array | None = None,
    dtype: StateDtype = "float32",
) -> Float32Array:
    """Guided prediction of one stream, with its deviation rescaled over the whole tensor (conditioning included).

    Args:
        params: the strengths.
        cond: denoised prediction (B, T, C) for the prompt.
        uncond: the same for the negative prompt.
        perturbed: the same with self-attention skipped in some blocks.
        isolated: the same without attention between the streams.
        cfg: what classifier-free guidance adds; None: ``(cfg_scale - 1)*(cond - uncond)``.
        dtype: what the result is rounded to.

    Raises:
        ValueError: if a prediction is missing that a strength asks for.

    Source: Lightricks/LTX-2 ltx_core/components/guiders.py (MultiModalGuider) @ v1.2.0.
    """
    guided = cond
    for name, weight, needed, other in (
        ("uncond", params.cfg_scale - 1, params.needs_uncond, uncond),
        ("perturbed", params.stg_scale, params.needs_perturbed, perturbed),
        ("isolated", params.modality_scale - 1, params.needs_isolated, isolated),
    ):
        if not needed:
            continue
        if other is None:
            raise ValueError(f"The strengths {params} need the {name} prediction, but it was not given.")
        delta = np.float32(weight) * (cond - other)
        if name == "uncond" and cfg is not None:
            delta = cfg
        guided = guided + delta
    if params.rescale_scale != 0:
        ratio = _deviation(cond) / _deviation(guided)
        guided = guided * np.float32(params.rescale_scale * ratio + (1 - params.rescale_scale))
    return round_to(guided, dtype)


class MomentumApg:
    """Adaptive projected guidance over a running sum of differences; one object per stream and run.

    Attributes:
        running: the sum so far, (B, T, C); None before the first step or without momentum.
    """

    def __init__(
        self,
        scale: float,
        eta: float,
        *,
        norm_threshold: float = 5.0,
        momentum: float = 0.0,
        running: Float32Array | None = None,
    ) -> None:
        """Strength ``scale`` (0 = none, one less than a guidance scale); ``momentum`` weights the sum of earlier
        differences."""
        self._scale = scale
        self._eta = eta
        self._norm_threshold = norm_threshold
        self._momentum = momentum
        self.running = running

    def delta(self, cond: Float32Array, uncond: Float32Array) -> Float32Array:
        """What to add to ``cond`` (B, T, C) in this step; remembers the difference for the next one."""
        guidance = cond - uncond
        if self._momentum != 0:
            if self.running is not None:
                guidance = np.float32(self._momentum) * self.running + guidance
            self.running = guidance
        result: Float32Array = np.float32(self._scale) * _project_guidance(
            guidance, cond, self._eta, self._norm_threshold
        )
        return result


def _project_guidance(guidance: Float32Array, cond: Float32Array, eta: float, norm_threshold: float) -> Float32Array:
    if norm_threshold > 0:
        axes = tuple(range(-min(3, guidance.ndim), 0))
        norm = np.sqrt(np.sum(guidance.astype(np.float64) ** 2, axis=axes, keepdims=True))
        guidance = guidance * (norm_threshold / np.maximum(norm, norm_threshold)).astype(np.float32)
    parallel = _projection(guidance, cond)
    result: Float32Array = parallel * np.float32(eta) + (guidance - parallel)
    return result


def _projection(vector: Float32Array, onto: Float32Array) -> Float32Array:
    """Per batch row, the part of ``vector`` along ``onto``."""
    rows, axis = (array.reshape(array.shape[0], -1).astype(np.float64) for array in (vector, onto))
    coefficient = (rows * axis).sum(axis=1) / ((axis * axis).sum(axis=1) + 1e-8)
    result: Float32Array = coefficient.astype(np.float32).reshape(-1, *([1] * (onto.ndim - 1))) * onto
    return result


def _deviation(values: NDArray[Any]) -> float:
    return float(np.std(values, ddof=1, dtype=np.float64))
