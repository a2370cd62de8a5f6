"""References to the hub where paths of weights are taken, and files that are not there yet."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from local_hub import NAME, LocalHub

import ltx2rt
from ltx2rt import embedded
from ltx2rt.cli.main import run
from ltx2rt.errors import CheckpointError
from ltx2rt.graph.settings.setting import stored_values
from ltx2rt.graph.settings.weight_files import WeightFiles
from ltx2rt.hub import cache as cache_module
from ltx2rt.hub.cache import HubCache
from ltx2rt.hub.client import Hub
from ltx2rt.hub.download import fetch, survey, wanted_reference
from ltx2rt.hub.known_sets import SETS
from ltx2rt.hub.reference import HubReference
from ltx2rt.hub.weight_path import resolve_weight_path


class Silent:
    def begin(self, name: str) -> None: ...
    def advance(self, count: int) -> None: ...


@pytest.fixture
def own_cache(cache: HubCache, monkeypatch: pytest.MonkeyPatch) -> HubCache:
    """The cache of the test is the hub's own."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache.folder))
    return cache


@pytest.mark.parametrize(
    ("text", "repository", "revision", "file"),
    [
        ("Lightricks/LTX-2.3", "Lightricks/LTX-2.3", "main", ""),
        ("org/a.b_c-1:dir/x.safetensors", "org/a.b_c-1", "main", "dir/x.safetensors"),
        ("org/name@v1.0:x", "org/name", "v1.0", "x"),
        ("org/name@refs/pr/3", "org/name", "refs/pr/3", ""),
    ],
)
def test_references(text: str, repository: str, revision: str, file: str) -> None:
    reference = HubReference.parse(text)
    assert reference == HubReference(repository, file, revision)
    assert str(reference) == text


@pytest.mark.parametrize(
    "text",
    [
        "name",
        "/org/name",
        "./org/name",
        "../org/name",
        "~/models/x",
        "a/b/c",
        "org/x.safetensors",
        "weights/model.GGUF",
        "org/name:",
        "org/name@:x",
        "org/name:/etc/passwd",
        "org/name:../../x",
        "org/na me",
        "org/name:a:b",
        "https://huggingface.co/org/name",
        "",
    ],
)
def test_everything_else_is_a_path(text: str, cache: HubCache) -> None:
    assert HubReference.parse(text) is None
    assert resolve_weight_path(text, cache) == Path(text)


def test_a_reference_is_what_the_cache_has_of_it(server: LocalHub, hub: Hub, cache: HubCache) -> None:
    paths = fetch(hub, survey(hub, wanted_reference(HubReference(NAME))), Silent())
    commit = server.repositories[NAME].commit
    asked = len(server.requests)
    for text in (f"{NAME}:model.safetensors", f"{NAME}@{commit}:model.safetensors"):
        path = resolve_weight_path(text, cache)
        assert path.name == "model.safetensors"  # and not the name of the blob: names tell the variant
        assert path in paths
    assert resolve_weight_path(Path(NAME), cache) == paths[0].parent
    assert len(server.requests) == asked


def test_an_existing_path_comes_first(
    hub: Hub, cache: HubCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch(hub, survey(hub, wanted_reference(HubReference(NAME))), Silent())
    monkeypatch.chdir(tmp_path)
    assert resolve_weight_path(NAME, cache) != Path(NAME)
    (tmp_path / NAME).mkdir(parents=True)
    assert resolve_weight_path(NAME, cache) == Path(NAME)


@pytest.mark.parametrize("text", ["org/none", "org/none:a.safetensors", "org/none@v2:a.safetensors"])
def test_what_is_not_here_says_which_command_gets_it(text: str, cache: HubCache) -> None:
    with pytest.raises(CheckpointError) as caught:
        resolve_weight_path(text, cache)
    assert str(caught.value).startswith(f"{text} is neither a path nor in the hub's cache")
    assert str(caught.value).endswith(f"get it with: ltx2rt download {text}")


@pytest.mark.parametrize(
    ("name", "reference", "command"),
    [
        (
            "ltx-2-19b-distilled-fp8.safetensors",
            "Lightricks/LTX-2:ltx-2-19b-distilled-fp8.safetensors",
            "ltx2rt download ltx-2-19b-distilled --format fp8",
        ),
        (
            "ltx-2.5-22b-dev-transformer-bf16.safetensors",
            "Lightricks/LTX-2.5:diffusion_models/ltx-2.5-22b-dev-transformer-bf16.safetensors",
            "ltx2rt download ltx-2.5-dev --format bf16",
        ),
        (
            "ltx-2-19b-ic-lora-canny-control.safetensors",
            "Lightricks/LTX-2-19b-IC-LoRA-Canny-Control:ltx-2-19b-ic-lora-canny-control.safetensors",
            None,
        ),
        ("gemma-3-12b-it-qat-q4_0-unquantized", "google/gemma-3-12b-it-qat-q4_0-unquantized", None),
    ],
)
def test_a_published_file_that_is_not_there(
    name: str, reference: str, command: str | None, cache: HubCache, tmp_path: Path
) -> None:
    path = tmp_path / "models" / name
    with pytest.raises(CheckpointError) as caught:
        resolve_weight_path(path, cache)
    text = str(caught.value)
    assert text.startswith(f"{path}: there is no such path. It is published as {reference} on the Hugging Face hub")
    assert f"ltx2rt download {reference}" in text
    assert ("with all that goes with it" in text) == (command is not None)
    assert command is None or command in text
    gated = "LTX-2.5" in reference or "google/" in reference
    assert ("accept its licence at https://huggingface.co/" in text) == gated
    path.parent.mkdir()
    path.write_bytes(b"")
    assert resolve_weight_path(path, cache) == path


def test_a_published_file_that_the_cache_has(cache: HubCache) -> None:
    part = SETS[0].parts[0]
    folder = cache.repository(part.repository.name)
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("a" * 40)
    (folder / "snapshots" / ("a" * 40)).mkdir(parents=True)
    (folder / "snapshots" / ("a" * 40) / part.files[0]).write_bytes(b"x")
    with pytest.raises(CheckpointError, match=f"the hub's cache has it: give {part.reference} in its place"):
        resolve_weight_path(f"models/{part.files[0]}", cache)


def serve_embedded(server: LocalHub) -> None:
    server.repositories[NAME].files = {
        "tiny-distilled.safetensors": embedded.CHECKPOINT.read_bytes(),
        "lora.safetensors": embedded.DISTILLED_LORA.read_bytes(),
    } | {f"text/{path.name}": path.read_bytes() for path in embedded.TEXT_ENCODER.iterdir()}


def test_settings_inspect_and_plan_take_references(
    server: LocalHub, own_cache: HubCache, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    serve_embedded(server)
    fetch(hub, survey(hub, wanted_reference(HubReference(NAME))), Silent())
    checkpoint = f"{NAME}:tiny-distilled.safetensors"
    given = WeightFiles(
        **stored_values(
            WeightFiles,
            {
                "checkpoint": checkpoint,
                "text_encoder": f"{NAME}:text",
                "loras": [(f"{NAME}:lora.safetensors", 0.5)],
                "distilled_lora": Path(f"{NAME}:lora.safetensors"),
            },
        )
    )
    for path in (
        given.checkpoint,
        given.text_encoder,
        given.loras[0][0],
        given.distilled_lora and given.distilled_lora[0],
    ):
        assert path is not None
        assert path.exists()
    assert ltx2rt.load(checkpoint=checkpoint, text_encoder=f"{NAME}:text").name == "distilled"
    assert run(["inspect", checkpoint]) == 0
    assert "variant     distilled" in capsys.readouterr().out
    assert run(["plan", "--checkpoint-path", checkpoint, "--gemma-root", f"{NAME}:text"]) == 0
    assert run(["inspect", "org/none"]) == 1
    assert "ltx2rt download org/none" in capsys.readouterr().err
    assert run(["plan", "--checkpoint-path", "org/none:x.safetensors"]) == 1
    assert run(["plan", "--lora", "org/none:x.safetensors", "0.5"]) == 1
    assert run(["encode", "a", "--checkpoint-path", "ltx-2-19b-dev.safetensors"]) == 1
    assert "published as Lightricks/LTX-2:ltx-2-19b-dev.safetensors" in capsys.readouterr().err
    with pytest.raises(CheckpointError, match="ltx2rt download org/none"):
        ltx2rt.load(checkpoint="org/none")


def test_a_path_that_is_no_reference_needs_no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refused(*_: object) -> None:
        raise AssertionError("the cache was asked")

    monkeypatch.setattr(cache_module.HubCache, "__init__", refused)
    for name in ("a.safetensors", "folder"):
        assert resolve_weight_path(tmp_path / name) == tmp_path / name


def test_importing_and_running_without_the_hub_does_not_import_it(tmp_path: Path) -> None:
    code = (
        "import sys, ltx2rt, ltx2rt.api, ltx2rt.cli.main as main\n"
        f"assert main.run(['inspect', {str(embedded.CHECKPOINT)!r}]) == 0\n"
        "assert main.run(['download', '--list']) == 0\n"
        "assert main.run(['plan', '--height', '64', '--width', '64']) == 0\n"
        "found = [name for name in sys.modules if name.partition('.')[0] in ('huggingface_hub', 'httpx', 'httpx2')]\n"
        "assert not found, found\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
