"""A stand-in for the processes of a server, which does what a test says; the talk with it is the real one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from ltx2rt.serve.child import ChildEnded

STAGES = [
    {"name": "denoise 1", "peak_bytes": 100, "seconds": 3.0, "how": ""},
    {"name": "video decoder", "peak_bytes": 90, "seconds": 1.0, "how": ""},
]
PLAN = {"stages": STAGES, "peak_bytes": 100, "base_bytes": 10, "budget_bytes": 1000, "seconds": 4.0}
PIPELINE = {
    "name": "text-to-video",
    "reason": "",
    "settings": ["prompt"],
    "defaults": {},
    "summary": "",
    "size": "",
    "output": "video",
}
OFFERED = {"model": "toy", "embedded": True, "generation": "19b", "pipelines": [PIPELINE]}


class ScriptedChild:
    """Has the methods of `ltx2rt.serve.child.Child`.

    Attributes:
        check: what the checker answers to a question.
        runs: what the worker does with each run it gets, one after the other: ``done``, ``crash``, ``wait`` (until it
            is killed), a message that it sends, or a list of messages before it is done. Empty: ``done``.
        started: the ids that were run, in order.
    """

    check: ClassVar[Callable[[dict[str, Any]], dict[str, Any]]]
    runs: ClassVar[list[Any]]
    started: ClassVar[list[str]]
    starts: ClassVar[list[str]]

    @classmethod
    def reset(cls) -> None:
        cls.check = staticmethod(decided)
        cls.runs, cls.started, cls.starts = [], [], []

    def __init__(self, module: str, configuration: dict[str, Any]) -> None:
        self._is_worker = module.endswith("worker")
        self._messages: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self.is_alive = False
        self.pid: int | None = None
        self.resident_bytes = 10

    async def start(self) -> None:
        if self.is_alive:
            return
        self.is_alive, self._messages = True, asyncio.Queue()
        self.starts.append("worker" if self._is_worker else "checker")
        await self._messages.put({"event": "ready"} if self._is_worker else {"ready": OFFERED})

    async def send(self, message: dict[str, Any]) -> None:
        if not self.is_alive:
            raise ChildEnded("signal 9")
        if not self._is_worker:
            await self._messages.put(type(self).check(message))
            return
        self.started.append(message["id"])
        action = self.runs.pop(0) if self.runs else "done"
        stage = {"event": "stage", "id": message["id"], "stage": "denoise 1", "state": "started", "step": 0, "of": 8}
        await self._messages.put({**stage, "seconds_left": None})
        for said in action if isinstance(action, list) else []:
            await self._messages.put({"id": message["id"], **said})
        if action == "crash":
            await self._messages.put(None)
        elif action == "done" or isinstance(action, list):
            finish(Path(message["folder"]))
            await self._messages.put({"event": "done", "id": message["id"]})
        elif action != "wait":
            await self._messages.put({"id": message["id"], **action})

    async def receive(self) -> dict[str, Any]:
        message = await self._messages.get()
        if message is None:
            await self.kill()
            raise ChildEnded("signal 9")
        return message

    async def kill(self) -> None:
        self.is_alive = False
        await self._messages.put(None)


def decided(question: dict[str, Any]) -> dict[str, Any]:
    """What a checker says of a request that can run."""
    found = {"seed": 7, "width": 64, "height": 64, "num_frames": 9, "frame_rate": 24.0, "seconds": 0.375}
    more = {"pipeline": "distilled", "output": "video", "plan": PLAN, "notices": []}
    return {"decided": {**found, **more}}


def finish(folder: Path, **more: Any) -> None:
    """What a worker leaves in the folder of a job."""
    (folder / "clip.mp4").write_bytes(bytes(range(200)))
    (folder / "clip.mp4.json").write_text("{}")
    (folder / "thumbnail.png").write_bytes(b"png")
    result = {
        "clip": "clip.mp4",
        "peak_memory_mb": 1.5,
        "inference_time_s": 2.0,
        "stages": {},
        "has_sound": True,
        **more,
    }
    (folder / "result.json").write_text(json.dumps(result))
