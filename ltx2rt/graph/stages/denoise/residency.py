"""Which blocks of the transformer stay in memory and which are read from disk in every step, by what fits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ltx2rt.graph.models.layers.params import Params
from ltx2rt.types import Activations
from ltx2rt.weights.block_stream import BlockStream, slots_bytes
from ltx2rt.weights.checkpoint import LoadedBytes

# Blocks whose sizes differ by less count as equal: any of them may be streamed.
_ALIKE = 1.25


@dataclass(frozen=True)
class Residency:
    """Some blocks in memory, the others streamed.

    Attributes:
        depth: slots that streamed blocks go through; 0: all blocks are resident.
        streamed: the blocks that are read from disk, in order.
        resident_bytes: of the blocks that stay.
        slot_bytes: of the slots, and of what is made of a block beside its slot.
        read_bytes: read from disk each time all blocks are gone through.
    """

    depth: int
    streamed: tuple[int, ...]
    resident_bytes: int
    slot_bytes: int
    read_bytes: int

    @property
    def held_bytes(self) -> int:
        return self.resident_bytes + self.slot_bytes

    def said(self, count: int) -> str:
        """For people; ``count``: how many blocks there are."""
        if not self.depth:
            return "resident"
        ahead = "read ahead" if self.depth > 1 else "not read ahead"
        if len(self.streamed) == count:
            return f"streamed, {ahead}"
        return f"{count - len(self.streamed)} of {count} resident, the others streamed, {ahead}"


def partly_streamed(
    resident: Params, streamed: Sequence[int], stream: BlockStream, activations: Activations
) -> Callable[[int], Params]:
    """Where the tensors of each block come from.

    Args:
        resident: holds the blocks that stay.
        streamed: those that do not, in order.
        stream: of these.
        activations: how 8-bit weights of streamed blocks are multiplied.
    """
    places = {index: place for place, index in enumerate(streamed)}

    def blocks(index: int) -> Params:
        if index in places:
            return Params(stream(places[index]), activations=activations).at(f"transformer_blocks.{index}")
        stream.release()  # so that its slot is filled again while this block computes
        return resident.at(f"transformer_blocks.{index}")

    return blocks


def residencies(blocks: Sequence[LoadedBytes], depth: int) -> list[Residency]:
    """All resident, then as many as may be, to all streamed: what is read rises and what is held falls.

    Blocks that are streamed lie as far from each other as they can, so that each is read while those between compute.
    The largest ones stay, as a slot must hold the largest that is streamed.

    Args:
        blocks: what each takes.
        depth: slots.
    """
    found = [Residency(0, (), sum(block.arrays for block in blocks), 0, 0)]
    ways = [_with_streamed(blocks, spread(blocks, count), depth) for count in range(1, len(blocks) + 1)]
    for way in sorted(ways, key=lambda way: (way.read_bytes, way.held_bytes)):
        if way.held_bytes < found[-1].held_bytes:
            found.append(way)
    return found


def spread(blocks: Sequence[LoadedBytes], count: int) -> tuple[int, ...]:
    """``count`` of the smaller blocks, evenly spread."""
    limit = _ALIKE * sorted(block.stored for block in blocks)[count - 1]
    able = [index for index, block in enumerate(blocks) if block.stored <= limit]
    return tuple(able[(2 * number + 1) * len(able) // (2 * count)] for number in range(count))


def _with_streamed(blocks: Sequence[LoadedBytes], streamed: tuple[int, ...], depth: int) -> Residency:
    coming = [blocks[index] for index in streamed]
    return Residency(
        depth,
        streamed,
        sum(block.arrays for index, block in enumerate(blocks) if index not in streamed),
        slots_bytes([block.stored for block in coming], depth) + max(block.made for block in coming),
        sum(block.stored for block in coming),
    )
