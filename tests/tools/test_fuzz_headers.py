"""The harness that feeds damaged headers to the readers: a part of its mutants, and that it notices what it is for."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import pytest

from ltx2rt.weights.weight_file import open_weight_file

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
from header_fuzzing import running
from header_fuzzing.corpus import corpus, whole_models
from header_fuzzing.file_model import WRITERS
from header_fuzzing.mutation import Mutator
from header_fuzzing.reached_lines import READERS, lines_of


@pytest.mark.filterwarnings("ignore:overflow encountered", "ignore:invalid value encountered")
def test_mutants_are_read_or_refused() -> None:
    tally = running.run(seed=1, first=0, stop=200, traced=False, keep=None)
    assert tally.failures == {}
    assert tally.parsed >= 200 // 3
    assert tally.kinds["refused: CheckpointError"] >= 50
    assert tally.kinds["inspected"] >= 20
    assert tally.kinds["tensor loaded"] >= 20


def test_the_whole_corpus_is_readable(tmp_path: Path) -> None:
    """Files that nobody changed: what is refused of them is refused on purpose."""
    for index, model in enumerate(corpus()):
        path = tmp_path / f"{index}.bin"
        path.write_bytes(b"".join(WRITERS[model.container](model, {})))
        assert open_weight_file(path).tensors.keys() == {tensor.name for tensor in model.tensors}


def test_a_mutant_can_be_made_again() -> None:
    small, whole = corpus(), list(whole_models())
    first, second = (Mutator(random.Random("0/17")).mutant(small, whole) for _ in range(2))
    assert first == second
    assert first != Mutator(random.Random("0/18")).mutant(small, whole)


@pytest.mark.parametrize("crash", [ValueError("a crash"), MemoryError(), RecursionError()])
def test_anything_else_than_our_errors_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, crash: Exception
) -> None:
    def read(path: Path) -> Any:
        raise crash

    monkeypatch.setattr(running, "read", read)
    tally = running.run(seed=0, first=0, stop=2, traced=False, keep=tmp_path)
    assert tally.kinds["FAILED"] == 2
    assert [name.partition(" ")[0] for name in tally.failures] == [type(crash).__name__]
    assert [path.name for path in tmp_path.iterdir()] == ["0-0.bin"]


def test_a_reader_that_does_not_end_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(path: Path) -> Any:
        while True:
            pass

    monkeypatch.setattr(running, "read", read)
    monkeypatch.setattr(running, "_SECONDS", 0.1)
    tally = running.run(seed=0, first=0, stop=1, traced=False, keep=None)
    assert next(iter(tally.failures)).startswith("TimeoutError")


def test_reached_lines_are_counted() -> None:
    tally = running.run(seed=0, first=0, stop=6, traced=True, keep=None)
    name = str(READERS / "weight_file.py")
    assert tally.lines[name] & lines_of(Path(name))
