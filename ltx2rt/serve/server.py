"""Starts and ends the server: its port, its folder, its processes."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import ipaddress
import logging
import os
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from ltx2rt.errors import UsageError, write_failure
from ltx2rt.memory.limits import default_budget, format_bytes
from ltx2rt.memory.measure import resident_bytes
from ltx2rt.serve.app import make_app
from ltx2rt.serve.guard import Access
from ltx2rt.serve.job_queue import DATABASE, JobQueue, Limits

_LOCK, _UPLOADS = "serve.lock", "uploads"  # in the folder of the server, besides what the queue has there
# Of clients, those that watch events included. A program that opens more than these gets 503.
_MOST_CONNECTIONS = 256
# How long answers that are being sent may take once the server is to end.
_LAST_ANSWERS_SECONDS = 3


@dataclass(frozen=True)
class ServerOptions:
    """How a server is started.

    Attributes:
        host, port: where it listens; port 0: a free one.
        folder: of the database and the results.
        files: settings of the weights as JSON values.
        loras: name -> path of the LoRAs that a request may ask for.
        keys: any of them lets in; empty: no key is needed.
        origins: sites whose pages may use the API.
        folders: below which a request may name files of the server.
        memory: bytes for everything; None: most of what is free.
        model: name of the model for clients; None: from its file.
        preview_decoder: file of a tiny decoder for previews.
        limits: see `Limits`.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    folder: Path = Path()
    files: Mapping[str, Any] = field(default_factory=dict)
    loras: Mapping[str, str] = field(default_factory=dict)
    keys: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    folders: tuple[Path, ...] = ()
    memory: int | None = None
    model: str | None = None
    preview_decoder: Path | None = None
    limits: Limits = field(default_factory=Limits)


def run_server(options: ServerOptions, say: Callable[[str], None]) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Args:
        options: see `ServerOptions`.
        say: shows a line to whoever started it.

    Raises:
        UsageError: the address is taken or open to others without a key, another server has the folder, or the
            weights cannot be used.
    """
    if not options.keys and not is_loopback(options.host):
        raise UsageError(
            f"{options.host} can be reached from other machines, so that a key is needed; give --api-key-file FILE, or "
            "--host 127.0.0.1."
        )
    for name in ("python_multipart", "uvicorn.error"):
        logging.getLogger(name).setLevel(logging.ERROR)  # what clients do wrong is answered, and told to nobody else
    with _folder_for_one(options.folder), _bound(options.host, options.port) as listener:
        tempfile.tempdir = str(_emptied(options.folder / _UPLOADS))  # where forms put large files while they come in
        asyncio.run(_serve(options, listener, say))


async def _serve(options: ServerOptions, listener: socket.socket, say: Callable[[str], None]) -> None:
    configuration = {
        "files": dict(options.files),
        "loras": dict(options.loras),
        "model": options.model,
        "preview_decoder": None if options.preview_decoder is None else str(options.preview_decoder.absolute()),
    }
    memory = default_budget() if options.memory is None else options.memory
    queue = JobQueue(options.folder, configuration, options.limits, memory)
    try:
        await queue.start(resident_bytes())
        access = Access.of(options.host, options.keys, options.origins)
        app = make_app(queue, access, loras=tuple(options.loras), folders=options.folders)
        config = uvicorn.Config(
            app,
            http="h11",
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            limit_concurrency=_MOST_CONNECTIONS,
            timeout_graceful_shutdown=_LAST_ANSWERS_SECONDS,
        )
        port = listener.getsockname()[1]
        host = f"[{options.host}]" if ":" in options.host else options.host
        budget = format_bytes(queue.budget)
        say(f"serving {queue.model} at http://{host}:{port}, {budget} for a job; results: {options.folder}")
        await _Server(config, queue).serve([listener])
    except KeyboardInterrupt:
        pass  # uvicorn has ended cleanly, and repeats the signal that it ended for
    finally:
        await queue.stop()


class _Server(uvicorn.Server):
    """A server whose event streams end when it is to end."""

    def __init__(self, config: uvicorn.Config, queue: JobQueue) -> None:
        super().__init__(config)
        self._queue = queue

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._queue.news.close()
        super().handle_exit(sig, frame)


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@contextmanager
def _bound(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host.strip("[]"), port), family=family, backlog=128)
    except OverflowError:
        raise UsageError(f"--port must be 0 to 65535, got {port}.") from None
    except OSError as error:
        reason = {
            errno.EADDRINUSE: "is taken by another program; give another --port",
            errno.EACCES: "needs rights that this user does not have; give a --port above 1023",
        }
        said = reason.get(
            error.errno or 0, f"cannot be used ({error.strerror or error}); give another --host or --port"
        )
        raise UsageError(f"{host}:{port} {said}.") from None
    with listener:
        yield listener


@contextmanager
def _folder_for_one(folder: Path) -> Iterator[None]:
    """The folder exists, and no other server has it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _require_own(folder)
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise write_failure(folder, error) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise UsageError(f"another server uses {folder}; stop it, or give another --data-folder.") from None
    try:
        yield
    finally:
        os.close(lock)


def _require_own(folder: Path) -> None:
    """Raise UsageError for a folder with files that no server has put there: a server removes what it does not know."""
    if (folder / DATABASE).exists():
        return
    other = sorted(path.name for path in folder.iterdir() if not _is_of_first_start(path))
    if other:
        raise UsageError(
            f"--data-folder {folder} has no {DATABASE} but {other[0]}, which it might lose; give an empty folder, or "
            "move that away."
        )


def _is_of_first_start(path: Path) -> bool:
    """Whether a server may have left it that has ended before there was a database."""
    if path.name in ("jobs", _UPLOADS):
        return path.is_dir() and not any(path.iterdir())
    return path.name in (_LOCK, ".DS_Store")


def _emptied(folder: Path) -> Path:
    """A folder without the files that an earlier server has left."""
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    return folder
