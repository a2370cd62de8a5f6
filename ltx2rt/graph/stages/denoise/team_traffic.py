"""How many bytes machines that share a denoising stage send each other, from its plan alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from ltx2rt.graph.models.transformer.config import TransformerConfig
from ltx2rt.graph.models.transformer.modality import kept_samples
from ltx2rt.graph.models.transformer.shared_passes import Shared, in_batches
from ltx2rt.graph.models.transformer.token_share import received_tokens
from ltx2rt.graph.stages.denoise.machine_part import InStep, MachinePart, states_of_blocks
from ltx2rt.graph.stages.denoise.passes import in_walks, perturbations_of
from ltx2rt.graph.stages.denoise.task import DenoiseTask
from ltx2rt.types import FLOAT32_BYTES

# Of a request besides its arrays: passes, noise level and the forms of the arrays as JSON, and how long it is.
_HEAD_BYTES = 560
# Per token of a state: its mark of a key frame, and how other tokens see it (`AttentionLinks`).
_KEYFRAME_BYTES, _LINK_BYTES = 4, 9


@dataclass
class StageTraffic:
    """What one machine receives from the others.

    Attributes:
        received: bytes, by kind (`Team.traffic`).
        exchanges: operations of the group, by kind.
    """

    received: Counter[str] = field(default_factory=Counter)
    exchanges: Counter[str] = field(default_factory=Counter)

    @property
    def nbytes(self) -> int:
        return sum(self.received.values())

    @property
    def calls(self) -> int:
        return sum(self.exchanges.values())

    def add(self, kind: str, nbytes: int, exchanges: int = 1) -> None:
        self.received[kind] += nbytes
        self.exchanges[kind] += exchanges

    def times(self, count: int) -> StageTraffic:
        return StageTraffic(
            Counter({kind: count * nbytes for kind, nbytes in self.received.items()}),
            Counter({kind: count * calls for kind, calls in self.exchanges.items()}),
        )


def stage_traffic(config: TransformerConfig, task: DenoiseTask, in_step: InStep) -> StageTraffic:
    """Of all evaluations of a stage; what is told once as it begins, the prompts above all, is left out."""
    return evaluation_traffic(config, task, in_step).times(task.evaluations)


def evaluation_traffic(config: TransformerConfig, task: DenoiseTask, in_step: InStep) -> StageTraffic:
    """Of one evaluation with all its passes, and of all tiles.

    Args:
        config: the model.
        task: with the part of a machine.
        in_step: how the passes go through the blocks.
    """
    traffic = StageTraffic()
    for tokens in task.calls:
        _add_request(traffic, config, task, tokens)
        if task.shares_tokens:
            _add_keys(traffic, config, task, in_step, tokens)
        if _part(task).shares_passes:
            _add_estimates(traffic, config, task, tokens)
    return traffic


def _part(task: DenoiseTask) -> MachinePart:
    assert task.part is not None
    return task.part


def _add_request(traffic: StageTraffic, config: TransformerConfig, task: DenoiseTask, tokens: int) -> None:
    """The states that the leader gives."""

    def state(channels: int, axes: int) -> int:
        return FLOAT32_BYTES * (channels + 1 + 2 * axes)  # latent, mask, positions

    video, audio = config.video, config.audio
    nbytes = _HEAD_BYTES + task.audio * state(audio.in_channels, len(audio.max_positions))
    of_token = state(video.in_channels, len(video.max_positions)) + _KEYFRAME_BYTES + _LINK_BYTES * task.masked
    nbytes += tokens * of_token
    size = _part(task).size
    traffic.add("messages", 2 * nbytes * (size - 1) // size, 2)


def _add_estimates(traffic: StageTraffic, config: TransformerConfig, task: DenoiseTask, tokens: int) -> None:
    """What the machines computed of their passes."""
    values = tokens * config.video.in_channels + task.audio * config.audio.in_channels
    longest = max(_part(task).pieces(task.all_passes, values))
    traffic.add("estimates", (_part(task).size - 1) * longest * FLOAT32_BYTES)


def _add_keys(
    traffic: StageTraffic, config: TransformerConfig, task: DenoiseTask, in_step: InStep, tokens: int
) -> None:
    """Keys and values of every attention that reads the video, and its velocities."""
    received = received_tokens(_part(task).counts(tokens)) * task.dtype.size

    def add(kind: str, states: int, channels: int, exchanges: int) -> None:
        traffic.add(kind, exchanges * round(states * received * channels), exchanges)

    for numbers in in_walks(task.guidance, in_step.walk):
        passes = tuple(task.guidance[number] for number in numbers)
        left_out = [perturbations_of(own) for own in passes]
        batches: tuple[Shared, ...] = ()
        for block, shared in enumerate(states_of_blocks(passes, config.num_layers)):
            batches = in_batches(shared, in_step.batch, [0] * len(passes))
            for states in batches:
                of_states = [left_out[state[0]] for state in states]
                if kept_samples(of_states, "skip_video_self_attn", block, len(states)).any():
                    add("keys and values", len(states), config.video.width, 2)
                if task.audio and kept_samples(of_states, "skip_v2a_cross_attn", block, len(states)).any():
                    add("keys and values", len(states), config.audio.width, 2)
        for states in batches:
            add("estimates", len(states), config.video.out_channels, 1)
