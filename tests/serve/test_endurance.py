"""What a server must stand: many jobs of many clients, kills at random moments, and requests that nobody should send.

The quick tests are the same in small; ``pytest -m slow -s tests/serve/test_endurance.py`` shows the figures.
"""

from __future__ import annotations

import hashlib
import http.client
import random
import socket
import statistics
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from api_client import Client
from fuzzing import FuzzedRequest, fuzzed_requests
from real_server import RealServer

Launch = Callable[..., RealServer]
SMALL = {"size": "64x64", "num_frames": 9}
WORDS = ("red", "blue", "green", "yellow")


def finished(client: Client, job_id: str, seconds: float = 600) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        job = client.get(job_id)
        if job["status"] in ("completed", "failed"):
            return job
        time.sleep(0.05)
    raise AssertionError(f"{job_id} is not done")


def digest(client: Client, job_id: str) -> str:
    return hashlib.sha256(client.ask("GET", f"/v1/videos/{job_id}/content").body).hexdigest()


@pytest.fixture
def launched() -> Iterator[Launch]:
    """Starts servers; what a test has not stopped is killed at its end."""
    running: list[RealServer] = []

    def launch(*arguments: Any) -> RealServer:
        running.append(RealServer(*arguments))
        return running[-1]

    yield launch
    for server in running:
        if server.process.poll() is None:
            print(server.said[-5000:])
            server.kill()


# Many jobs


@pytest.mark.slow
def test_two_hundred_jobs_of_eight_clients(launched: Launch, tmp_path: Path) -> None:
    jobs, clients = 200, 8
    server = launched(tmp_path / "data", ["--max-jobs", "300"])
    client, memory, done = Client(server.port), {}, []
    lock = threading.Lock()

    def work(number: int) -> list[tuple[str, str]]:
        found = []
        for index in range(jobs // clients):
            prompt = f"a {WORDS[(number + index) % 4]} circle moves left"
            job = finished(client, client.create(prompt=prompt, seed=index, **SMALL)["id"])
            assert job["status"] == "completed", job["error"]
            found.append((f"{prompt} {index}", digest(client, job["id"])))
            with lock:
                done.append(job["id"])
                if len(done) in (20, 100, jobs):
                    memory[len(done)] = server.resident_bytes()
        return found

    begun = time.monotonic()
    with ThreadPoolExecutor(clients) as pool:
        results = [pair for found in pool.map(work, range(clients)) for pair in found]
    seconds = time.monotonic() - begun
    assert len(results) == jobs
    by_request: dict[str, set[str]] = {}
    for request, bits in results:
        by_request.setdefault(request, set()).add(bits)
    assert all(len(bits) == 1 for bits in by_request.values())  # the same request gives the same file
    print(f"\n{jobs} jobs in {seconds:.0f} s; {len(by_request)} different requests")
    for count, found in memory.items():
        print(f"after {count}: " + ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in sorted(found.items())))
    for name, size in memory[20].items():
        assert memory[jobs][name] < 1.05 * size, name
    print("begins computing after", _latencies(client, 10))
    assert server.stop() == 0


def _latencies(client: Client, count: int) -> str:
    """Milliseconds from sending a request to the first stage of its job, where nothing else waits."""
    told: dict[str, float] = {}

    def watch() -> None:
        with urllib.request.urlopen(f"http://127.0.0.1:{client.port}/v1/events") as stream:
            for line in stream:
                if line.startswith(b"data:") and b'"stage": "text' in line:
                    told.setdefault(line.decode().split('"id": "')[1][:30], time.monotonic())

    threading.Thread(target=watch, daemon=True).start()
    time.sleep(0.2)
    found = []
    for seed in range(count):
        begun = time.monotonic()
        job_id = client.create(seed=seed, **SMALL)["id"]
        finished(client, job_id)
        found.append(1000 * (told[job_id] - begun))
    return f"{statistics.median(found):.0f} ms (median), {min(found):.0f} to {max(found):.0f} ms"


# Kills


def killed_at_random(launched: Launch, folder: Path, kills: int, jobs: int, seed: int) -> None:
    """Kill server and worker at random moments; every job must end with the bits of an undisturbed run."""
    source = random.Random(seed)
    server = launched(folder)
    client = Client(server.port)
    wanted = {}
    for index in range(2):
        job = finished(client, client.create(seed=index, **SMALL)["id"])
        wanted[index] = digest(client, job["id"])
    ids = {client.create(seed=index % 2, **SMALL)["id"]: index % 2 for index in range(jobs)}
    for number in range(kills):
        time.sleep(source.uniform(0.0, 2.5))
        if number % 2:
            server.kill()
            server = launched(folder)
            client = Client(server.port)
        elif "worker" in server.children:
            server.children["worker"].kill()
        listed = client.ask("GET", "/v1/videos?limit=100").json["data"]
        assert ids.keys() <= {job["id"] for job in listed}
        assert sum(job["status"] == "in_progress" for job in listed) <= 1
    for job_id, index in ids.items():
        job = finished(client, job_id)
        assert job["status"] == "completed", job
        assert digest(client, job_id) == wanted[index]
    children = server.children
    assert server.stop() == 0
    assert not any(psutil.pid_exists(child.pid) for child in children.values())
    assert {path.name for path in (folder / "jobs").iterdir()} >= ids.keys()
    leftovers = [path for path in (folder / "jobs").glob("*/*") if path.name in ("state", "preview.webp")]
    assert leftovers == []


@pytest.mark.slow
def test_kills_of_server_and_worker_at_twenty_random_moments(launched: Launch, tmp_path: Path) -> None:
    killed_at_random(launched, tmp_path / "data", kills=20, jobs=20, seed=1)


@pytest.mark.slow
def test_a_running_job_stops_within_a_second_and_its_memory_is_free(launched: Launch, tmp_path: Path) -> None:
    server = launched(tmp_path / "data")
    client = Client(server.port)
    job = client.create(size="512x512", num_frames=49)["id"]
    while not client.get(job)["stage"]:
        time.sleep(0.02)
    worker = server.children["worker"]
    begun = time.monotonic()
    assert client.ask("DELETE", f"/v1/videos/{job}").status == 200
    seconds = time.monotonic() - begun
    print(f"\ncancelled in {seconds:.3f} s")
    assert seconds < 1
    assert not worker.is_running()
    assert server.stop() == 0


# Requests that nobody should send


def check(port: int, request: FuzzedRequest) -> int:
    """Send a request as it is, and look at the answer; gives its status, 0 where the connection is simply closed."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.putrequest(request.method, request.path, skip_host="host" in request.headers)
        stated = {"content-length", "transfer-encoding"} & request.headers.keys()
        headers = request.headers | ({} if stated else {"content-length": str(len(request.body))})
        for name, value in headers.items():
            connection.putheader(name, value.encode("latin-1"))
        connection.endheaders(request.body)
        if stated:
            assert connection.sock is not None
            connection.sock.shutdown(socket.SHUT_WR)  # nothing more comes of what was stated
        answer = connection.getresponse()
        is_stream = answer.headers.get("content-type", "").startswith("text/event-stream")
        body = b"" if is_stream else answer.read()
    except (ConnectionError, http.client.BadStatusLine):
        return 0
    finally:
        connection.close()
    assert answer.status < 500 or answer.status == 501, (request, body)
    assert b"Traceback" not in body
    assert b"site-packages" not in body
    return answer.status


def fuzz(port: int, count: int, seed: int, threads: int) -> dict[int, int]:
    """Send many of them; gives how often each status came."""
    found: dict[int, int] = {}
    with ThreadPoolExecutor(threads) as pool:
        for status in pool.map(lambda request: check(port, request), fuzzed_requests(seed, count)):
            found[status] = found.get(status, 0) + 1
    return found


# A form that ends within a file leaves it to the garbage collector, which closes it at once.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_few_hundred_odd_requests(server: Any, tmp_path: Path) -> None:
    found = fuzz(server.port, 400, seed=1, threads=1)
    assert {200, 400, 404} <= found.keys()
    assert {path.name.split("-")[0] for path in tmp_path.iterdir()} == {"jobs", "jobs.sqlite"}
    assert server.client.ask("GET", "/health").status == 200


@pytest.mark.slow
def test_twenty_thousand_odd_requests(launched: Launch, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    server = launched(home / "data", ["--max-jobs", "3", "--max-upload", "1MB", "--max-results", "5MB"], home)
    begun = time.monotonic()
    found = fuzz(server.port, 20000, seed=2, threads=4)
    print(f"\n20000 requests in {time.monotonic() - begun:.0f} s: {dict(sorted(found.items()))}")
    assert Client(server.port).ask("GET", "/health").status == 200
    assert server.stop() == 0
    assert "Traceback" not in server.said, server.said[-3000:]
    outside = [path for path in home.rglob("*") if not path.is_relative_to(home / "data") and path.is_file()]
    assert [path for path in outside if path.name not in ("data.log",) and ".cache" not in path.parts] == []
    inside = {path.name.split("-")[0] for path in (home / "data").iterdir()}
    assert inside <= {"jobs", "jobs.sqlite", "serve.lock", "uploads"}
    assert list((home / "data" / "uploads").iterdir()) == []
