"""Steps with some blocks in memory beside steps with none, part by part."""

from __future__ import annotations

from collections import Counter

import pytest

from ltx2rt.bench.case import OURS, STREAMED
from ltx2rt.bench.residency_case import LAYERS, ResidencyCase
from ltx2rt.weights.block_stream import BlockStream, Loaded


def test_ways_that_take_turns_read_what_is_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    read: Counter[int] = Counter()
    plain = BlockStream.__call__

    def counting(stream: BlockStream, index: int) -> dict[str, Loaded]:
        read[id(stream)] += 1
        return plain(stream, index)

    monkeypatch.setattr(BlockStream, "__call__", counting)
    case = ResidencyCase(tokens=1024, resident=3, drops_pages=False).reduced()
    prepared = case.prepare(())
    assert prepared.together is not None
    for rounds in (1, 2):
        seconds = prepared.together()
        assert seconds.keys() == {OURS, STREAMED}
        assert all(value > 0 for value in seconds.values())
        assert sorted(read.values()) == [rounds * (LAYERS - 3), rounds * LAYERS]
    prepared.clean()


def test_ways_take_turns_only_where_none_waits_for_its_blocks() -> None:
    streamed = ResidencyCase(1024, 0, drops_pages=False).reduced().prepare(())
    from_disk = ResidencyCase(32, 2, drops_pages=True).reduced().prepare(())
    assert streamed.together is None  # there is nothing to compare it with
    assert from_disk.together is None
    assert all(way.follows_itself for way in from_disk.ways.values())
    assert not any(way.follows_itself for way in streamed.ways.values())
    for prepared in (streamed, from_disk):
        prepared.clean()
