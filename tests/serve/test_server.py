"""A real server: OpenAI's own client talks to it; what goes wrong when it is started is said in one sentence."""

from __future__ import annotations

import io
import json
import socket
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import psutil
import pytest
from api_client import Client
from PIL import Image
from real_server import RealServer

from ltx2rt.cli.main import run

SMALL = {"num_frames": 9, "seed": 5}


@pytest.fixture
def real(tmp_path: Path) -> Iterator[RealServer]:
    server = RealServer(tmp_path / "data")
    yield server
    if server.process.poll() is None:
        server.kill()


def test_a_clip_is_made_and_the_end_leaves_nothing(real: RealServer) -> None:
    assert "running the embedded TOY model" in real.said
    client = Client(real.port)
    job = client.create(prompt="a red circle moves left", size="64x64", **SMALL)
    deadline = time.monotonic() + 120
    while job["status"] in ("queued", "in_progress"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
        job = client.get(job["id"])
    assert (job["status"], job["progress"], job["error"]) == ("completed", 100, None)
    with av.open(io.BytesIO(client.ask("GET", f"/v1/videos/{job['id']}/content").body)) as clip:
        assert sum(1 for _ in clip.decode(video=0)) == 9
    children = real.children
    assert set(children) == {"worker", "checker"}
    assert real.stop() == 0
    assert not any(psutil.pid_exists(child.pid) for child in children.values())
    assert "Traceback" not in real.said


@pytest.mark.slow  # its library takes as long to load as the server; tests/serve/test_http.py has all that it asks
def test_openais_client_makes_a_clip(real: RealServer, tmp_path: Path) -> None:
    openai = pytest.importorskip("openai", reason="needs pip install 'ltx2rt[test]'")
    warnings.simplefilter("ignore", DeprecationWarning)  # of OpenAI's own service
    assert "running the embedded TOY model" in real.said
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{real.port}/v1", api_key="none", max_retries=0)
    picture = io.BytesIO()
    Image.new("RGB", (64, 64), "blue").save(picture, "PNG")
    picture.name = "blue.png"
    picture.seek(0)
    model = client.models.list().data[0].id
    job = client.videos.create(
        model=model, prompt="a red circle moves left", size="64x64", input_reference=picture, extra_body=SMALL
    )
    assert (job.object, job.status, job.size) == ("video", "queued", "64x64")
    deadline = time.monotonic() + 120
    while job.status in ("queued", "in_progress"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
        job = client.videos.retrieve(job.id)
    assert (job.status, job.progress, job.error) == ("completed", 100, None)
    assert job.model_extra is not None
    assert job.model_extra["peak_memory_mb"] > 50
    assert [listed.id for listed in client.videos.list(limit=5)] == [job.id]
    content = client.videos.download_content(job.id).read()
    with av.open(io.BytesIO(content)) as clip:
        frames = sum(1 for _ in clip.decode(video=0))
    assert frames == 9
    sidecar = json.loads(client.videos.download_content(job.id, variant="sidecar").read())  # type: ignore[arg-type]
    assert sidecar["settings"]["seed"] == 5
    assert len(sidecar["settings"]["images"]) == 1
    for variant in ("thumbnail", "spritesheet"):
        Image.open(io.BytesIO(client.videos.download_content(job.id, variant=variant).read())).verify()
    with pytest.raises(openai.BadRequestError) as refused:
        client.videos.create(prompt="x", size="64x64", extra_body={"num_frames": 10})
    assert (refused.value.param, refused.value.code) == ("num_frames", "invalid_value")
    with pytest.raises(openai.BadRequestError) as refused:
        client.videos.create(prompt="x", size="40960x40960", extra_body={"num_frames": 2001})
    assert "smaller or shorter" in refused.value.message
    assert client.videos.delete(job.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.videos.retrieve(job.id)
    assert list((tmp_path / "data" / "jobs").iterdir()) == []
    children = real.children
    assert set(children) == {"worker", "checker"}
    assert real.stop() == 0
    assert not any(psutil.pid_exists(child.pid) for child in children.values())
    assert "Traceback" not in real.said


def failed(capsys: Any, *words: str) -> str:
    assert run(["serve", *words]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(said) == 1
    return said[0]


def test_a_taken_port_is_one_sentence(capsys: Any, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = failed(capsys, "--port", str(port), "--data-folder", str(tmp_path))
    assert said == f"error: 127.0.0.1:{port} is taken by another program; give another --port."


def test_a_key_is_needed_for_other_machines(capsys: Any, tmp_path: Path) -> None:
    folder = ["--data-folder", str(tmp_path)]
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.com"):
        assert "give --api-key-file FILE" in failed(capsys, "--host", host, *folder)
    empty = tmp_path / "keys"
    empty.write_text("\n")
    assert "holds no key" in failed(capsys, "--api-key-file", str(empty), *folder)
    assert "cannot be read" in failed(capsys, "--api-key-file", str(tmp_path / "none"), *folder)


def test_a_folder_is_for_one_server(capsys: Any, tmp_path: Path) -> None:
    import fcntl

    with (tmp_path / "serve.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        said = failed(capsys, "--port", "0", "--data-folder", str(tmp_path))
    assert said == f"error: another server uses {tmp_path}; stop it, or give another --data-folder."


def test_a_folder_with_other_files_is_left_alone(capsys: Any, tmp_path: Path) -> None:
    kept = tmp_path / "jobs" / "mine" / "notes.txt"
    kept.parent.mkdir(parents=True)
    kept.write_text("x")
    said = failed(capsys, "--port", "0", "--data-folder", str(tmp_path))
    assert f"--data-folder {tmp_path} has no jobs.sqlite but jobs" in said
    assert kept.exists()


def test_options_that_cannot_work(capsys: Any, tmp_path: Path) -> None:
    folder = ["--data-folder", str(tmp_path), "--port", "0"]
    assert "--max-jobs must be more than 0" in failed(capsys, "--max-jobs", "0", *folder)
    assert "is not a memory size" in failed(capsys, "--memory", "much", *folder)
    assert "is no folder" in failed(capsys, "--allow-folder", str(tmp_path / "none"), *folder)
    assert "does not exist" in failed(capsys, "--named-lora", "cat", str(tmp_path / "none"), *folder)


def test_without_its_packages_it_says_what_to_install(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "uvicorn" else object())
    assert failed(capsys) == "error: ltx2rt serve needs uvicorn; run pip install 'ltx2rt[serve]'."
