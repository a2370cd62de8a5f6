"""What of a denoising stage each of several machines computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import NamedTuple

from ltx2rt.graph.diffusion.denoising import GuidancePass
from ltx2rt.graph.models.transformer.shared_passes import Shared, shared_passes
from ltx2rt.graph.models.transformer.token_share import token_counts
from ltx2rt.graph.stages.denoise.passes import Walk, perturbations_of
from ltx2rt.team.team import Groups


@dataclass(frozen=True)
class MachinePart:
    """One machine's part of a stage.

    Attributes:
        rank: number of the machine.
        groups: the machines. The groups share the passes of an evaluation, and the machines of a group the video's
            tokens in each pass of theirs.
        shares: how fast each machine is beside the others, by its number.
        blocks: of the transformer.
    """

    rank: int
    groups: Groups
    shares: tuple[float, ...]
    blocks: int

    @property
    def size(self) -> int:
        """How many machines there are."""
        return len(self.shares)

    @property
    def leads(self) -> bool:
        """Whether it can be asked to go on alone."""
        return self.rank == 0

    @property
    def group(self) -> tuple[int, ...]:
        """The machines of its group."""
        return next(members for members in self.groups if self.rank in members)

    @property
    def place(self) -> int:
        """Its number in its group."""
        return self.group.index(self.rank)

    @property
    def shares_passes(self) -> bool:
        """Whether others compute some of the passes."""
        return len(self.groups) > 1

    @property
    def shares_tokens(self) -> bool:
        """Whether it works on some of the video's tokens."""
        return len(self.group) > 1

    def dealt(self, passes: Sequence[GuidancePass]) -> tuple[tuple[int, ...], ...]:
        """The passes of an evaluation that each group computes, by number."""
        speeds = tuple(sum(self.shares[member] for member in members) for members in self.groups)
        return pass_shares(tuple(passes), speeds, self.blocks)

    def own(self, passes: Sequence[GuidancePass]) -> tuple[GuidancePass, ...]:
        """Those of the passes of an evaluation that its group computes."""
        return tuple(passes[number] for number in self.dealt(passes)[self.groups.index(self.group)])

    def counts(self, tokens: int) -> tuple[int, ...]:
        """How many of some tokens of the video each machine of its group works on."""
        return token_counts(tokens, [self.shares[member] for member in self.group])

    def pieces(self, passes: Sequence[GuidancePass], values: int) -> tuple[int, ...]:
        """How many values each machine of a group gives of the estimates of its passes, by group.

        Args:
            passes: of an evaluation.
            values: of the estimates of a pass.
        """
        return tuple(
            -(-len(numbers) * values // len(members))
            for numbers, members in zip(self.dealt(passes), self.groups, strict=True)
        )


class InStep(NamedTuple):
    """What machines that share the tokens of a pass must have in common, as they gather after each projection: which
    passes go through the blocks side by side, and how many states in a batch."""

    walk: Walk
    batch: int


@cache
def states_of_blocks(passes: tuple[GuidancePass, ...], blocks: int) -> list[Shared]:
    """For each block, the passes that one evaluation of it serves (`shared_passes`)."""
    prompts = [own.negative_prompt for own in passes]
    return shared_passes(prompts, [perturbations_of(own) for own in passes], blocks)


@cache
def pass_shares(
    passes: tuple[GuidancePass, ...], speeds: tuple[float, ...], blocks: int
) -> tuple[tuple[int, ...], ...]:
    """The passes that each machine, or group of machines, computes, by number.

    The one that takes longest is done as early as can be; passes that begin the same are computed together, and others
    apart, as long as that costs no time.

    Args:
        passes: of an evaluation.
        speeds: of the machines or groups.
        blocks: of the transformer.
    """
    machines = range(len(speeds))
    # Where there are more machines than passes, the slowest have none.
    working = sorted(sorted(machines, key=lambda machine: -speeds[machine])[: len(passes)])

    def shares(owners: Sequence[int]) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(number for number, owner in enumerate(owners) if owner == machine) for machine in machines)

    def cost(owners: Sequence[int]) -> tuple[float, int, int]:
        work = [_block_evaluations(tuple(passes[number] for number in own), blocks) for own in shares(owners)]
        seconds = max(own / speed for own, speed in zip(work, speeds, strict=True))
        return seconds, sum(work), max(map(owners.count, owners))

    return shares(min(product(working, repeat=len(passes)), key=cost))


def _block_evaluations(passes: tuple[GuidancePass, ...], blocks: int) -> int:
    return sum(len(states) for states in states_of_blocks(passes, blocks)) if passes else 0
