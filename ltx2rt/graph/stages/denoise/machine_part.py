"""What of a denoising stage each of several machines computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Literal, NamedTuple

from ltx2rt.graph.diffusion.denoising import GuidancePass
from ltx2rt.graph.models.transformer.shared_passes import Shared, shared_passes
from ltx2rt.graph.models.transformer.token_share import token_counts
from ltx2rt.graph.stages.denoise.passes import Walk, perturbations_of


@dataclass(frozen=True)
class MachinePart:
    """One machine's part of a stage.

    Attributes:
        split: what is shared.
        rank: number of the machine.
        shares: how fast each machine is beside the others, by its number.
        blocks: of the transformer.
    """

    split: Literal["passes", "tokens"]
    rank: int
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
    def shares_tokens(self) -> bool:
        """Whether it works on some of the video's tokens."""
        return self.split == "tokens"

    def dealt(self, passes: Sequence[GuidancePass]) -> tuple[tuple[int, ...], ...]:
        """The passes of an evaluation that each machine computes, by number, where they share these."""
        return pass_shares(tuple(passes), self.shares, self.blocks)

    def own(self, passes: Sequence[GuidancePass]) -> tuple[GuidancePass, ...]:
        """Those of the passes of an evaluation that the machine computes."""
        if self.shares_tokens:
            return tuple(passes)
        return tuple(passes[number] for number in self.dealt(passes)[self.rank])

    def counts(self, tokens: int) -> tuple[int, ...]:
        """How many of some tokens of the video each machine works on, where they share these."""
        return token_counts(tokens, self.shares)


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
    """The passes that each machine computes, by number.

    The machine that takes longest is done as early as can be; passes that begin the same are computed together, as long
    as that costs no time.

    Args:
        passes: of an evaluation.
        speeds: of the machines.
        blocks: of the transformer.
    """
    machines = range(len(speeds))
    # Where there are more machines than passes, the slowest have none.
    working = sorted(sorted(machines, key=lambda machine: -speeds[machine])[: len(passes)])

    def shares(owners: Sequence[int]) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(number for number, owner in enumerate(owners) if owner == machine) for machine in machines)

    def cost(owners: Sequence[int]) -> tuple[float, int]:
        work = [_block_evaluations(tuple(passes[number] for number in own), blocks) for own in shares(owners)]
        return max(own / speed for own, speed in zip(work, speeds, strict=True)), sum(work)

    return shares(min(product(working, repeat=len(passes)), key=cost))


def _block_evaluations(passes: tuple[GuidancePass, ...], blocks: int) -> int:
    return sum(len(states) for states in states_of_blocks(passes, blocks)) if passes else 0
