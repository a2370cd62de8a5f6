"""Ways of other libraries: found in a checkout, or one sentence says what is missing."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ltx2rt.bench import rivals, runner, table
from ltx2rt.bench.case import GGML, OURS, TORCH
from ltx2rt.cli.main import run
from ltx2rt.errors import UsageError

ROOT = Path(__file__).parents[2]
REDUCED = {case.reduced().name: case.reduced() for case in table.all_cases()}
IN_DIFFUSERS = ("transformer_block/f32", "video_decoder/f32", "vocoder/", "vocoder-2.3/")
# Of linear layers the bare product; torch converts E4M3 codes without their scale.
ALIKE = ("linear/f32", "linear/bf16", "text_layer-2.5/bf16", "diffusion_block/bf16")
WITH_GGML = tuple(f"linear/{form}/" for form in ("q8_0", "q4_k", "q5_k", "q6_k", "int8-rows", "int8-dot"))
WITHOUT_WAYS = (
    *("transformer_block-2.3", "transformer_block-2.5", "transformer_block/e4m3"),
    *("text_layer/int8", "text_layer-2.5/int8"),
    *("video_layer", "audio_decoder"),
)


@pytest.fixture
def torch_seems_installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    found = importlib.util.find_spec

    def find_spec(name: str, package: str | None = None) -> object:
        return object() if name == "torch" else found(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    yield
    sys.modules.pop("ltx2rt_torch_rivals", None)


def test_without_torch_one_sentence_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: None)
    assert run(["bench", "--compare", "torch", "--only", "modulated_norm"]) == 2
    message = capsys.readouterr().err
    assert "torch is not installed, so it cannot be compared; pip install 'ltx2rt[parity]'." in message


@pytest.mark.usefixtures("torch_seems_installed")
def test_outside_a_checkout_one_sentence_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no benchmarks/torch_rivals in .* in the root of a checkout"):
        rivals.load_rivals("torch", [tmp_path])


@pytest.mark.usefixtures("torch_seems_installed")
def test_the_first_checkout_that_has_rivals_is_taken(tmp_path: Path) -> None:
    folder = tmp_path / "second" / rivals.rivals_folder("torch")
    folder.mkdir(parents=True)
    (folder / "arrays.py").write_text("NAME = 'of the second'\n")
    (folder / "__init__.py").write_text("from .arrays import NAME\n")
    loaded = rivals.load_rivals("torch", [tmp_path / "first", tmp_path / "second"])
    assert loaded.NAME == "of the second"  # type: ignore[attr-defined]


@pytest.mark.parametrize("library", rivals.EXTRAS)
def test_the_checkout_offers_all_that_is_asked_for(library: str) -> None:
    """The module itself needs no library before it computes: its names are checked without one."""
    code = (
        "import importlib.util, json, sys; from ltx2rt.bench import rivals; "
        "found = importlib.util.find_spec; "
        f"importlib.util.find_spec = lambda name, package=None: name == {library!r} or found(name, package); "
        f"loaded = rivals.load_rivals({library!r}, [__import__('pathlib').Path({str(ROOT)!r})]); "
        "names = [n for n in vars(rivals.Rivals) if not n.startswith('_')]; "
        "missing = [n for n in names if not callable(getattr(loaded, n, None))]; "
        f"print(json.dumps([names, missing, {library!r} in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names, missing, has_library = json.loads(done.stdout)
    assert set(names) == {"ways", "product", "to_numpy", "set_threads"}
    assert missing == []
    assert has_library is False


def test_nothing_needs_other_libraries_or_pytest() -> None:
    code = (
        "import sys; banned = ('torch', 'ggml', 'diffusers', 'transformers', 'pytest'); "
        "sys.modules.update(dict.fromkeys(banned)); "  # importing one of them is an error now
        "import ltx2rt.api, ltx2rt.bench.table, ltx2rt.cli.main, ltx2rt.verify.runner"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parity
@pytest.mark.parametrize("name", [n for n in REDUCED if not n.startswith(WITHOUT_WAYS)])
def test_torch_computes_every_case_and_model_parts_alike(name: str) -> None:
    loaded = rivals.load_rivals("torch", [ROOT])
    prepared = REDUCED[name].prepare(())
    ways = loaded.ways(REDUCED[name], prepared.inputs, (TORCH, "torch_dense"))
    assert ways
    for way in ways.values():
        theirs = loaded.to_numpy(way.make(1.0)())
        if name.startswith(IN_DIFFUSERS):
            ours = runner.to_numpy(prepared.ways[OURS].make(1.0)())
            assert runner.relative_error(ours, theirs) < 1e-5
        elif name.startswith(ALIKE) and not name.endswith(("gelu/m24", "residual/m24")):
            ours = runner.to_numpy(prepared.ways[OURS].make(1.0)())
            assert runner.relative_error(ours, theirs) < 2e-2
        else:
            assert theirs.size > 0


@pytest.mark.parity
def test_cases_without_a_counterpart_have_no_way() -> None:
    loaded = rivals.load_rivals("torch", [ROOT])
    for name in (n for n in REDUCED if n.startswith(WITHOUT_WAYS)):
        assert loaded.ways(REDUCED[name], REDUCED[name].prepare(()).inputs, (TORCH,)) == {}


# Of the rows of x, ggml rounds blocks to 8 bits; rows of 8-bit integers are rounded again to blocks.
@pytest.mark.skipif(importlib.util.find_spec("ggml") is None, reason="needs ggml: pip install 'ltx2rt[ggml]'")
@pytest.mark.parametrize("name", [n for n in REDUCED if n.startswith(WITH_GGML)])
def test_ggml_computes_the_same_products(name: str) -> None:
    loaded = rivals.load_rivals("ggml", [ROOT])
    prepared = REDUCED[name].prepare(())
    ways = loaded.ways(REDUCED[name], prepared.inputs, (GGML,))
    theirs = loaded.to_numpy(ways[GGML].make(1.0)())
    assert runner.relative_error(runner.to_numpy(prepared.ways[OURS].make(1.0)()), theirs) < 3e-2


@pytest.mark.skipif(importlib.util.find_spec("ggml") is None, reason="needs ggml: pip install 'ltx2rt[ggml]'")
def test_other_cases_have_no_way_of_ggml() -> None:
    loaded = rivals.load_rivals("ggml", [ROOT])
    for name in (n for n in REDUCED if n.startswith(("linear/bf16", "linear/nvfp4", "modulated_norm"))):
        assert loaded.ways(REDUCED[name], REDUCED[name].prepare(()).inputs, (GGML,)) == {}
