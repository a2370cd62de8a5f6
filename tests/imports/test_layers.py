"""Imports point down only: the table below is the truth about which layer may use which."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "ltx2rt"

LAYERS = {"kernels", "types", "errors"}
COMMON = {"graph.models.layers"} | LAYERS
VIDEO = {"graph.models.video_vae"} | COMMON
MODELS = {"graph.models"} | LAYERS
RUN = {
    "graph.models",
    "graph.components",
    "graph.protocols",
    "graph.diffusion",
    "graph.settings",
    "graph.tile_splits",
    "weights",
    "memory",
    "spelling",
    "paths",
    "team",
} | LAYERS
RUN_FILES = {
    "advice",
    "clip_team",
    "run",
    "inputs",
    "events",
    "finite",
    "fitting_loras",
    "handover",
    "journal",
    "keeping",
    "weight_set",
    "streamed_blocks",
    "targets",
    "windows",
}
STAGE = {f"graph.stages.{name}" for name in RUN_FILES} | RUN
PIPELINES = {"graph.stages"} | RUN
API = {"graph.pipelines", "media"} | PIPELINES
BELOW = {
    "kernels": {"_abi", "types", "errors", "refusals", "atomic_file", "__version__"},
    "media": {"types", "errors", "atomic_file"},
    "weights": {"kernels", "types", "errors", "atomic_file", "spelling", "paths"},
    "hub": {"memory.limits", "errors"},
    "team": {"spelling"} | LAYERS,
    "hosts": {"team.environment", "errors", "paths"},
    "memory": {"kernels", "types", "errors", "refusals"},
    "graph.models.layers": LAYERS,
    "graph.models.transformer": COMMON,
    "graph.models.text": COMMON,
    "graph.models.video_vae": COMMON | {"graph.tile_splits"},
    "graph.models.audio": COMMON,
    "graph.models.upscaler": VIDEO,
    "graph.models.preview_decoder": COMMON,
    "graph.preview_decoder_file": {"graph.models", "weights", "paths"} | LAYERS,
    "graph.components": {"graph.models", "graph.protocols", "weights"} | LAYERS,
    "graph.protocols": MODELS,
    "graph.diffusion": {"graph.tile_splits", "types", "errors", "spelling"},
    "graph.tile_splits": {"types", "errors"},
    "graph.settings": {
        "graph.models.video_vae",
        "graph.models.text",
        "graph.diffusion",
        "media",
        "hub",
        "weights",
        "spelling",
        "paths",
    }
    | LAYERS,
    **{f"graph.stages.{name}": STAGE for name in sorted(RUN_FILES)},
    "graph.stages.media_inputs": STAGE | {"media"},
    "graph.stages.edited_clips": STAGE | {"graph.stages.media_inputs", "media"},
    "graph.stages.hdr_inputs": STAGE | {"media"},
    "graph.stages.kept_media": STAGE | {"graph.stages.decode", "media"},
    "graph.stages.enlarged_keyframes": STAGE | {"graph.stages.decode", "graph.stages.encode", "media"},
    "graph.stages.windows": STAGE | {"graph.stages.decode"},
    "graph.stages.team_facts": STAGE | {"__version__"},
    "graph.stages.text": STAGE,
    "graph.stages.encode": STAGE | {"media.pixel_range"},
    "graph.stages.denoise": STAGE,
    "graph.stages.decode": STAGE,
    "graph.pipelines": PIPELINES,
    "api": API | {"embedded", "inspection", "graph.preview_decoder_file"},
    "inspection": API | {"hub", "graph.preview_decoder_file"},
    "set_inspection": API | {"inspection"},
    "convert": {"graph.components", "weights", "memory", "kernels", "types", "errors", "atomic_file", "paths", "hub"},
    "embedded": set(),
    "verify": API | {"refusals", "inspection"},
    "bench": {"graph.stages", "graph.components", "graph.diffusion", "weights", "memory"} | MODELS,
    "serve": API | {"api", "embedded", "atomic_file", "graph.preview_decoder_file", "__version__"},
    "cli": API
    | {"serve", "hosts"}
    | {"api", "verify", "bench", "hub", "inspection", "set_inspection", "convert", "atomic_file", "embedded"}
    | {"__version__", "_ext"},
    "types": set(),
    "atomic_file": set(),
    "errors": set(),
    "spelling": set(),
    "paths": {"types"},
    "refusals": set(),
}
# Packages without code of their own.
ROOMS = {"graph", "graph.models", "graph.stages"}


def modules(layer: str) -> list[Path]:
    path = ROOT / layer.replace(".", "/")
    return sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]


@cache
def import_statements(path: Path) -> list[ast.Import | ast.ImportFrom]:
    """Wherever in the file they are."""
    nodes = ast.walk(ast.parse(path.read_text()))
    return [node for node in nodes if isinstance(node, (ast.Import, ast.ImportFrom))]


def our_imports(path: Path) -> Iterator[str]:
    for node in import_statements(path):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} uses a relative import"
            names = [f"ltx2rt.{a.name}" for a in node.names] if node.module == "ltx2rt" else [node.module or ""]
        else:
            names = [alias.name for alias in node.names]
        yield from (name.removeprefix("ltx2rt.") for name in names if name.startswith("ltx2rt."))


@pytest.mark.parametrize("layer", sorted(BELOW))
def test_layer_imports_only_what_lies_below(layer: str) -> None:
    allowed = BELOW[layer] | {layer}
    paths = modules(layer)
    assert paths
    for path in paths:
        for name in our_imports(path):
            assert any(name == a or name.startswith(a + ".") for a in allowed), f"{path.name} imports ltx2rt.{name}"


def test_every_module_belongs_to_a_layer() -> None:
    covered = {path for layer in BELOW for path in modules(layer)}
    free = {ROOT / "__init__.py", ROOT / "_abi.py"} | {ROOT / room.replace(".", "/") / "__init__.py" for room in ROOMS}
    assert set(ROOT.rglob("*.py")) - covered - free == set()


def test_names_that_hide_things_are_absent() -> None:
    hidden = {"utils.py", "helpers.py", "common.py", "misc.py"}
    assert [path for path in ROOT.rglob("*.py") if path.name in hidden] == []


def imported_packages(path: Path) -> set[str]:
    """The first names of everything that a file imports, wherever in it."""
    names: set[str] = set()
    for node in import_statements(path):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        else:
            names.add(node.module or "")
    return {name.partition(".")[0] for name in names}


def test_imports_inside_functions_are_seen(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text("# mlx\nimport os.path\ndef f():\n    from mlx.core import array\n    import numpy as np\n")
    assert imported_packages(path) == {"os", "mlx", "numpy"}


def test_the_core_does_without_the_packages_of_the_server() -> None:
    theirs = {"starlette", "uvicorn", "multipart", "python_multipart"}
    importing = {path for path in ROOT.rglob("*.py") if imported_packages(path) & theirs}
    assert importing
    assert all(path.is_relative_to(ROOT / "serve") for path in importing)
    # Nothing imports that folder but the command, and that only when it runs.
    users = {p for p in ROOT.rglob("*.py") if any(name.startswith("serve") for name in our_imports(p))}
    assert {path for path in users if not path.is_relative_to(ROOT / "serve")} == {ROOT / "cli" / "serve.py"}
    early = [
        node for node in ast.parse((ROOT / "cli" / "serve.py").read_text()).body if isinstance(node, ast.ImportFrom)
    ]
    assert [node.module for node in early if (node.module or "").startswith("ltx2rt.serve")] == []


@pytest.mark.parametrize("layer", ["graph.diffusion", "media"])
def test_diffusion_and_media_do_without_mlx(layer: str) -> None:
    paths = modules(layer)
    assert paths
    assert [path for path in paths if "mlx" in imported_packages(path)] == []
