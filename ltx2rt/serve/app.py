"""The HTTP interface: OpenAI's videos, with plans, events, previews and the page."""

from __future__ import annotations

import errno
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import Route

import ltx2rt
from ltx2rt.errors import OutOfSpace, StateError
from ltx2rt.serve.answers import JsonAnswer
from ltx2rt.serve.asked import Asked, Served, read_asked
from ltx2rt.serve.bodies import Intake
from ltx2rt.serve.fields import FIELDS
from ltx2rt.serve.guard import Access, Guard
from ltx2rt.serve.job_queue import JobQueue
from ltx2rt.serve.job_view import media_type
from ltx2rt.serve.jobs import Job
from ltx2rt.serve.refusal import Refusal
from ltx2rt.serve.zipped import zipped

log = logging.getLogger(__name__)

_PAGE = Path(__file__).parent / "page"
_LONGEST_PAGE = 100
# Comments keep connections open that proxies would close.
_KEEP_ALIVE_SECONDS = 15.0
_SNAPSHOT = 50


class VideosApi:
    """The handlers of requests.

    Args:
        queue: of jobs, started.
        loras, folders: see `Served`.
    """

    def __init__(self, queue: JobQueue, loras: tuple[str, ...], folders: tuple[Path, ...]) -> None:
        self._queue = queue
        self._intake = Intake(queue.limits.upload)
        self._loras = loras
        self._folders = folders

    @property
    def routes(self) -> list[Route]:
        return [
            Route("/", _page("index.html", "text/html; charset=utf-8")),
            Route("/page.js", _page("page.js", "text/javascript; charset=utf-8")),
            Route("/page.css", _page("page.css", "text/css; charset=utf-8")),
            Route("/health", self.health),
            Route("/v1/models", self.models),
            Route("/v1/models/{model}", self.model),
            Route("/v1/options", self.options),
            Route("/v1/events", self.events),
            Route("/v1/videos", self.create, methods=["POST"]),
            Route("/v1/videos", self.list),
            Route("/v1/videos/plan", self.plan, methods=["POST"]),
            Route("/v1/videos/{id}", self.delete, methods=["DELETE"]),
            Route("/v1/videos/{id}", self.get),
            Route("/v1/videos/{id}/content", self.content),
            Route("/v1/videos/{id}/preview", self.preview),
            Route("/v1/videos/{id}/events", self.events),
            Route("/v1/videos/{id}/remix", self.remix, methods=["POST"]),
        ]

    # The server

    async def health(self, request: Request) -> Response:
        return JsonAnswer({**self._queue.health(), "version": ltx2rt.__version__})

    async def models(self, request: Request) -> Response:
        return JsonAnswer({"object": "list", "data": [self._model()]})

    async def model(self, request: Request) -> Response:
        name = request.path_params["model"]
        if name != self._queue.model:
            raise Refusal("model", f"there is no model {name[:80]!r}; it is {self._queue.model}.", 404, "not_found")
        return JsonAnswer(self._model())

    async def options(self, request: Request) -> Response:
        """What a request may say: for pages and programs that make forms of it."""
        limits = self._queue.limits
        return JsonAnswer(
            {
                "model": self._queue.model,
                "embedded": self._queue.offered["embedded"],
                "pipelines": self._queue.offered["pipelines"],
                "fields": [field.as_dict() for field in FIELDS.values()],
                "loras": list(self._loras),
                "limits": {"jobs": limits.jobs, "upload_bytes": limits.upload, "budget_bytes": self._queue.budget},
            }
        )

    def _model(self) -> dict[str, Any]:
        offered = self._queue.offered
        return {
            "id": self._queue.model,
            "object": "model",
            "created": 0,
            "owned_by": "ltx2rt" if offered["embedded"] else "user",
            "generation": offered["generation"],
            "pipelines": [pipeline["name"] for pipeline in offered["pipelines"] if not pipeline["reason"]],
            "loras": list(self._loras),
        }

    # Jobs

    async def create(self, request: Request) -> Response:
        async with self._asked(request) as asked:
            return JsonAnswer(self._queue.view(await self._queue.submit(asked)))

    async def remix(self, request: Request) -> Response:
        """The same request with some fields changed."""
        before = self._job(request)
        async with self._asked(request, Asked.of(before.asked)) as asked:
            return JsonAnswer(self._queue.view(await self._queue.submit(asked, before)))

    async def plan(self, request: Request) -> Response:
        async with self._asked(request) as asked:
            return JsonAnswer({"object": "video.plan", **await self._queue.plan(asked)})

    @asynccontextmanager
    async def _asked(self, request: Request, before: Asked | None = None) -> AsyncIterator[Asked]:
        async with self._intake.fields(request) as values:
            yield read_asked(values, Served(self._queue.model, self._loras, self._folders), before)

    async def list(self, request: Request) -> Response:
        query = request.query_params
        for name in query:
            if name not in ("limit", "after", "order"):
                raise Refusal(name[:80], f"unknown parameter {name[:80]!r}; there are limit, after and order.")
        text, order = query.get("limit", "20"), query.get("order", "desc")
        limit = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
        if not 1 <= limit <= _LONGEST_PAGE:
            raise Refusal("limit", f"limit must be 1 to {_LONGEST_PAGE}, got {text[:80]!r}.")
        if order not in ("asc", "desc"):
            raise Refusal("order", f"order must be asc or desc, got {order[:80]!r}.")
        jobs, has_more = self._queue.page(limit, query.get("after"), newest_first=order == "desc")
        return JsonAnswer(
            {
                "object": "list",
                "data": [self._queue.view(job) for job in jobs],
                "first_id": jobs[0].id if jobs else None,
                "last_id": jobs[-1].id if jobs else None,
                "has_more": has_more,
            }
        )

    async def get(self, request: Request) -> Response:
        return JsonAnswer(self._queue.view(self._job(request)))

    async def delete(self, request: Request) -> Response:
        job = self._job(request)
        await self._queue.delete(job)
        return JsonAnswer({"id": job.id, "object": "video.deleted", "deleted": True})

    async def content(self, request: Request) -> Response:
        job, variant = self._job(request), request.query_params.get("variant", "video")
        folder = self._queue.folder(job)
        pictures = job.decided["output"] == "video"
        clip = folder.clip(pictures=pictures)
        files = {
            "video": (clip, media_type(job)),
            "sidecar": (clip.with_name(f"{clip.name}.json"), "application/json"),
            **({"thumbnail": (folder.thumbnail, "image/png")} if pictures else {}),
            **({"spritesheet": (folder.sheet, "image/png")} if pictures else {}),
        }
        known = (*files, *(("frames",) if pictures else ()))
        if variant not in known:
            raise Refusal("variant", f"variant must be one of {', '.join(known)}, got {variant[:80]!r}.")
        if job.status != "completed":
            raise Refusal("video_id", f"the video is not there: its job is {job.status}.", 404, "not_ready")
        if variant == "frames":
            return _frames(request, job, folder.frames())
        path, kind = files[variant]
        if not path.is_file():
            raise Refusal("variant", f"{variant} has been removed from the server's disk.", 404, "not_found")
        name = f"{job.id}{path.suffix if variant != 'sidecar' else clip.suffix + '.json'}"
        return FileResponse(path, media_type=kind, filename=name, content_disposition_type="inline")

    async def preview(self, request: Request) -> Response:
        path = self._queue.folder(self._job(request)).preview
        try:
            content = path.read_bytes()
        except OSError:
            raise Refusal("video_id", "there is no preview now.", 404, "not_found") from None
        return Response(content, media_type="image/webp", headers={"cache-control": "no-store"})

    # Events

    async def events(self, request: Request) -> Response:
        """Server-sent events: ``job`` with the object after each change, ``preview``, ``deleted``."""
        wanted = self._job(request).id if "id" in request.path_params else None
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        return StreamingResponse(self._events(wanted), media_type="text/event-stream", headers=headers)

    async def _events(self, wanted: str | None) -> AsyncIterator[str]:
        """Everything that there is, then what happens; of one job: until it has ended."""
        async with self._queue.news.subscription() as news:
            if wanted is None:
                jobs, _ = self._queue.page(_SNAPSHOT, None, newest_first=True)
            else:
                jobs = [self._queue.job(wanted)]
            for job in reversed(jobs):
                yield _event("job", self._queue.view(job))
            if wanted is not None and jobs[0].is_finished:
                return
            yield ": connected\n\n"
            while True:
                found = await news.get(_KEEP_ALIVE_SECONDS)
                if found is None:
                    if news.is_closed:
                        return
                    yield ": alive\n\n"
                    continue
                kind, value = found
                if wanted not in (None, value["id"]):
                    continue
                yield _event(kind, value)
                if wanted is not None and (kind == "deleted" or value.get("status") in ("completed", "failed")):
                    return

    def _job(self, request: Request) -> Job:
        return self._queue.job(request.path_params["id"])


def make_app(
    queue: JobQueue, access: Access, *, loras: tuple[str, ...] = (), folders: tuple[Path, ...] = ()
) -> Starlette:
    """The application.

    Args:
        queue: started.
        access: who may ask.
        loras, folders: see `Served`.
    """
    middleware = [Middleware(Guard, access=access)]
    if access.origins:
        # Outermost: a page of an allowed site can read refusals of the guard, too.
        allowed = list(access.origins)
        cors = Middleware(CORSMiddleware, allow_origins=allowed, allow_methods=["*"], allow_headers=["*"])
        middleware.insert(0, cors)
    handlers: dict[Any, Callable[[Request, Any], Awaitable[Response]]] = {
        Refusal: _refused,
        HTTPException: _http_error,
        OutOfSpace: _no_space,
        OSError: _os_error,
        StateError: _no_state,
        ClientDisconnect: _gone,
        Exception: _internal,
    }
    api = VideosApi(queue, loras, folders)
    return Starlette(routes=api.routes, middleware=middleware, exception_handlers=handlers)


def _page(name: str, kind: str) -> Callable[[Request], Awaitable[Response]]:
    async def handler(request: Request) -> Response:
        return Response((_PAGE / name).read_bytes(), media_type=kind, headers={"cache-control": "no-cache"})

    return handler


def _frames(request: Request, job: Job, frames: list[Path]) -> Response:
    """EXR frames as a ZIP."""
    if not frames:
        text = "this clip has no EXR frames: it is not of high dynamic range, or they have been removed from the disk."
        raise Refusal("variant", text, 404, "not_found")
    headers = {"content-disposition": f'inline; filename="{job.id}_frames.zip"'}
    if request.method == "HEAD":
        return Response(media_type="application/zip", headers=headers)
    return StreamingResponse(zipped(frames), media_type="application/zip", headers=headers)


def _event(kind: str, value: dict[str, Any]) -> str:
    return f"event: {kind}\ndata: {json.dumps(value)}\n\n"


async def _refused(request: Request, error: Any) -> Response:
    return JsonAnswer(error.as_dict(), error.status)


async def _http_error(request: Request, error: Any) -> Response:
    text = str(error.detail)[:200]
    refusal = Refusal(None, text, error.status_code, text.lower().replace(" ", "_")[:40])
    return JsonAnswer(refusal.as_dict(), refusal.status, dict(error.headers or {}))


async def _no_space(request: Request, error: Any) -> Response:
    log.warning("%s", error)
    refusal = Refusal(None, "the server's disk is full; try again when there is room.", 507, "disk_full")
    return JsonAnswer(refusal.as_dict(), refusal.status)


async def _os_error(request: Request, error: Any) -> Response:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return await _no_space(request, error)
    return await _internal(request, error)


async def _no_state(request: Request, error: Any) -> Response:
    log.error("%s", error)
    refusal = Refusal(None, "the server cannot use its database; its log says why.", 503, "unavailable")
    return JsonAnswer(refusal.as_dict(), refusal.status)


async def _gone(request: Request, error: Any) -> Response:
    return Response(status_code=400)  # nobody reads it


async def _internal(request: Request, error: Any) -> Response:
    log.error("%s %s", request.method, request.url.path, exc_info=error)
    refusal = Refusal(None, "an error of the server; its log has more.", 500, "internal")
    return JsonAnswer(refusal.as_dict(), refusal.status)
