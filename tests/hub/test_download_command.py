"""`ltx2rt download` as a user runs it, against a hub on this machine."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from huggingface_hub import constants
from local_hub import NAME, LocalHub, Repository, content

from ltx2rt import embedded
from ltx2rt.cli import transfer_progress
from ltx2rt.cli.download import next_command
from ltx2rt.cli.flags import spelling
from ltx2rt.cli.main import build_parser, run
from ltx2rt.graph.pipelines import pipeline_for_files
from ltx2rt.hub import download
from ltx2rt.hub.cache import HubCache
from ltx2rt.hub.download import wanted_parts
from ltx2rt.hub.known_set import KnownSet
from ltx2rt.hub.known_sets import OTHERS, SETS
from ltx2rt.hub.reference import HubReference
from ltx2rt.spelling import spelled_as

GEMMA = "google/gemma-3-12b-it-qat-q4_0-unquantized"
DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def own(server: LocalHub, cache: HubCache, monkeypatch: pytest.MonkeyPatch) -> HubCache:
    """This machine's hub and cache are those of the test."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache.folder))
    monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
    template = f"{server.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    return cache


@pytest.fixture
def published(server: LocalHub) -> LocalHub:
    """The embedded model under the names of the published one."""
    server.repositories["Lightricks/LTX-2"] = Repository(
        {
            "ltx-2-19b-distilled.safetensors": embedded.CHECKPOINT.read_bytes(),
            "ltx-2-spatial-upscaler-x2-1.0.safetensors": embedded.SPATIAL_UPSCALER.read_bytes(),
            "ltx-2-temporal-upscaler-x2-1.0.safetensors": embedded.TEMPORAL_UPSCALER.read_bytes(),
            "README.md": b"# LTX-2",
        }
    )
    server.repositories[GEMMA] = Repository(
        {path.name: path.read_bytes() for path in embedded.TEXT_ENCODER.iterdir()}, readers={"hf_mine"}
    )
    server.known_tokens = {"hf_mine"}
    return server


def test_a_set_comes_and_the_printed_command_makes_a_clip(
    published: LocalHub,
    own: HubCache,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["download", "ltx-2-19b-distilled", "--format", "bf16"]
    assert run(words) == 1  # the text encoder is gated
    shown = capsys.readouterr()
    assert shown.out == ""
    assert f"error: {GEMMA} is gated, and there is no token: open https://huggingface.co/{GEMMA}" in shown.err
    checkpoint = HubReference("Lightricks/LTX-2", "ltx-2-19b-distilled.safetensors")
    assert published.content_bytes == 0  # nor is anything else fetched

    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    assert run(words) == 0
    shown = capsys.readouterr()
    assert re.search(r"checkpoint +\S+ MB  Lightricks/LTX-2:ltx-2-19b-distilled.safetensors  missing\n", shown.err)
    assert re.search(r"to fetch +\S+ MB\nfree +\S+ [GM]B  ", shown.err)
    sizes = {path: len(data) for path, data in published.repositories["Lightricks/LTX-2"].files.items()}
    gemma = sum(map(len, published.repositories[GEMMA].files.values()))
    wanted = ("ltx-2-19b-distilled.safetensors", "ltx-2-spatial-upscaler-x2-1.0.safetensors")
    assert published.content_bytes == gemma + sum(sizes[name] for name in wanted)
    assert own.find(HubReference("Lightricks/LTX-2", "README.md")) is None
    assert own.find(HubReference("Lightricks/LTX-2", "ltx-2-temporal-upscaler-x2-1.0.safetensors")) is None

    (command,) = shown.out.splitlines()
    assert command.startswith(f"ltx2rt-generate --pipeline distilled --checkpoint-path {checkpoint} ")
    small = ["--height", "64", "--width", "64", "--num-frames", "9", "--quiet", "-o", str(tmp_path / "clip.mp4")]
    asked = len(published.requests)
    assert run(["generate", *shlex.split(command)[1:], *small]) == 0
    assert (tmp_path / "clip.mp4").stat().st_size > 0
    assert len(published.requests) == asked

    assert run([*words, "--offline", "--quiet"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == command
    assert len(published.requests) == asked


def test_parts_alone_and_optional_ones(published: LocalHub, own: HubCache, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["download", "ltx-2-19b-distilled", "--format", "bf16", "--only", "temporal-upscaler,spatial_upscaler"]
    assert run([*words, "--quiet"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert "--temporal-upsampler-path Lightricks/LTX-2:ltx-2-temporal-upscaler-x2-1.0.safetensors" in shown.out
    assert "--checkpoint-path Lightricks/LTX-2:ltx-2-19b-distilled.safetensors" in shown.out
    assert {path.name for path in own.folder.rglob("snapshots/*/*")} == {
        "ltx-2-spatial-upscaler-x2-1.0.safetensors",
        "ltx-2-temporal-upscaler-x2-1.0.safetensors",
    }


def test_a_dry_run_fetches_nothing(published: LocalHub, own: HubCache, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["download", NAME, "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-2:] for line in lines[:3]] == [
        [f"{NAME}:{name}", "missing"] for name in ("config.json", "model.safetensors", "sub/lora.safetensors")
    ]
    assert lines[3].split() == ["to", "fetch", "3", "MB"]
    assert lines[4].startswith("free")
    assert published.content_bytes == 0
    assert not own.folder.exists()


def test_files_and_repositories_without_a_set(
    server: LocalHub, own: HubCache, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["download", f"{NAME}:model.safetensors"]) == 0
    assert capsys.readouterr().out == f"ltx2rt inspect {NAME}:model.safetensors\n"
    commit = server.repositories[NAME].commit
    assert run(["download", f"{NAME}@{commit}:sub/*", "--quiet"]) == 0
    assert capsys.readouterr().out == f"ltx2rt inspect {NAME}@{commit}\n"
    assert own.find(HubReference(NAME, "sub/lora.safetensors", commit)) is not None
    assert own.find(HubReference(NAME, "config.json")) is None


def test_offline_names_what_is_missing(server: LocalHub, own: HubCache, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["download", f"{NAME}:model.safetensors", "--offline"]) == 1
    error = capsys.readouterr().err
    assert f"1 of 1 files cannot be used offline:\n  {NAME}:model.safetensors (missing)" in error
    assert server.requests == []


def test_a_disk_without_room_is_75(
    server: LocalHub, own: HubCache, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(download, "free_bytes", lambda folder: 10**8)
    assert run(["download", NAME]) == 75
    error = capsys.readouterr().err
    assert "3 MB  org/model:model.safetensors  missing" in error  # sizes come before
    assert "Nothing was fetched" in error
    assert server.content_bytes == 0


def test_a_hub_that_is_down_is_75(server: LocalHub, own: HubCache) -> None:
    server.status = 503
    assert run(["download", NAME]) == 75


def test_verify_fetches_a_damaged_file_again(
    server: LocalHub, own: HubCache, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["download", f"{NAME}:model.safetensors"]
    assert run(words) == 0
    path = own.find(HubReference(NAME, "model.safetensors"))
    assert path is not None
    good = path.read_bytes()
    path.write_bytes(b"x" + good[1:])
    assert run([*words, "--quiet"]) == 0  # its size is right
    assert path.read_bytes() != good
    assert run([*words, "--verify", "--offline"]) == 1
    assert "model.safetensors (damaged)" in capsys.readouterr().err
    assert run([*words, "--verify"]) == 0
    assert "checked 3 MB of 3 MB" in capsys.readouterr().err
    assert path.read_bytes() == good


def test_progress_is_lines_where_there_is_no_terminal(
    server: LocalHub, own: HubCache, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(transfer_progress, "_LINE_EVERY_S", 0.0)
    assert run(["download", NAME]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("fetched ")]
    assert len(lines) > 3
    assert re.fullmatch(r"fetched 3 MB of 3 MB, .*/s, 0 min left: lora.safetensors", lines[-1])


def test_a_terminal_gets_a_bar(
    server: LocalHub, own: HubCache, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert run(["download", f"{NAME}:model.safetensors"]) == 0
    error = capsys.readouterr().err
    assert "model.safetensors: 100%" in error
    assert "3.07M/3.07M" in error or "3.00M/3.00M" in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ltx-9"], "is neither a known set nor a repository"),
        (["ltx-2.3-dev", "--format", "int3"], "is not known in the format 'int3'"),
        (["ltx-2.3-dev", "--only", "vae"], "has no part 'vae'"),
        ([NAME, "--only", "video_vae"], "--only goes with a known set"),
        ([NAME, "--format", "fp8"], "--format goes with a known set"),
        (["--format", "fp8"], "--format goes with SET"),
        (["--offline"], "--offline goes with SET"),
    ],
)
def test_options_that_cannot_work(
    words: list[str], message: str, server: LocalHub, own: HubCache, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["download", *words]) == 2
    assert message in capsys.readouterr().err
    assert server.requests == []


def test_the_list_asks_nobody(server: LocalHub, own: HubCache, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["download"]) == 0
    text = capsys.readouterr().out
    assert run(["download", "--list"]) == 0
    assert capsys.readouterr().out == text
    for known in SETS:
        assert known.name in text
        assert run(["download", known.name, "--format", known.format, "--list"]) == 0
        shown = capsys.readouterr().out
        for part in known.parts:
            assert str(part.reference) in shown
            assert part.repository.licence in shown
    assert server.requests == []


def environment(server: LocalHub, cache: HubCache) -> dict[str, str]:
    dropped = ("HF_TOKEN", "HF_HOME", "HF_HUB_OFFLINE", "HTTP_PROXY", "http_proxy", "ALL_PROXY")
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    return kept | {"HF_ENDPOINT": server.endpoint, "HF_HUB_CACHE": str(cache.folder), "HF_HOME": str(cache.folder)}


@pytest.mark.slow
def test_the_variables_of_the_hub_are_heeded(server: LocalHub, cache: HubCache) -> None:
    command = [sys.executable, "-m", "ltx2rt.cli", "download", NAME]
    done = subprocess.run(
        command, env=environment(server, cache), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"ltx2rt inspect {NAME}\n"
    assert cache.find(HubReference(NAME, "model.safetensors")) is not None
    offline = environment(server, cache) | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=offline, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 75
    assert "HF_HUB_OFFLINE is set" in done.stderr
    done = subprocess.run(
        [*command, "--offline"], env=offline, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_an_interrupted_download_goes_on(server: LocalHub, cache: HubCache) -> None:
    size = 6_000_000
    server.repositories[NAME] = Repository({"model.safetensors": content(size, 3)})
    go_on = threading.Event()
    server.pause_at, server.go_on = 2_000_000, go_on
    command = [sys.executable, "-m", "ltx2rt.cli", "download", f"{NAME}:model.safetensors"]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=environment(server, cache), text=True, **streams) as process:
        deadline = time.monotonic() + 60
        while not any(p.stat().st_size >= 1_900_000 for p in cache.folder.rglob("*.incomplete")):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    go_on.set()
    assert process.returncode == 75, error
    assert "what has come is kept: the same command goes on" in error
    assert "Traceback" not in error
    (partial,) = cache.folder.rglob("*.incomplete")
    here = partial.stat().st_size
    asked = len(server.requests)
    done = subprocess.run(
        command, env=environment(server, cache), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "partly here, 2 MB of it" in done.stderr
    assert sum(request.body for request in server.requests[asked:]) == size - here


def test_help_is_complete() -> None:
    parser = build_parser()
    (subparsers,) = (action for action in parser._actions if action.dest == "verb")
    assert subparsers.choices is not None
    text = subparsers.choices["download"].format_help()
    for word in (
        "SET",
        "--format",
        "--only",
        "--list",
        "--dry-run",
        "--offline",
        "--verify",
        "--quiet",
        "HF_HUB_CACHE",
    ):
        assert word in text


def documented() -> list[list[str]]:
    """The words of every command on the page."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", (DOCS / "download.md").read_text(), flags=re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


def test_the_commands_of_the_page_are_understood() -> None:
    """Each option exists, and each set and part is known; the other programs are the hub's own."""
    commands = documented()
    ours = [words for words in commands if words[0] == "ltx2rt"]
    assert len(ours) >= 6
    assert {words[0] for words in commands} <= {"ltx2rt", "ltx2rt-generate", "hf", "rsync", "export"}
    for words in ours:
        arguments = build_parser().parse_args(words[1:])
        if words[1] == "download" and arguments.set and HubReference.parse(arguments.set) is None:
            known = download.known_set(arguments.set, arguments.format)
            assert download.parts_of(known, arguments.only.split(",") if arguments.only else [])


def test_the_sizes_on_the_page_are_those_of_the_table() -> None:
    page = (DOCS / "download.md").read_text()
    for name in dict.fromkeys(known.name for known in SETS):
        cells = []
        for known in (known for known in SETS if known.name == name):
            sizes = [part.gigabytes for part in known.usual if part.gigabytes is not None]
            cells.append(known.format + (f" {sum(sizes):.0f}" if len(sizes) == len(known.usual) else ""))
        assert f"| `{name}` | {', '.join(cells)} |\n" in page


def test_the_table_is_well_formed() -> None:
    assert max(Counter((known.name, known.format) for known in SETS).values()) == 1
    for known in SETS:
        assert known.parts[0].setting in ("checkpoint", "transformer")
        assert not known.parts[0].optional
        usual = Counter(part.setting for part in known.usual)
        assert max(usual.values()) == 1, known
        assert "text_encoder" in usual or known.parts[0].is_folder
        wanted = {"distilled": "distilled", "dev": "two-stage" if "distilled_lora" in usual else "one-stage"}
        assert pipeline_for_files(known.variant, usual).name == wanted[known.variant], known
        assert HubReference.parse(known.name) is None
    for part in (*(part for known in SETS for part in known.parts), *OTHERS):
        assert part.files
        assert HubReference.parse(str(part.reference)) == part.reference
        assert part.bytes is None or part.about is None
        assert part.gigabytes is None or 0.001 < part.gigabytes < 50
        if not part.is_folder:
            assert part.files[0].endswith((".safetensors", ".gguf"))


def test_one_file_has_one_size() -> None:
    sizes: dict[tuple[str, tuple[str, ...]], object] = {}
    for part in (*(part for known in SETS for part in known.parts), *OTHERS):
        key = (part.repository.name, part.files)
        assert sizes.setdefault(key, (part.bytes, part.about)) == (part.bytes, part.about)


@pytest.mark.parametrize("known", SETS, ids=lambda known: f"{known.name}-{known.format}")
def test_the_command_of_every_set_is_understood(known: KnownSet) -> None:
    """With every part, the optional ones too."""
    with spelled_as(spelling()):
        for parts in (known.usual, known.parts):
            command = shlex.split(next_command(known, wanted_parts(parts), known.name))
            assert command[0] == "ltx2rt-generate"
            arguments = build_parser().parse_args(["generate", *command[1:]])
            given = vars(arguments).values()
            values = {str(one) for value in given for one in (value if isinstance(value, (list, tuple)) else [value])}
            for part in {part.setting: part for part in (*known.usual, *parts)}.values():
                assert str(part.reference) in values
