"""The harness that feeds damaged headers to the readers: a part of its mutants, and that it notices what it is for."""

from __future__ import annotations

import importlib.util
import random
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "fuzz_headers.py"


@pytest.fixture(scope="module")
def fuzz() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fuzz_headers", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fuzz_headers"] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


@pytest.mark.filterwarnings("ignore:overflow encountered", "ignore:invalid value encountered")
def test_mutants_are_read_or_refused(fuzz: ModuleType) -> None:
    tally = fuzz.run(seed=1, first=0, stop=200, traced=False, keep=None)
    assert tally.failures == {}
    assert tally.parsed >= 200 // 3
    assert tally.kinds["refused: CheckpointError"] >= 50
    assert tally.kinds["inspected"] >= 20
    assert tally.kinds["tensor loaded"] >= 20


def test_the_whole_corpus_is_readable(fuzz: ModuleType, tmp_path: Path) -> None:
    """Files that nobody changed: what is refused of them is refused on purpose."""
    for index, model in enumerate(fuzz.corpus()):
        write = fuzz.write_gguf if model.container == "gguf" else fuzz.write_safetensors
        path = tmp_path / f"{index}.bin"
        path.write_bytes(b"".join(write(model, {})))
        assert fuzz.open_weight_file(path).tensors.keys() == {tensor.name for tensor in model.tensors}


def test_a_mutant_can_be_made_again(fuzz: ModuleType) -> None:
    small, whole = fuzz.corpus(), list(fuzz.whole_models())
    first, second = (fuzz.Mutator(random.Random("0/17")).mutant(small, whole) for _ in range(2))
    assert first == second
    assert first != fuzz.Mutator(random.Random("0/18")).mutant(small, whole)


@pytest.mark.parametrize("crash", [ValueError("a crash"), MemoryError(), RecursionError()])
def test_anything_else_than_our_errors_is_a_failure(
    fuzz: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, crash: Exception
) -> None:
    def read(path: Path) -> Any:
        raise crash

    monkeypatch.setattr(fuzz, "read", read)
    tally = fuzz.run(seed=0, first=0, stop=2, traced=False, keep=tmp_path)
    assert tally.kinds["FAILED"] == 2
    assert [name.partition(" ")[0] for name in tally.failures] == [type(crash).__name__]
    assert [path.name for path in tmp_path.iterdir()] == ["0-0.bin"]


def test_a_reader_that_does_not_end_is_a_failure(fuzz: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(path: Path) -> Any:
        while True:
            pass

    monkeypatch.setattr(fuzz, "read", read)
    monkeypatch.setattr(fuzz, "_SECONDS", 1)
    tally = fuzz.run(seed=0, first=0, stop=1, traced=False, keep=None)
    assert next(iter(tally.failures)).startswith("TimeoutError")


def test_reached_lines_are_counted(fuzz: ModuleType) -> None:
    tally = fuzz.run(seed=0, first=0, stop=6, traced=True, keep=None)
    name = str(fuzz.READERS / "weight_file.py")
    assert tally.lines[name] & fuzz.lines_of(Path(name))
