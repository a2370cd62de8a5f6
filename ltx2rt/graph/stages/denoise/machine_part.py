"""What of a denoising stage each of several machines computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Literal, NamedTuple

from ltx2rt.graph.diffusion.denoising import GuidancePass
from ltx2rt.graph.models.transformer.shared_passes import Shared, shared_passes
from ltx2rt.graph.stages.denoise.passes import Walk, perturbations_of


@dataclass(frozen=True)
class MachinePart:
    """One machine's part of a stage.

    Attributes:
        split: what is shared.
        rank: number of the machine.
        size: how many machines there are.
        blocks: of the transformer.
    """

    split: Literal["passes", "tokens"]
    rank: int
    size: int
    blocks: int

    @property
    def leads(self) -> bool:
        """Whether it can be asked to go on alone."""
        return self.rank == 0

    def own(self, passes: Sequence[GuidancePass]) -> tuple[GuidancePass, ...]:
        """Those of the passes of an evaluation that the machine computes."""
        if self.split == "tokens":
            return tuple(passes)
        return tuple(passes[number] for number in pass_shares(tuple(passes), self.size, self.blocks)[self.rank])


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
def pass_shares(passes: tuple[GuidancePass, ...], machines: int, blocks: int) -> tuple[tuple[int, ...], ...]:
    """The passes that each machine computes, by number.

    The machine with the most work has as little as can be; passes that begin the same are computed together, as long as
    that costs no time.
    """
    if len(passes) <= machines:
        return tuple((number,) if number < len(passes) else () for number in range(machines))

    def shares(owners: Sequence[int]) -> tuple[tuple[int, ...], ...]:
        return tuple(
            tuple(number for number, owner in enumerate(owners) if owner == machine) for machine in range(machines)
        )

    def cost(owners: Sequence[int]) -> tuple[int, int]:
        work = [_block_evaluations(tuple(passes[number] for number in own), blocks) for own in shares(owners)]
        return max(work), sum(work)

    # The first pass is the leader's; others with the same cost differ in the machines' numbers alone.
    ways = product(range(machines), repeat=len(passes) - 1)
    return shares(min(((0, *way) for way in ways), key=cost))


def _block_evaluations(passes: tuple[GuidancePass, ...], blocks: int) -> int:
    return sum(len(states) for states in states_of_blocks(passes, blocks)) if passes else 0
