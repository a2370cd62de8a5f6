"""What tools write from tables is what they would write now."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from ltx2rt import embedded
from ltx2rt.weights.safetensors import SafetensorsFile

ROOT = Path(__file__).parents[2]


def tool(name: str) -> ModuleType:
    path = ROOT.joinpath("tools", *name.split(".")).with_suffix(".py")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


make_call_arguments = tool("make_call_arguments")
make_docs = tool("make_docs")
recipe = tool("train_tiny.recipe")


def test_the_typed_arguments_of_a_call_are_those_of_the_settings() -> None:
    made = "\n".join(make_call_arguments.lines()) + "\n"
    path = ROOT / "ltx2rt" / "api" / "call_arguments.py"
    assert path.read_text() == made, "run: python tools/make_call_arguments.py > ltx2rt/api/call_arguments.py"


@pytest.mark.parametrize("path", make_docs.pages(), ids=lambda path: path.name)
def test_made_parts_of_pages_are_current(path: Path) -> None:
    text = path.read_text()
    assert text == make_docs.updated(text), "run: python tools/make_docs.py"


def test_every_part_is_on_one_page() -> None:
    found = [part for path in make_docs.pages() for part in make_docs.parts_of(path.read_text())]
    assert sorted(found) == sorted(make_docs.PARTS)


def test_an_old_part_is_noticed() -> None:
    text = "a\n<!-- made: command-retake -->\nold\n<!-- end -->\nb\n"
    assert make_docs.parts_of(text) == ["command-retake"]
    made = make_docs.updated(text)
    assert "old" not in made
    assert "--pipeline retake" in made
    assert make_docs.updated(made) == made


def test_embedded_files_are_of_the_recipe_as_it_is() -> None:
    paths = list(embedded.FOLDER.rglob("*.safetensors"))
    assert paths
    for path in paths:
        stated = SafetensorsFile(path).metadata["ltx2rt_recipe_sha256"]
        assert stated == recipe.recipe_hash(), f"{path.name}; run tools.train_tiny.export, at first with --restore"
