"""The queue: states that are true whatever happens to the worker, the disk or the server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scripted_child import ScriptedChild, decided, finish

from ltx2rt.errors import OutOfSpace
from ltx2rt.serve import job_queue
from ltx2rt.serve.asked import Asked
from ltx2rt.serve.child import ChildEnded
from ltx2rt.serve.job_folder import JobFolder
from ltx2rt.serve.job_queue import Limits
from ltx2rt.serve.jobs import JobStore
from ltx2rt.serve.refusal import Refusal


def until(check: Callable[[], Any], seconds: float = 5.0) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = check()
        if found:
            return found
        time.sleep(0.005)
    raise AssertionError("it did not happen")


def ended(client: Any, job_id: str) -> Any:
    return until(lambda: (job := client.get(job_id))["status"] in ("completed", "failed") and job)


def test_jobs_run_one_after_the_other_in_the_order_of_arrival(client: Any, child: type[ScriptedChild]) -> None:
    ids = [client.create(seed=seed)["id"] for seed in range(3)]
    assert [ended(client, job_id)["status"] for job_id in ids] == ["completed"] * 3
    assert child.started == ids
    assert child.starts.count("worker") == 1  # it stays


def test_a_job_is_the_object_that_openai_has(client: Any) -> None:
    job = client.create()
    assert job["object"] == "video"
    assert job["status"] == "queued"
    assert (job["size"], job["seconds"], job["model"], job["seed"]) == ("64x64", "0.375", "toy", 7)
    done = ended(client, job["id"])
    assert done["progress"] == 100
    assert done["completed_at"] >= done["created_at"]
    assert (done["peak_memory_mb"], done["inference_time_s"], done["media_type"]) == (1.5, 2.0, "video/mp4")
    assert done["error"] is None


def test_the_worker_is_killed_to_cancel(client: Any, child: type[ScriptedChild], tmp_path: Path) -> None:
    child.runs = ["wait"]
    first, second = client.create()["id"], client.create()["id"]
    running = until(lambda: (job := client.get(first))["stage"] and job)
    assert (running["status"], running["stage"], running["step"], running["steps"]) == (
        "in_progress",
        "denoise 1",
        0,
        8,
    )
    assert client.get(second)["queue_position"] == 1
    begun = time.monotonic()
    answer = client.ask("DELETE", f"/v1/videos/{first}")
    assert time.monotonic() - begun < 1
    assert answer.json == {"id": first, "object": "video.deleted", "deleted": True}
    assert client.ask("GET", f"/v1/videos/{first}").status == 404
    assert not (tmp_path / "jobs" / first).exists()
    assert ended(client, second)["status"] == "completed"
    assert child.starts.count("worker") == 2


def test_a_job_whose_worker_was_killed_runs_again(client: Any, child: type[ScriptedChild]) -> None:
    child.runs = ["crash", "crash"]
    first, second = client.create()["id"], client.create()["id"]
    assert ended(client, first)["status"] == "completed"
    assert ended(client, second)["status"] == "completed"
    assert child.started == [first, first, first, second]


def test_a_job_that_always_ends_its_worker_fails(client: Any, child: type[ScriptedChild]) -> None:
    child.runs = ["crash"] * 5
    job = ended(client, client.create()["id"])
    assert job["error"]["code"] == "worker_ended"
    assert "signal 9" in job["error"]["message"]
    assert child.runs == []


def test_a_worker_that_gets_further_each_time_is_given_more_tries(
    client: Any, child: type[ScriptedChild], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_queue.Live, "moved", property(lambda self: True, lambda self, value: None), raising=False)
    child.runs = ["crash"] * 9
    assert ended(client, client.create()["id"])["status"] == "completed"


def test_what_a_job_cannot_do_is_its_error(client: Any, child: type[ScriptedChild]) -> None:
    child.runs = [{"event": "failed", "code": "media", "message": "the picture is damaged"}]
    job = ended(client, client.create()["id"])
    assert job["status"] == "failed"
    assert job["error"] == {"code": "media", "message": "the picture is damaged"}
    assert client.ask("GET", f"/v1/videos/{job['id']}/content").error["code"] == "not_ready"


def test_memory_that_an_old_worker_lacks_a_fresh_one_may_have(client: Any, child: type[ScriptedChild]) -> None:
    refused = {"event": "failed", "code": "memory", "message": "the system refused memory"}
    child.runs = [refused]
    assert ended(client, client.create()["id"])["status"] == "completed"
    assert child.starts.count("worker") == 2
    child.runs = [refused, refused]
    assert ended(client, client.create()["id"])["error"]["code"] == "memory"


def test_a_full_disk_makes_a_job_wait(client: Any, child: type[ScriptedChild], server: Any) -> None:
    full = {"event": "failed", "code": "disk_full", "message": "cannot write clip.mp4: no space"}
    child.runs = [full, full]
    job = client.create()
    until(lambda: "no space" in client.ask("GET", "/health").json["trouble"])
    assert client.get(job["id"])["status"] in ("queued", "in_progress")
    assert ended(client, job["id"])["status"] == "completed"
    until(lambda: client.ask("GET", "/health").json["trouble"] == "")


def test_a_full_disk_refuses_new_jobs_and_leaves_nothing_of_them(
    client: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*_: Any) -> None:
        raise OutOfSpace("no space")

    with monkeypatch.context() as patched:
        patched.setattr(JobStore, "_write", full)
        answer = client.ask("POST", "/v1/videos", {"prompt": "x"})
    assert answer.status == 507
    assert answer.error["code"] == "disk_full"
    assert list((tmp_path / "jobs").iterdir()) == []
    assert client.ask("GET", "/v1/videos").json["data"] == []


def test_a_completed_job_that_the_full_disk_could_not_note_is_not_run_again(
    client: Any, child: type[ScriptedChild], monkeypatch: pytest.MonkeyPatch
) -> None:
    complete, failures = JobStore.complete, [1, 2]

    def full_at_first(store: JobStore, *values: Any) -> None:
        if failures:
            failures.pop()
            raise OutOfSpace("no space")
        complete(store, *values)

    monkeypatch.setattr(JobStore, "complete", full_at_first)
    job_id = client.create()["id"]
    assert ended(client, job_id)["status"] == "completed"
    assert child.started == [job_id]


def test_a_server_takes_up_what_the_one_before_has_left(start: Any, child: type[ScriptedChild], tmp_path: Path) -> None:
    first = start()
    child.runs = ["wait"]
    running, waiting, finished = (first.client.create(seed=seed)["id"] for seed in range(3))
    until(lambda: first.client.get(running)["stage"])
    (tmp_path / "jobs" / "video_of_a_request_that_was_broken_off").mkdir()
    store = JobStore(tmp_path / "jobs.sqlite")  # as a kill leaves it: nothing is put back
    first.stop()
    store.begin(running)
    store.close()
    finish(tmp_path / "jobs" / finished)
    child.started = []
    second = start()
    assert [ended(second.client, i)["status"] for i in (running, waiting, finished)] == ["completed"] * 3
    assert child.started == [running, waiting]
    assert {path.name for path in (tmp_path / "jobs").iterdir()} == {running, waiting, finished}


def test_the_seed_is_drawn_once(start: Any, child: type[ScriptedChild]) -> None:
    child.check = staticmethod(lambda question: decided(question))
    server = start()
    job = server.client.create(seed="random")
    assert server.queue.job(job["id"]).asked["settings"]["seed"] == 7


def test_only_so_many_jobs_wait(start: Any, child: type[ScriptedChild]) -> None:
    client = start(Limits(jobs=2)).client
    child.runs = ["wait"]
    client.create(), client.create()
    answer = client.ask("POST", "/v1/videos", {"prompt": "x"})
    assert answer.status == 429
    assert answer.error["code"] == "queue_full"


def test_the_oldest_results_are_removed(start: Any, tmp_path: Path) -> None:
    client = start(Limits(results=700)).client
    ids = [client.create()["id"] for _ in range(4)]
    ended(client, ids[-1])
    until(lambda: [job["id"] for job in client.ask("GET", "/v1/videos?order=asc").json["data"]] == ids[2:])
    # A folder goes after the job is no longer listed.
    until(lambda: {path.name for path in (tmp_path / "jobs").iterdir()} == set(ids[2:]))


def test_results_expire(start: Any) -> None:
    client = start(Limits(age=0.05)).client
    job_id = client.create()["id"]

    def has_gone() -> bool:
        client.create()  # whose end is when the server looks at what is too old
        return bool(client.ask("GET", f"/v1/videos/{job_id}").status == 404)

    until(has_gone)


def test_a_worker_without_work_gives_its_memory_back(start: Any, child: type[ScriptedChild]) -> None:
    server = start(Limits(idle=0.05))
    until(lambda: server.client.ask("GET", "/health").json["worker"] == "cold")
    assert ended(server.client, server.client.create()["id"])["status"] == "completed"


def test_a_check_that_ends_its_process_is_refused_and_the_next_one_is_not(
    client: Any, child: type[ScriptedChild], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "check", staticmethod(lambda question: None))
    answer = client.ask("POST", "/v1/videos", {"prompt": "x"})
    assert answer.status == 400
    assert "signal 9" in answer.error["message"]
    monkeypatch.setattr(child, "check", staticmethod(decided))
    client.create()


def test_as_many_as_may_wait_when_they_come_together(start: Any, child: type[ScriptedChild]) -> None:
    server = start(Limits(jobs=2))
    child.runs = ["wait"]

    async def together() -> list[Any]:
        return await asyncio.gather(*(server.queue.submit(Asked()) for _ in range(5)), return_exceptions=True)

    answers = asyncio.run_coroutine_threadsafe(together(), server.loop).result(10)
    assert sum(isinstance(answer, Refusal) for answer in answers) == 3
    assert len(server.client.ask("GET", "/v1/videos").json["data"]) == 2


def test_a_worker_that_ends_before_it_says_anything_is_not_started_for_ever(
    start: Any, child: type[ScriptedChild], monkeypatch: pytest.MonkeyPatch
) -> None:
    send = ScriptedChild.send

    async def ends(self: ScriptedChild, message: dict[str, Any]) -> None:
        if self._is_worker:
            child.started.append(message["id"])
            await self.kill()
            raise ChildEnded("exit code 1")
        await send(self, message)

    monkeypatch.setattr(ScriptedChild, "send", ends)
    client = start().client
    job = ended(client, client.create()["id"])
    assert job["error"]["code"] == "worker_ended"
    assert len(child.started) == 10


def test_results_expire_while_the_weights_stay(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_queue, "_TIDY_SECONDS", 0.05)
    server = start(Limits(age=0.3, idle=None))
    job_id = server.client.create()["id"]
    ended(server.client, job_id)
    until(lambda: server.client.ask("GET", f"/v1/videos/{job_id}").status == 404)
    assert server.client.ask("GET", "/health").json["worker"] == "warm"


def test_frames_in_a_folder_count_as_results(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path, "video_1")
    folder.create({})
    (folder.path / "clip_acescg_exr").mkdir()
    (folder.path / "clip_acescg_exr" / "frame_00000.exr").write_bytes(bytes(500))
    (folder.path / "clip.mp4").write_bytes(bytes(200))
    assert folder.nbytes() == 700
