"""Servers for tests: one in this process whose children are scripted, and what a client needs to talk to it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette", reason="needs pip install 'ltx2rt[serve]'")
pytest.importorskip("uvicorn", reason="needs pip install 'ltx2rt[serve]'")

import uvicorn
from api_client import Client
from scripted_child import ScriptedChild

from ltx2rt.serve import job_queue
from ltx2rt.serve.app import make_app
from ltx2rt.serve.guard import Access
from ltx2rt.serve.job_queue import JobQueue, Limits

LOCAL = Access.of("127.0.0.1", [], [])


class LocalServer:
    """The application in a thread of this process."""

    def __init__(self, folder: Path, limits: Limits, access: Access, **offered: Any) -> None:
        self._folder, self._limits, self._access, self._offered = folder, limits, access, offered
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()
        assert self._ready.wait(10)
        self.client = Client(self.port)

    async def _run(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.queue = JobQueue(self._folder, {}, self._limits, 10**9)
        await self.queue.start(0)
        app = make_app(self.queue, self._access, **self._offered)
        self._server = uvicorn.Server(
            uvicorn.Config(app, port=0, ws="none", lifespan="off", log_config=None, timeout_graceful_shutdown=1)
        )
        serving = asyncio.create_task(self._server.serve())
        while not self._server.started:
            await asyncio.sleep(0.005)
        self.port = self._server.servers[0].sockets[0].getsockname()[1]
        self._ready.set()
        await serving
        await self.queue.stop()

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(10)
        assert not self._thread.is_alive()


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch) -> type[ScriptedChild]:
    ScriptedChild.reset()
    monkeypatch.setattr(job_queue, "Child", ScriptedChild)
    monkeypatch.setattr(job_queue, "_RETRY_SECONDS", 0.02)
    return ScriptedChild


@pytest.fixture
def start(child: type[ScriptedChild], tmp_path: Path) -> Iterator[Any]:
    """Starts servers, all with the same folder."""
    running: list[LocalServer] = []

    def begin(limits: Limits = Limits(), access: Access = LOCAL, **offered: Any) -> LocalServer:  # noqa: B008  # frozen
        running.append(LocalServer(tmp_path, limits, access, **offered))
        return running[-1]

    yield begin
    for server in running:
        if server._thread.is_alive():
            server.stop()


@pytest.fixture
def server(start: Any) -> LocalServer:
    made: LocalServer = start()
    return made


@pytest.fixture
def client(server: LocalServer) -> Client:
    return server.client
