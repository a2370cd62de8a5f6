"""The child's side of the talk between the server and its processes: one JSON object a line, in and out."""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from typing import Any, BinaryIO


class Lines:
    """Messages from and to the server.

    The process ends at once when the server does, whatever it is computing: then its input is at its end.
    What libraries print to stdout goes to stderr.
    """

    def __init__(self) -> None:
        self._out: BinaryIO = os.fdopen(os.dup(1), "wb", buffering=0)
        os.dup2(2, 1)
        self._lock = threading.Lock()
        self._messages: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        threading.Thread(target=self._read, name="lines", daemon=True).start()

    def receive(self) -> dict[str, Any]:
        """The next message."""
        return self._messages.get()

    def send(self, **message: Any) -> None:
        """Say something to the server."""
        line = json.dumps(message).encode() + b"\n"
        with self._lock:
            self._out.write(line)

    def _read(self) -> None:
        for line in sys.stdin.buffer:
            self._messages.put(json.loads(line))
        os._exit(0)
