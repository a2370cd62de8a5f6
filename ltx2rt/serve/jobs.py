"""Jobs and their states, in a database that survives whatever ends the server."""

from __future__ import annotations

import json
import secrets
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ltx2rt.errors import OutOfSpace, StateError

Status = Literal["queued", "in_progress", "completed", "failed"]
FINISHED = ("completed", "failed")
ID_PREFIX = "video_"
_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    status TEXT NOT NULL,
    created_at REAL NOT NULL,
    started_at REAL,
    completed_at REAL,
    asked TEXT NOT NULL,
    decided TEXT NOT NULL,
    remixed_from TEXT,
    crashes INTEGER NOT NULL DEFAULT 0,
    error TEXT,
    result TEXT
);
CREATE INDEX IF NOT EXISTS jobs_by_status ON jobs (status, number);
"""


@dataclass
class Job:
    """One job.

    Attributes:
        number: order of arrival, which is the order of running.
        id: as clients know it.
        status: what is true of it now.
        created_at, started_at, completed_at: seconds since 1970; ``started_at`` of the latest start.
        asked: the request, see `Asked.as_dict`.
        decided: what became of it before it ran: size, seconds, seed, plan.
        remixed_from: the job that it repeats with changes.
        crashes: how often the worker has ended by itself without getting further with it.
        error: why it failed: ``code`` and ``message``.
        result: what came out: bytes, peak memory, seconds, files.
    """

    number: int
    id: str
    status: Status
    created_at: float
    started_at: float | None
    completed_at: float | None
    asked: dict[str, Any]
    decided: dict[str, Any]
    remixed_from: str | None = None
    crashes: int = 0
    error: dict[str, Any] | None = None
    result: dict[str, Any] = field(default_factory=dict)

    @property
    def is_finished(self) -> bool:
        return self.status in FINISHED


def new_id() -> str:
    return f"{ID_PREFIX}{secrets.token_hex(12)}"


class JobStore:
    """The table of jobs in ``jobs.sqlite``. Every change is on the disk when its method returns, but for `begin`.

    Raises:
        OutOfSpace: the disk is full; the change has not happened.
        StateError: the file is damaged or of another version.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._failures():
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._db.row_factory = sqlite3.Row
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("PRAGMA busy_timeout=5000")
            version = int(self._db.execute("PRAGMA user_version").fetchone()[0])
            if version not in (0, _VERSION):
                raise StateError(
                    f"{path} is of version {version}, this ltx2rt reads {_VERSION}; give another --data-folder."
                )
            self._db.executescript(_SCHEMA)
            self._db.execute(f"PRAGMA user_version={_VERSION}")

    def close(self) -> None:
        self._db.close()

    def add(self, job_id: str, asked: dict[str, Any], decided: dict[str, Any], remixed_from: str | None) -> Job:
        """A new job, queued."""
        self._write(
            "INSERT INTO jobs (id, status, created_at, asked, decided, remixed_from) VALUES (?, 'queued', ?, ?, ?, ?)",
            (job_id, time.time(), json.dumps(asked), json.dumps(decided), remixed_from),
        )
        return self.get(job_id)

    def find(self, job_id: str) -> Job | None:
        rows = self._read("SELECT * FROM jobs WHERE id = ?", (job_id,))
        return _job(rows[0]) if rows else None

    def get(self, job_id: str) -> Job:
        """A job that is there; KeyError otherwise."""
        job = self.find(job_id)
        if job is None:
            raise KeyError(job_id)
        return job

    def page(self, limit: int, after: str | None, *, newest_first: bool) -> tuple[list[Job], bool]:
        """Some jobs by arrival, and whether there are more; KeyError for an ``after`` that is not there."""
        order, compare = ("DESC", "<") if newest_first else ("ASC", ">")
        where, values = "", tuple[Any, ...]()
        if after is not None:
            where, values = f"WHERE number {compare} ?", (self.get(after).number,)
        rows = self._read(f"SELECT * FROM jobs {where} ORDER BY number {order} LIMIT ?", (*values, limit + 1))
        return [_job(row) for row in rows[:limit]], len(rows) > limit

    def with_status(self, *statuses: Status) -> list[Job]:
        """Every job in one of these states, by arrival."""
        marks = ", ".join("?" * len(statuses))
        return [
            _job(row) for row in self._read(f"SELECT * FROM jobs WHERE status IN ({marks}) ORDER BY number", statuses)
        ]

    def count(self, *statuses: Status) -> int:
        marks = ", ".join("?" * len(statuses))
        return int(self._read(f"SELECT count(*) FROM jobs WHERE status IN ({marks})", statuses)[0][0])

    def position(self, job: Job) -> int:
        """How many jobs run before a queued one."""
        query = "SELECT count(*) FROM jobs WHERE status IN ('queued', 'in_progress') AND number < ?"
        return int(self._read(query, (job.number,))[0][0])

    def ids(self) -> set[str]:
        return {str(row[0]) for row in self._read("SELECT id FROM jobs", ())}

    def begin(self, job_id: str) -> None:
        """The worker gets it, which does not wait for the disk: a job that is queued after a power cut begins again."""
        with self._failures():
            self._db.execute("PRAGMA synchronous=NORMAL")
            try:
                change = "UPDATE jobs SET status = 'in_progress', started_at = ? WHERE id = ?"
                self._write(change, (time.time(), job_id))
            finally:
                self._db.execute("PRAGMA synchronous=FULL")

    def put_back(self, job_id: str, crashes: int) -> None:
        """It is not being computed any more, and will be."""
        self._write("UPDATE jobs SET status = 'queued', crashes = ? WHERE id = ?", (crashes, job_id))

    def complete(self, job_id: str, result: dict[str, Any]) -> None:
        self._write(
            "UPDATE jobs SET status = 'completed', completed_at = ?, result = ?, error = NULL WHERE id = ?",
            (time.time(), json.dumps(result), job_id),
        )

    def fail(self, job_id: str, code: str, message: str) -> None:
        self._write(
            "UPDATE jobs SET status = 'failed', completed_at = ?, error = ? WHERE id = ?",
            (time.time(), json.dumps({"code": code, "message": message}), job_id),
        )

    def delete(self, job_id: str) -> None:
        self._write("DELETE FROM jobs WHERE id = ?", (job_id,))

    def _read(self, query: str, values: tuple[Any, ...]) -> list[sqlite3.Row]:
        with self._failures():
            return self._db.execute(query, values).fetchall()

    def _write(self, query: str, values: tuple[Any, ...]) -> None:
        with self._failures():
            self._db.execute(query, values)

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if "full" in str(error) or "disk I/O" in str(error):
                raise OutOfSpace(f"{self._path} cannot be written ({error}); make room on the disk.") from error
            raise StateError(f"{self._path} cannot be used ({error}); give another --data-folder.") from error
        except sqlite3.DatabaseError as error:
            raise StateError(
                f"{self._path} is damaged ({error}); move it away with the folder jobs beside it, where results are."
            ) from error


def _job(row: sqlite3.Row) -> Job:
    values = dict(row)
    for name in ("asked", "decided", "error", "result"):
        values[name] = None if values[name] is None else json.loads(values[name])
    values["result"] = values["result"] or {}
    return Job(**values)
