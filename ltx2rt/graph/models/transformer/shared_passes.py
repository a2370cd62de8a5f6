"""Which passes of a guided step are the same up to which block, and so need be computed once."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import get_args

from ltx2rt.graph.models.transformer.modality import Perturbation, PerturbationKind

Shared = tuple[tuple[int, ...], ...]
"""The passes by number, those that have one hidden state between them together."""


def shared_passes(
    prompts: Sequence[Hashable], perturbations: Sequence[Sequence[Perturbation]], num_layers: int
) -> list[Shared]:
    """For each block, which passes one evaluation of it serves.

    Passes that read the same latents begin with the same hidden state. They share a block's evaluation as long as they
    have the same prompt and the blocks so far have left out the same for them; once apart, they stay apart.

    Args:
        prompts: of each pass; equal values mean the same prompt.
        perturbations: what each pass leaves out.
        num_layers: blocks.

    Returns:
        One partition of the passes per block, in the order of their first members.
    """
    states: list[Hashable] = list(prompts)
    found: list[Shared] = []
    for index in range(num_layers):
        histories = [(state, _left_out(own, index)) for state, own in zip(states, perturbations, strict=True)]
        numbers: dict[Hashable, int] = {}
        states = [numbers.setdefault(history, len(numbers)) for history in histories]
        found.append(
            tuple(tuple(i for i, state in enumerate(states) if state == number) for number in numbers.values())
        )
    return found


def _left_out(perturbations: Sequence[Perturbation], block: int) -> tuple[bool, ...]:
    kinds: tuple[PerturbationKind, ...] = get_args(PerturbationKind)
    return tuple(any(own.applies_to(kind, block) for own in perturbations) for kind in kinds)


def in_batches(shared: Shared, size: int, alike: Sequence[Hashable]) -> tuple[Shared, ...]:
    """The states of a block in the batches that go through it: neighbours, at most ``size`` together.

    Args:
        shared: of the block.
        size: most states of a batch.
        alike: per pass; only states whose passes have equal values go together.
    """
    batches: list[list[tuple[int, ...]]] = []
    for passes in shared:
        last = batches[-1] if batches else []
        if last and len(last) < size and alike[last[0][0]] == alike[passes[0]]:
            last.append(passes)
        else:
            batches.append([passes])
    return tuple(tuple(batch) for batch in batches)
