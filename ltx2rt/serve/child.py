"""The server's side of its processes: starting, talking, and ending them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from typing import Any

import psutil

# A message may hold a plan and a text of a user.
_LONGEST_LINE = 16 << 20


class ChildEnded(Exception):
    """The process is gone. ``how`` says in words how it ended."""

    def __init__(self, how: str) -> None:
        super().__init__(how)
        self.how = how


class Child:
    """A process of the server, in a process group of its own so that Ctrl-C in a terminal does not reach it."""

    def __init__(self, module: str, configuration: dict[str, Any]) -> None:
        self._module = module
        self._configuration = configuration
        self._process: asyncio.subprocess.Process | None = None

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None and self.is_alive else None

    @property
    def resident_bytes(self) -> int:
        """Memory that it takes now; 0 where it does not run."""
        if self.pid is None:
            return 0
        try:
            return int(psutil.Process(self.pid).memory_info().rss)
        except psutil.Error:
            return 0

    async def start(self) -> None:
        """Start it unless it runs; returns before it is ready."""
        if self.is_alive:
            return
        words = (sys.executable, "-m", self._module)
        self._process = await asyncio.create_subprocess_exec(
            *words,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_LONGEST_LINE,
            start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        await self.send(self._configuration)

    async def send(self, message: dict[str, Any]) -> None:
        """Send a message; ChildEnded where it cannot be read any more."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(message).encode() + b"\n")
            await process.stdin.drain()
        except OSError:
            raise ChildEnded(await self._end()) from None

    async def receive(self) -> dict[str, Any]:
        """The next message; ChildEnded where none will come."""
        process = self._process
        assert process is not None
        assert process.stdout is not None
        line = await process.stdout.readline()
        if not line.endswith(b"\n"):
            raise ChildEnded(await self._end())
        message: dict[str, Any] = json.loads(line)
        return message

    async def kill(self) -> None:
        """End it at once; its memory is free when this returns."""
        process = self._process
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()

    async def _end(self) -> str:
        """Wait until it is gone, and say how it ended."""
        await self.kill()
        assert self._process is not None
        code = self._process.returncode or 0
        return f"signal {-code}" if code < 0 else f"exit code {code}"
