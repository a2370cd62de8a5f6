"""The evaluations of a denoising stage by several machines: each computes some of the passes, or some of the tokens."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import mlx.core as mx
import numpy as np

from ltx2rt.errors import ConnectionLost, MachineLost
from ltx2rt.graph.diffusion.denoising import Predict, PredictRequest
from ltx2rt.graph.diffusion.precision import Float32Array
from ltx2rt.graph.diffusion.predictions import Denoised
from ltx2rt.graph.models.transformer.model import Transformer
from ltx2rt.graph.stages.denoise.machine_part import MachinePart
from ltx2rt.graph.stages.denoise.team_messages import packed_request, unpacked_request
from ltx2rt.kernels.host import to_numpy
from ltx2rt.team.team import Team
from ltx2rt.types import Array

log = logging.getLogger(__name__)


class TeamPasses:
    """The `Predict` of the machine that leads, and what the others answer with.

    States, noise and the sampler are the leader's alone: it asks the others for one evaluation after the other. When
    one of them goes, it computes that evaluation again, and all that follow, alone: the bits are the same.

    Args:
        team: the machines.
        part: what this one computes.
        transformer: the loaded model; None: this machine has no pass to compute.
        passes: computes passes with it.
    """

    def __init__(self, team: Team, part: MachinePart, transformer: Transformer | None, passes: Predict | None) -> None:
        self._team = team
        self._part = part
        self._transformer = transformer
        self._passes = passes

    def __call__(self, request: PredictRequest) -> Sequence[Denoised]:
        """The estimates of all passes, asked of all machines.

        Raises:
            MachineLost: one of them says nothing.
        """
        if self._team.is_there:
            found = self._together(request)
            if found is not None:
                return found
        assert self._passes is not None
        assert self._transformer is not None
        self._transformer.exchange = None
        return self._passes(request)

    def _together(self, request: PredictRequest) -> Sequence[Denoised] | None:
        """None: a machine has gone."""
        try:
            self._team.tell(*packed_request(request))
            found = self._compute(request)
        except ConnectionLost as error:
            tell_alone(error)
            return None
        self._team.rest()
        return found

    def answer(self, head: Mapping[str, Any], arrays: Sequence[Array | None]) -> None:
        """Do this machine's part of an evaluation that the leader asks for."""
        self._compute(unpacked_request(head, arrays))

    def _compute(self, request: PredictRequest) -> Sequence[Denoised]:
        """The estimates of all passes, with what the other machines give."""
        part = self._part
        if not part.shares_passes:
            assert self._passes is not None
            return self._passes(request)
        shapes = _shapes(request)
        of_pass = sum(map(prod, shapes))
        pieces = part.pieces(request.passes, of_pass)
        # Every machine of a group has the estimates of its passes, and gives a part of them.
        given = np.zeros(max(pieces), np.float32)
        own = part.own(request.passes)
        if own:
            assert self._passes is not None
            pairs = self._passes(replace(request, passes=own))
            values = np.concatenate([one.ravel() for pair in pairs for one in pair if one is not None])
            length = pieces[part.groups.index(part.group)]
            piece = values[part.place * length : (part.place + 1) * length]
            given[: len(piece)] = piece
        everything = to_numpy(self._team.gather(mx.array(given), "estimates"))
        found: dict[int, Denoised] = {}
        for numbers, members, length in zip(part.dealt(request.passes), part.groups, pieces, strict=True):
            values = everything[list(members), :length].ravel()
            for place, number in enumerate(numbers):
                found[number] = _cut(values[place * of_pass : (place + 1) * of_pass], request, shapes)
        return [found[number] for number in range(len(request.passes))]


def tell_alone(error: MachineLost) -> None:
    """Say that the leader has only itself from now on."""
    log.warning("%s; this machine goes on alone", error)


def _shapes(request: PredictRequest) -> list[tuple[int, ...]]:
    """Of the estimates that a pass gives: those of the streams that run."""
    streams = ((request.video, request.run_video), (request.audio, request.run_audio))
    return [state.latent.shape for state, runs in streams if state is not None and runs]


def _cut(row: Float32Array, request: PredictRequest, shapes: Sequence[tuple[int, ...]]) -> Denoised:
    """The estimates of a pass out of what its machine sent."""
    ends = np.cumsum([prod(shape) for shape in shapes])[:-1]
    values = iter([part.reshape(shape) for part, shape in zip(np.split(row, ends), shapes, strict=True)])
    video = next(values) if request.video is not None and request.run_video else None
    audio = next(values) if request.audio is not None and request.run_audio else None
    return video, audio
