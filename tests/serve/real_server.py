"""A server as users start it, in processes of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil


class RealServer:
    """``ltx2rt serve`` with the embedded model.

    Args:
        folder: of its data; what it prints goes to a file beside it.
        words: further options.
        home: current folder, home and place of temporary files of the server; default: those of the test.
    """

    def __init__(self, folder: Path, words: Sequence[str] = (), home: Path | None = None) -> None:
        self._log = folder.with_name(f"{folder.name}.log")
        self._told = self._log.stat().st_size if self._log.exists() else 0
        environment = dict(os.environ)
        if home is not None:
            environment |= {"HOME": str(home), "TMPDIR": str(home)}
        command = [sys.executable, "-m", "ltx2rt.cli", "serve", "--port", "0", "--data-folder", str(folder), *words]
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(command, stderr=log, stdout=log, cwd=home, env=environment)
        self.port = self._found_port()

    @property
    def said(self) -> str:
        """What this one has printed."""
        with self._log.open("rb") as log:
            log.seek(self._told)
            return log.read().decode()

    def _found_port(self) -> int:
        end = time.monotonic() + 120
        while time.monotonic() < end:
            found = re.search(r"serving .* at http://127\.0\.0\.1:(\d+)", self.said)
            if found is not None:
                return int(found[1])
            assert self.process.poll() is None, self.said
            time.sleep(0.02)
        raise AssertionError(self.said)

    @property
    def children(self) -> dict[str, psutil.Process]:
        """``worker`` and ``checker``, as far as they live."""
        found = {}
        for child in psutil.Process(self.process.pid).children():
            words = " ".join(child.cmdline())
            name = re.search(r"ltx2rt\.serve\.(\w+)", words)
            if name is not None:
                found[name[1]] = child
        return found

    def resident_bytes(self) -> dict[str, int]:
        """Of the server and its processes."""
        children = {name: child.memory_info().rss for name, child in self.children.items()}
        return {"server": psutil.Process(self.process.pid).memory_info().rss, **children}

    def kill(self) -> None:
        """As the system does it when memory is out."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM; gives the exit code."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
