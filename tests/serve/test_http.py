"""The HTTP interface: what it answers, and that what is refused is refused in the form that clients read."""

from __future__ import annotations

import asyncio
import io
import json
import re
import threading
import time
import urllib.request
import zipfile
from pathlib import Path
from typing import Any

import pytest
from scripted_child import PLAN, ScriptedChild, decided
from starlette.requests import Request

from ltx2rt.serve.bodies import Intake
from ltx2rt.serve.guard import Access
from ltx2rt.serve.job_queue import Limits
from ltx2rt.serve.refusal import Refusal

BOUNDARY = "xyz"
FORM = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}


def form(*parts: tuple[str, str, bytes]) -> bytes:
    """A multipart body of (name, file name or nothing, content)."""
    lines = []
    for name, file, content in parts:
        named = f'; filename="{file}"' if file else ""
        lines.append(f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="{name}"{named}\r\n\r\n'.encode() + content)
    return b"\r\n".join(lines) + f"\r\n--{BOUNDARY}--\r\n".encode()


def finished(client: Any, **fields: Any) -> str:
    job_id: str = client.create(**fields)["id"]
    end = time.monotonic() + 5
    while client.get(job_id)["status"] != "completed":
        assert time.monotonic() < end
        time.sleep(0.005)
    return job_id


def test_what_the_server_says_of_itself(client: Any) -> None:
    assert client.ask("GET", "/health").json["queue_length"] == 0
    assert [model["id"] for model in client.ask("GET", "/v1/models").json["data"]] == ["toy"]
    assert client.ask("GET", "/v1/models/toy").json["object"] == "model"
    assert client.ask("GET", "/v1/models/sora-2").status == 404
    options = client.ask("GET", "/v1/options").json
    assert {"prompt", "num_frames", "codec"} <= {field["name"] for field in options["fields"]}
    assert client.ask("GET", "/nothing").error["type"] == "invalid_request_error"
    assert client.ask("PUT", "/v1/videos", {}).status == 405


def test_forms_and_json_say_the_same(client: Any, child: type[ScriptedChild]) -> None:
    questions: list[dict[str, Any]] = []

    def check(question: dict[str, Any]) -> dict[str, Any]:
        question["files"] = {path.name: path.read_bytes() for path in Path(question["folder"]).iterdir()}
        questions.append(question)
        return decided(question)

    child.check = staticmethod(check)
    picture = b"\x89PNG and more"
    answer = client.ask(
        "POST",
        "/v1/videos",
        form(
            ("prompt", "", b"a red circle"),
            ("images[0][image]", "", b"upload:first"),
            ("images[0][frame]", "", b"8"),
            ("images[1][strength]", "", b"0.5"),
            ("images[1][image]", "", b"upload:second"),
            ("loras", "", b"[]"),
            ("first", "../../evil.png", picture),
            ("second", "/etc/passwd", b"nothing known"),
        ),
        FORM,
    )
    assert answer.status == 200, answer.body
    client.create(images=[{"image": "data:image/png;base64,iVBORyBhbmQgbW9yZQ==", "frame": 8}])
    first, second = questions
    assert first["asked"]["settings"]["images"] == [["input-0.png", 8, 1.0], ["input-1.bin", 0, 0.5]]
    assert first["files"] == {"input-0.png": picture, "input-1.bin": b"nothing known"}
    assert second["asked"]["settings"]["images"] == [["input-0.png", 8, 1.0]]
    assert second["files"]["input-0.png"].startswith(b"\x89PNG")


def test_lists_in_forms_are_written_as_clients_write_them(client: Any, child: type[ScriptedChild]) -> None:
    found: list[Any] = []

    def check(question: dict[str, Any]) -> dict[str, Any]:
        found.append(dict(question["asked"]["settings"]))
        return decided(question)

    child.check = staticmethod(check)
    rows = [("images[][image]", "", b"upload:a"), ("images[][frame]", "", b"8"), ("images[][image]", "", b"upload:a")]
    numbers = [("video_stg_blocks[]", "", b"1"), ("video_stg_blocks[]", "", b"2")]
    twice = [("audio_path", "a.wav", b"RIFF0000WAVE")]
    answer = client.ask("POST", "/v1/videos", form(*rows, *numbers, *twice, ("a", "a", b"x" * 9)), FORM)
    assert answer.status == 200, answer.body
    assert found == [
        {
            "images": [["input-0.bin", 8, 1.0], ["input-1.bin", 0, 1.0]],
            "video_stg_blocks": [1, 2],
            "audio_path": "input-2.wav",
        }
    ]


@pytest.mark.parametrize(
    ("body", "headers", "status", "words"),
    [
        (b"{", {"content-type": "application/json"}, 400, "no JSON"),
        (b"[1]", {"content-type": "application/json"}, 400, "must be a JSON object"),
        (b"[" * 100000, {"content-type": "application/json"}, 400, "no JSON"),
        (b"1" * 5000, {"content-type": "application/json"}, 400, "JSON"),
        (b"\xff\xfe\xff", {"content-type": "application/json"}, 400, "no JSON"),
        (b'{"prompt": "\\ud800"}', {"content-type": "application/json"}, 400, "UTF-8"),
        (b'{"\\ud800": 1}', {"content-type": "application/json"}, 400, "unknown field"),
        (b'{"duration": NaN}', {"content-type": "application/json"}, 400, "a number"),
        (b"<x/>", {"content-type": "text/xml"}, 415, "JSON or a form"),
        (b"no parts", FORM, 400, ""),
        (b"x", {"content-type": "multipart/form-data"}, 400, "boundary"),
        (form(("a[b][c][d][e]", "", b"x")), FORM, 400, "nested"),
        (
            form(("images[]", "", b"x"), ("images[][frame]", "", b"1"), ("images[0][frame]", "", b"1")),
            FORM,
            400,
            "parts",
        ),
        (form(("images[a]", "", b"x"), ("images", "", b"y")), FORM, 400, "parts"),
        (form(("]images[", "", b"x")), FORM, 400, "unknown field"),
        (form(("prompt", "", b"x" * (2 << 20))), FORM, 400, "maximum size"),
        (b"promt=x", {"content-type": "application/x-www-form-urlencoded"}, 400, "did you mean prompt"),
    ],
    ids=range(17),
)
def test_bodies_that_cannot_be_read(client: Any, body: bytes, headers: dict[str, str], status: int, words: str) -> None:
    answer = client.ask("POST", "/v1/videos", body, headers)
    assert answer.status == status
    assert words in answer.error["message"]
    assert "Traceback" not in answer.body.decode()


def test_bodies_are_limited(start: Any, tmp_path: Path) -> None:
    client = start(Limits(upload=5000)).client
    large = form(("audio_path", "a.wav", b"x" * 6000))
    assert client.ask("POST", "/v1/videos", large, FORM).status == 413
    assert client.ask("POST", "/v1/videos", {"prompt": "x" * 6000}).error["code"] == "too_large"
    chunked = (large[index : index + 100] for index in range(0, len(large), 100))  # its length is not stated
    assert client.ask("POST", "/v1/videos", chunked, FORM).status == 413
    assert list((tmp_path / "jobs").iterdir()) == []


def test_what_does_not_fit_comes_with_its_plan(client: Any, child: type[ScriptedChild], tmp_path: Path) -> None:
    refused = {"message": "it needs 9 GB", "param": None, "code": "memory", "more": {"plan": PLAN}}
    child.check = staticmethod(lambda question: {"refused": refused})
    for path in ("/v1/videos", "/v1/videos/plan"):
        answer = client.ask("POST", path, {"prompt": "x"})
        assert answer.status == 400
        assert answer.error["code"] == "memory"
        assert answer.error["plan"] == PLAN
    assert list((tmp_path / "jobs").iterdir()) == []


def test_a_plan_leaves_nothing(client: Any, tmp_path: Path) -> None:
    plan = client.ask("POST", "/v1/videos/plan", {"prompt": "x"}).json
    assert plan["object"] == "video.plan"
    assert plan["plan"]["seconds"] == 4.0
    assert client.ask("GET", "/v1/videos").json["data"] == []
    assert list((tmp_path / "jobs").iterdir()) == []


def test_lists_come_in_pages(client: Any) -> None:
    ids = [client.create()["id"] for _ in range(5)]
    page = client.ask("GET", "/v1/videos?limit=2").json
    assert ([job["id"] for job in page["data"]], page["has_more"]) == (ids[:2:-1], True)
    assert (page["first_id"], page["last_id"]) == (ids[4], ids[3])
    rest = client.ask("GET", f"/v1/videos?limit=3&after={ids[3]}").json
    assert ([job["id"] for job in rest["data"]], rest["has_more"]) == (ids[2::-1], False)
    assert [job["id"] for job in client.ask("GET", "/v1/videos?order=asc").json["data"]] == ids
    for query in ("limit=0", "limit=101", "limit=x", "limit=²", "order=up", "after=video_x", "page=2"):
        assert client.ask("GET", "/v1/videos?" + urllib.request.quote(query, "=&")).status == 400, query


def test_files_of_a_finished_job(client: Any) -> None:
    path = f"/v1/videos/{finished(client)}/content"
    whole = client.ask("GET", path)
    assert (whole.body, whole.headers["content-type"]) == (bytes(range(200)), "video/mp4")
    part = client.ask("GET", path, headers={"range": "bytes=10-19"})
    assert (part.status, part.body, part.headers["content-range"]) == (206, bytes(range(10, 20)), "bytes 10-19/200")
    assert client.ask("GET", path, headers={"range": "bytes=900-"}).status == 416
    assert client.ask("HEAD", path).headers["content-length"] == "200"
    assert client.ask("GET", f"{path}?variant=sidecar").json == {}
    assert client.ask("GET", f"{path}?variant=thumbnail").body == b"png"
    assert client.ask("GET", f"{path}?variant=spritesheet").status == 404  # a file that is gone
    assert client.ask("GET", f"{path}?variant=../../x").error["param"] == "variant"


def test_frames_of_high_dynamic_range_come_as_a_zip(client: Any, server: Any) -> None:
    job = finished(client)
    path = f"/v1/videos/{job}/content?variant=frames"
    answer = client.ask("GET", path)
    assert (answer.status, answer.error["param"]) == (404, "variant")
    folder = server.queue.folder(server.queue.job(job)).path / "clip_acescg_exr"
    folder.mkdir()
    frames = {f"frame_{index:05d}.exr": bytes([index]) * (1 << 20) + b"end" for index in range(3)}
    for name, content in frames.items():
        (folder / name).write_bytes(content)
    answer = client.ask("GET", path)
    assert (answer.status, answer.headers["content-type"]) == (200, "application/zip")
    with zipfile.ZipFile(io.BytesIO(answer.body)) as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in archive.namelist()} == frames
    assert (client.ask("HEAD", path).status, client.ask("HEAD", path).body) == (200, b"")


def test_large_requests_take_turns() -> None:
    """Those that come in slowly leave no room for further large ones, and never keep small ones out."""

    async def read(intake: Intake, size: int, rest: asyncio.Event) -> int:
        body = json.dumps({"prompt": "x" * size}).encode()
        parts = [body[:-10], body[-10:]]

        async def receive() -> dict[str, Any]:
            if len(parts) == 1:
                await rest.wait()
            return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

        async with intake.fields(Request({"type": "http", "method": "POST", "headers": []}, receive)) as fields:
            return len(fields["prompt"])

    async def talk() -> None:
        intake, rest, now = Intake(200_000), asyncio.Event(), asyncio.Event()
        now.set()
        slow = [asyncio.create_task(read(intake, 160_000, rest)) for _ in range(4)]
        await asyncio.sleep(0)  # each has sent all but its end
        with pytest.raises(Refusal) as refused:
            await read(intake, 160_000, now)
        assert (refused.value.status, refused.value.code) == (503, "busy")
        assert await read(intake, 60_000, now) == 60_000
        slow.pop().cancel()
        await asyncio.sleep(0)
        assert await read(intake, 160_000, now) == 160_000
        rest.set()
        assert await asyncio.gather(*slow) == [160_000] * 3
        assert await asyncio.gather(*(read(intake, 190_000, now) for _ in range(3))) == [190_000] * 3

    asyncio.run(talk())


@pytest.mark.parametrize(
    "path", ["/v1/videos/../../etc/passwd", "/v1/videos/%2e%2e%2fjobs.sqlite/content", "/page.js/..", "//etc"]
)
def test_paths_that_lead_elsewhere(client: Any, path: str) -> None:
    assert client.ask("GET", path).status == 404


def test_a_job_again_with_another_seed(client: Any, child: type[ScriptedChild], tmp_path: Path) -> None:
    first = finished(client, images=[{"image": "iVBORyBhbmQgbW9yZQ=="}])
    answer = client.ask("POST", f"/v1/videos/{first}/remix", {"seed": "random", "prompt": "a blue square"})
    second = answer.json
    assert second["remixed_from_video_id"] == first
    assert second["prompt"] == "a blue square"
    inputs = [tmp_path / "jobs" / job_id / "input-0.png" for job_id in (first, second["id"])]
    assert inputs[0].read_bytes() == inputs[1].read_bytes()
    client.ask("DELETE", f"/v1/videos/{first}")
    assert inputs[1].exists()


def test_a_repeated_job_takes_only_the_inputs_that_it_uses(client: Any, tmp_path: Path) -> None:
    def remix(of: str, **fields: Any) -> str:
        return str(client.ask("POST", f"/v1/videos/{of}/remix", fields).json["id"])

    first = finished(client, images=[{"image": "iVBORyBhbmQgbW9yZQ=="}])
    without = remix(first, images=[])
    assert list((tmp_path / "jobs" / without).glob("input-*")) == []
    # A prompt that looks like a stored name is none.
    third = remix(without, images=[{"image": "iVBORyBvdGhlcg=="}], prompt='"input-' + "9" * 5000 + ".")
    fourth = remix(third, seed=3)
    inputs = [tmp_path / "jobs" / job_id / "input-0.png" for job_id in (third, fourth)]
    assert [path.read_bytes() for path in inputs] == [b"\x89PNG other"] * 2


def events_of(client: Any, path: str, wanted: int) -> list[tuple[str, Any]]:
    found = []
    with urllib.request.urlopen(f"http://127.0.0.1:{client.port}{path}", timeout=5) as stream:
        kind = ""
        for line in stream:
            if line.startswith(b"event:"):
                kind = line[6:].strip().decode()
            elif line.startswith(b"data:"):
                found.append((kind, json.loads(line[5:])))
                if len(found) == wanted:
                    break
    return found


def test_events_tell_of_a_job_until_it_has_ended(client: Any, child: type[ScriptedChild]) -> None:
    child.runs = ["wait", [{"event": "preview", "stage": "denoise 1", "step": 1}]]
    blocker = client.create()["id"]
    job_id = client.create()["id"]
    later = threading.Timer(0.2, lambda: client.ask("DELETE", f"/v1/videos/{blocker}"))
    later.start()
    found = events_of(client, f"/v1/videos/{job_id}/events", 99)
    later.join()
    kinds = [kind for kind, _ in found]
    assert found[0][1]["status"] == "queued"
    assert "preview" in kinds
    assert found[-1][1]["status"] == "completed"
    assert all(value["id"] == job_id for _, value in found)


def test_events_of_all_jobs_begin_with_those_that_are_there(client: Any) -> None:
    ids = [finished(client) for _ in range(3)]
    assert [value["id"] for _, value in events_of(client, "/v1/events", 3)] == ids


def test_open_event_streams_do_not_keep_a_server_alive(start: Any) -> None:
    server = start()
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/v1/events", timeout=5) as stream:
        stream.readline()
        begun = time.monotonic()
        server.stop()
        assert time.monotonic() - begun < 5


def test_a_key_is_needed_where_one_is_set(start: Any) -> None:
    client = start(access=Access.of("0.0.0.0", ["first", "schlüssel"], [])).client
    for wrong in (
        {},
        {"authorization": "Bearer nothing"},
        {"authorization": "Basic first"},
        {"authorization": "first"},
    ):
        answer = client.ask("GET", "/v1/videos", headers=wrong)
        assert (answer.status, answer.error["code"]) == (401, "invalid_api_key")
    assert client.ask("GET", "/v1/videos", headers={"authorization": "Bearer first"}).status == 200
    right = {"authorization": "bearer schlüssel".encode().decode("latin-1")}
    assert client.ask("GET", "/v1/videos", headers=right).status == 200
    assert client.ask("GET", "/").status == client.ask("GET", "/health").status == 200  # they hold no data
    assert (
        client.ask("GET", "/v1/videos", headers={"authorization": "Bearer first", "host": "example.com"}).status == 200
    )


def test_a_browser_that_was_led_here_is_refused(client: Any) -> None:
    assert client.ask("GET", "/v1/videos", headers={"host": "evil.example"}).error["code"] == "wrong_host"
    assert client.ask("GET", "/v1/videos", headers={"host": "[::1"}).error["code"] == "wrong_host"
    for host in ("localhost", "127.0.0.1:80", "[::1]:8000", "LOCALHOST"):
        assert client.ask("GET", "/v1/videos", headers={"host": host}).status == 200
    answer = client.ask("POST", "/v1/videos", {"prompt": "x"}, {"origin": "http://evil.example"})
    assert answer.error["code"] == "wrong_origin"
    assert "access-control-allow-origin" not in answer.headers
    own = {"origin": f"http://127.0.0.1:{client.port}"}
    assert client.ask("POST", "/v1/videos", {"prompt": "x"}, own).status == 200


def test_sites_that_are_named_may_use_it(start: Any) -> None:
    client = start(access=Access.of("127.0.0.1", [], ["http://localhost:3000/"])).client
    headers = {"origin": "http://localhost:3000", "access-control-request-method": "DELETE"}
    answer = client.ask("OPTIONS", "/v1/videos/video_x", headers=headers)
    assert (answer.status, answer.headers["access-control-allow-origin"]) == (200, "http://localhost:3000")
    assert client.ask("POST", "/v1/videos", {"prompt": "x"}, {"origin": "http://localhost:3000"}).status == 200
    assert client.ask("POST", "/v1/videos", {"prompt": "x"}, {"origin": "http://localhost:3001"}).status == 403


def test_sites_that_are_named_can_read_refusals(start: Any) -> None:
    server = start(access=Access.of("127.0.0.1", ["secret"], ["http://localhost:3000"]))
    client = server.client
    for method in ("GET", "POST"):
        answer = client.ask(method, "/v1/videos", headers={"origin": "http://localhost:3000"})
        assert (answer.status, answer.headers["access-control-allow-origin"]) == (401, "http://localhost:3000")
    answer = client.ask("GET", "/v1/videos", headers={"origin": "http://localhost:3001"})
    assert (answer.status, answer.headers["access-control-allow-origin"]) == (403, None)
    wrong = {"origin": "http://localhost:3001", "access-control-request-method": "POST"}
    assert client.ask("OPTIONS", "/v1/videos", headers=wrong).status == 400
    server.stop()
    local = start(access=Access.of("127.0.0.1", [], ["http://localhost:3000"])).client
    answer = local.ask("GET", "/v1/videos", headers={"origin": "http://localhost:3000", "host": "evil.example"})
    assert (answer.status, answer.headers["access-control-allow-origin"]) == (421, "http://localhost:3000")


def test_errors_of_the_program_are_not_shown(client: Any, child: type[ScriptedChild], caplog: Any) -> None:
    child.check = staticmethod(lambda question: {"surprise": "secret"})
    answer = client.ask("POST", "/v1/videos", {"prompt": "x"})
    assert (answer.status, answer.error["code"]) == (500, "internal")
    assert "KeyError" not in answer.body.decode()
    assert "KeyError" in caplog.text


PAGE = Path(__file__).parents[2] / "ltx2rt" / "serve" / "page"


def test_the_page_needs_nothing_from_elsewhere(client: Any) -> None:
    answer = client.ask("GET", "/")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    html = answer.body.decode()
    for path in re.findall(r'(?:src|href)="(/[^"]*)"', html):
        assert client.ask("GET", path).status == 200
    text = "".join(path.read_text() for path in PAGE.iterdir())
    assert not re.findall(r"https?://", text)
    assert set(re.findall(r'\$\("([\w-]+)"\)', text)) - {"field-pipeline", "field-prompt"} <= set(
        re.findall(r'id="([\w-]+)"', html)
    )
