"""The queue: jobs run one after the other in a worker process, whatever happens to it or to the server."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltx2rt.errors import OutOfSpace, StateError, UsageError
from ltx2rt.serve.asked import Asked
from ltx2rt.serve.broadcast import Broadcast
from ltx2rt.serve.child import Child, ChildEnded
from ltx2rt.serve.job_folder import JobFolder
from ltx2rt.serve.job_view import job_view
from ltx2rt.serve.jobs import ID_PREFIX, Job, JobStore, new_id
from ltx2rt.serve.live import Live
from ltx2rt.serve.refusal import Refusal

log = logging.getLogger(__name__)

DATABASE = "jobs.sqlite"
# A job that ends its worker so often without getting further ends the next one, too.
_MOST_CRASHES = 5
# How long a check may take, in seconds: uploads are opened, nothing is computed.
_CHECK_SECONDS = 120.0
# Between two looks at a full disk, and at what is too old.
_RETRY_SECONDS, _TIDY_SECONDS = 5.0, 600.0
# Errors of a worker that a fresh one may not meet.
_WORTH_A_FRESH_WORKER = ("memory",)


@dataclass(frozen=True)
class Limits:
    """What the server takes and keeps.

    Attributes:
        jobs: unfinished ones.
        upload: bytes of a request.
        age: seconds that a finished job is kept; None: without end.
        results: bytes of finished jobs; None: without end.
        idle: seconds without a job after which the worker ends and its memory is free; None: never.
    """

    jobs: int = 100
    upload: int = 256 * 10**6
    age: float | None = None
    results: int | None = None
    idle: float | None = 900.0


class JobQueue:
    """Jobs and the processes that check and compute them.

    Args:
        folder: of the database and the results.
        configuration: of the processes: ``files``, ``loras``, ``model``.
        limits: see `Limits`.
        memory: bytes for the server and all of its processes.
    """

    def __init__(self, folder: Path, configuration: Mapping[str, Any], limits: Limits, memory: int) -> None:
        self.limits = limits
        self.memory = memory
        self.budget = memory
        self.offered: dict[str, Any] = {}
        self.news = Broadcast()
        self._folder = folder / "jobs"
        self._folder.mkdir(exist_ok=True)
        self._store = JobStore(folder / DATABASE)
        self._worker = Child("ltx2rt.serve.worker", dict(configuration))
        self._checker = Child("ltx2rt.serve.checker", dict(configuration))
        self._checking = asyncio.Lock()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._running: str | None = None
        self._live: Live | None = None
        self._fresh: set[str] = set()  # jobs that have had a second worker because of their memory
        self._early_ends = 0  # of workers one after the other, before they said anything about their job
        self._idle_since = time.monotonic()
        self._is_cold = False  # the worker has ended because there was nothing to do
        self.trouble = ""

    # Beginning and end

    async def start(self, own_bytes: int) -> None:
        """Take up what an earlier server has left, and begin to work.

        Args:
            own_bytes: memory of the server process.

        Raises:
            UsageError, CheckpointError: the weights cannot be used.
        """
        for job in self._store.with_status("in_progress"):
            self._store.put_back(job.id, job.crashes)
        known = self._store.ids()
        for path in self._folder.iterdir():
            if (
                path.name.startswith(ID_PREFIX) and path.name not in known
            ):  # of a request that was broken off, or of a job that was deleted
                await asyncio.to_thread(JobFolder(self._folder, path.name).remove)
        await self._start_checker()
        self.budget = self.memory - own_bytes - self._checker.resident_bytes
        if self.budget <= 0:
            raise UsageError(
                f"--memory {self.memory} is less than the server takes without a job, "
                f"{self.memory - self.budget} bytes; give more."
            )
        await self._worker.start()
        self._task = asyncio.create_task(self._run())

    async def _start_checker(self) -> None:
        await self._checker.start()
        try:
            message = await self._checker.receive()
        except ChildEnded as ended:
            raise UsageError(f"the weights cannot be opened ({ended.how}); the lines above say why.") from None
        if "failed" in message:
            raise UsageError(message["failed"])
        self.offered = message["ready"]

    async def stop(self) -> None:
        """End the processes; the running job goes on when the next server starts."""
        self.news.close()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await asyncio.gather(self._worker.kill(), self._checker.kill())
        for job in self._store.with_status("in_progress"):
            self._store.put_back(job.id, job.crashes)
        self._store.close()

    # What clients ask for

    @property
    def model(self) -> str:
        return str(self.offered["model"])

    def health(self) -> dict[str, Any]:
        """What the server is doing."""
        return {
            "status": "ok",
            "trouble": self.trouble,
            "queue_length": self._store.count("queued", "in_progress"),
            "running": self._running,
            "worker": "busy" if self._running else "warm" if self._worker.is_alive else "cold",
            "memory_bytes": self.memory,
            "job_budget_bytes": self.budget,
            "worker_bytes": self._worker.resident_bytes,
            "checker_bytes": self._checker.resident_bytes,
        }

    @property
    def worker_pid(self) -> int | None:
        return self._worker.pid

    async def submit(self, asked: Asked, repeated: Job | None = None) -> Job:
        """A new job.

        Raises:
            Refusal: it cannot work, does not fit, or there are too many.
            OutOfSpace: the disk is full.
        """
        self._require_room()
        job_id = new_id()
        folder = JobFolder(self._folder, job_id)
        decided = await self._prepare(asked, folder, repeated)
        stored = asked.as_dict()
        if decided.get("seed") is not None:
            stored["settings"]["seed"] = decided["seed"]  # drawn once, whatever happens later
        try:
            self._require_room()  # others may have come while this one was looked at
            job = self._store.add(job_id, stored, decided, None if repeated is None else repeated.id)
        except BaseException:
            await asyncio.to_thread(folder.remove)
            raise
        self._tell(job)
        self._wake.set()
        return job

    def _require_room(self) -> None:
        """Raise Refusal where so many jobs wait that there may be no further one."""
        if self._store.count("queued", "in_progress") >= self.limits.jobs:
            raise Refusal(None, f"{self.limits.jobs} jobs are waiting already; try again later.", 429, "queue_full")

    async def plan(self, asked: Asked, repeated: Job | None = None) -> dict[str, Any]:
        """What a request would come to; nothing stays of it."""
        folder = JobFolder(self._folder, new_id())
        try:
            return await self._prepare(asked, folder, repeated)
        finally:
            await asyncio.to_thread(folder.remove)

    async def _prepare(self, asked: Asked, folder: JobFolder, repeated: Job | None) -> dict[str, Any]:
        """Store the inputs and check the request; the folder is gone where that fails."""
        try:
            await asyncio.to_thread(folder.create, asked.files)
            if repeated is not None:
                taken = asked.inputs - asked.files.keys()
                await asyncio.to_thread(folder.take_inputs_of, JobFolder(self._folder, repeated.id), taken)
            return await self._check(asked, folder)
        except BaseException:
            await asyncio.to_thread(folder.remove)
            raise

    async def _check(self, asked: Asked, folder: JobFolder) -> dict[str, Any]:
        question = {"asked": asked.as_dict(), "folder": str(folder.path), "budget": self.budget}
        async with self._checking:
            try:
                if not self._checker.is_alive:
                    await self._start_checker()
                await self._checker.send(question)
                answer = await asyncio.wait_for(self._checker.receive(), _CHECK_SECONDS)
            except ChildEnded as ended:
                text = f"the files of this request ended the process that looks at them ({ended.how}); send others."
                raise Refusal(None, text) from None
            except asyncio.TimeoutError:
                await self._checker.kill()
                text = f"looking at this request took longer than {_CHECK_SECONDS:g} seconds; send smaller files."
                raise Refusal(None, text) from None
            except asyncio.CancelledError:
                await self._checker.kill()  # whose answer nobody would read
                raise
        if "refused" in answer:
            said = answer["refused"]
            raise Refusal(said["param"], said["message"], 400, said["code"], said["more"])
        decided: dict[str, Any] = answer["decided"]
        return decided

    def job(self, job_id: str) -> Job:
        """A job; Refusal 404 where there is none."""
        job = self._store.find(job_id)
        if job is None:
            raise Refusal("video_id", f"there is no video {job_id[:80]!r}; it may have been deleted.", 404, "not_found")
        return job

    def page(self, limit: int, after: str | None, *, newest_first: bool) -> tuple[list[Job], bool]:
        """Some jobs, and whether there are more; Refusal for an ``after`` that is not there."""
        try:
            return self._store.page(limit, after, newest_first=newest_first)
        except KeyError:
            raise Refusal("after", f"there is no video {after!r}; leave after out.") from None

    def view(self, job: Job) -> dict[str, Any]:
        """A job as clients see it."""
        live = self._live if job.id == self._running else None
        position = self._store.position(job) if job.status == "queued" else 0
        return job_view(job, self.model, live=live, position=position, max_age=self.limits.age)

    def folder(self, job: Job) -> JobFolder:
        return JobFolder(self._folder, job.id)

    async def delete(self, job: Job) -> None:
        """Forget a job and its files; one that runs stops at once, and its memory is free."""
        self._store.delete(job.id)
        if self._running == job.id:
            await self._worker.kill()
        await asyncio.to_thread(self.folder(job).remove)
        self.news.send("deleted", job.id, {"id": job.id})
        self._wake.set()

    # Working

    async def _run(self) -> None:
        tidied = 0.0
        while True:
            try:
                if time.monotonic() - tidied > _TIDY_SECONDS:
                    await self._tidy()
                    tidied = time.monotonic()
                waiting = self._store.with_status("in_progress", "queued")
                if waiting:
                    await self._run_job(waiting[0])
                    await self._tidy()
                    self.trouble = ""
                    continue
                await self._wait_for_work()
            except (OutOfSpace, StateError) as error:
                self.trouble = str(error)
                log.warning("%s", error)
                await asyncio.sleep(_RETRY_SECONDS)
            except Exception:  # one job's error must not end the queue of the others
                self.trouble = "an error of the program; the server's log has it"
                log.exception("the queue goes on after an error")
                await asyncio.sleep(_RETRY_SECONDS)

    async def _wait_for_work(self) -> None:
        """Sleep until there is a job; a worker that waits too long ends."""
        if not self._worker.is_alive and not self._is_cold:
            await self._worker.start()  # so that the next job begins at once
        self._wake.clear()
        left = math.inf  # until the worker ends
        if self._worker.is_alive and self.limits.idle is not None:
            left = self._idle_since + self.limits.idle - time.monotonic()
        try:
            await asyncio.wait_for(self._wake.wait(), min(max(left, 0.0), _TIDY_SECONDS))
        except asyncio.TimeoutError:
            if left <= _TIDY_SECONDS and self._worker.is_alive:
                self._is_cold = True
                await self._worker.kill()

    async def _run_job(self, job: Job) -> None:
        """Run a job to its end, or to that of the worker."""
        folder = self.folder(job)
        if (result := folder.finished()) is not None:
            self._complete(job, folder, result)
            return
        self._is_cold = False
        live = Live(job.decided["plan"])
        self._running, self._live = job.id, live
        begun = False
        try:
            await self._worker.start()
            self._store.begin(job.id)
            self._tell(job)
            await self._worker.send(
                {
                    "id": job.id,
                    "asked": job.asked,
                    "folder": str(folder.path),
                    "budget": self.budget,
                    "frame_rate": job.decided.get("frame_rate"),
                    "spare": self.budget - job.decided["plan"]["peak_bytes"],
                }
            )
            while True:
                message = await self._worker.receive()
                if message.get("id") != job.id:
                    continue
                begun, self._early_ends = True, 0
                if message["event"] == "stage":
                    live.observe(message)
                    self._tell(job)
                elif message["event"] == "preview":
                    live.previews += 1
                    self.news.send("preview", job.id, {"number": live.previews, **message})
                    self._tell(job)
                else:
                    break
            if message["event"] == "done":
                found = folder.finished()
                assert found is not None
                self._complete(job, folder, found)
            else:
                await self._failed(job, message)
        except ChildEnded as ended:
            self._early_ends += not begun
            counts = begun or self._early_ends > _MOST_CRASHES
            self._crashed(job, folder, ended, crashes=0 if live.moved else job.crashes + counts)
        finally:
            self._running = self._live = None
            self._idle_since = time.monotonic()

    def _complete(self, job: Job, folder: JobFolder, result: dict[str, Any]) -> None:
        folder.drop_leftovers()
        self._fresh.discard(job.id)
        self._store.complete(job.id, {**result, "bytes": folder.nbytes()})
        self._tell(job, live=False)

    async def _failed(self, job: Job, message: Mapping[str, Any]) -> None:
        """The worker says why it cannot go on with a job."""
        if message["code"] == "disk_full":
            self._store.put_back(job.id, job.crashes)
            self._tell(job, live=False)
            raise OutOfSpace(message["message"])
        if message["code"] in _WORTH_A_FRESH_WORKER and job.id not in self._fresh:
            self._fresh.add(job.id)
            await self._worker.kill()
            self._store.put_back(job.id, job.crashes)
        else:
            self._fresh.discard(job.id)
            self._store.fail(job.id, message["code"], message["message"])
            self.folder(job).drop_leftovers()
        self._tell(job, live=False)

    def _crashed(self, job: Job, folder: JobFolder, ended: ChildEnded, *, crashes: int) -> None:
        """The worker is gone: killed because the job was deleted, or by somebody else."""
        if self._store.find(job.id) is None:
            return
        if (result := folder.finished()) is not None:
            self._complete(job, folder, result)
            return
        log.warning("the worker has ended (%s) while it ran %s", ended.how, job.id)
        if crashes >= _MOST_CRASHES:
            text = f"the worker ended {crashes} times without getting further ({ended.how}); it may be out of memory"
            self._store.fail(job.id, "worker_ended", text)
            folder.drop_leftovers()
        else:
            self._store.put_back(job.id, crashes)
        self._tell(job, live=False)

    async def _tidy(self) -> None:
        """Remove what is older or more than may be kept, the oldest first."""
        limits = self.limits
        if limits.age is None and limits.results is None:
            return
        finished = self._store.with_status("completed", "failed")
        total = sum(job.result.get("bytes", 0) for job in finished)
        for job in sorted(finished, key=lambda job: job.completed_at or 0):
            too_old = limits.age is not None and (job.completed_at or 0) + limits.age < time.time()
            if too_old or (limits.results is not None and total > limits.results):
                total -= job.result.get("bytes", 0)
                await self.delete(job)

    def _tell(self, job: Job, *, live: bool = True) -> None:
        """News of a job; ``live``: it runs."""
        if not self.news.has_readers:
            return
        found = self._store.find(job.id)
        if found is None:
            return
        if not live:
            self._live = None
        self.news.send("job", job.id, self.view(found))
