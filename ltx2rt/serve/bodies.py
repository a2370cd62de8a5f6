"""Bodies of requests: JSON and forms, within limits, as field -> value."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import IO, Any

from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request
from starlette.types import Message

from ltx2rt.memory.limits import format_bytes
from ltx2rt.serve.asked import MOST_FILES, Upload
from ltx2rt.serve.refusal import Refusal

# JSON lies in memory several times over while it is read.
_LARGEST_JSON = 32 * 10**6
# How many of the largest requests there may be at a time. What each may have besides does not count: small requests
# go on while large ones come in slowly.
_AT_A_TIME = 2
_SMALL = 1 << 16
_MOST_FIELDS = 256
_DEEPEST = 4
_NESTED = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\])*)", re.DOTALL)
_KEY = re.compile(r"\[([^\[\]]*)\]")
_INDEX = re.compile(r"[0-9]{1,3}")


class Intake:
    """Reads bodies, and bounds what those that are being read and looked at take together.

    Args:
        limit: bytes of one request.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._forms = _Room(_AT_A_TIME * limit)  # large files of a form go to the disk as they come
        self._json = _Room(_AT_A_TIME * min(limit, _LARGEST_JSON))

    @asynccontextmanager
    async def fields(self, request: Request) -> AsyncIterator[dict[str, Any]]:
        """The fields of a request with a body that nobody has read. Uploads can be read until the block ends.

        Raises:
            Refusal: it is too large, of another type, or damaged, or others are so large that it has to wait.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind in ("multipart/form-data", "application/x-www-form-urlencoded"):
            with self._forms.body(request, self._limit) as limited:
                form = await limited.form(max_files=MOST_FILES, max_fields=_MOST_FIELDS)
                try:
                    yield _fields_of_form(form)
                finally:
                    await form.close()
        elif kind in ("application/json", ""):
            with self._json.body(request, min(self._limit, _LARGEST_JSON)) as limited:
                yield _fields_of_json(await limited.body())
        else:
            raise Refusal(None, f"a request is JSON or a form, got {kind[:80]!r}.", 415, "unsupported_media_type")


class _Room:
    """What several bodies share: so many bytes, without those that every request may have."""

    def __init__(self, nbytes: int) -> None:
        self._free = nbytes

    @contextmanager
    def body(self, request: Request, limit: int) -> Iterator[Request]:
        """The request, which raises Refusal when its body has more than ``limit`` bytes or than there is room for."""
        refusal = Refusal(
            None,
            f"the request is larger than {format_bytes(limit)}, the most that is taken; send smaller files.",
            413,
            "too_large",
        )
        stated = request.headers.get("content-length", "")
        if stated.isdigit() and int(stated[:20]) > limit:
            raise refusal
        received = taken = 0

        async def receive() -> Message:
            nonlocal received, taken
            message = await request.receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise refusal
            more = max(0, received - _SMALL) - taken
            if more > self._free:
                raise Refusal(None, "other large requests are being read; try again in a moment.", 503, "busy")
            self._free -= more
            taken += more
            return message

        try:
            yield Request(request.scope, receive)
        finally:
            self._free += taken


def _fields_of_json(body: bytes) -> dict[str, Any]:
    try:
        values = json.loads(body) if body.strip() else {}
    except (ValueError, RecursionError) as error:
        raise Refusal(None, f"the body is no JSON: {_first_words(error)}.", 400, "invalid_json") from None
    if not isinstance(values, dict):
        raise Refusal(None, "the body must be a JSON object with the fields of a request.", 400, "invalid_json")
    return values


def _fields_of_form(form: FormData) -> dict[str, Any]:
    """Fields of a form; ``a[b]``, ``a[]`` and ``a[0][b]`` are nested, a name that comes twice makes a list."""
    fields: dict[str, Any] = {}
    for name, value in form.multi_items():
        parts = _NESTED.fullmatch(name)
        keys = [name] if parts is None else [parts[1], *_KEY.findall(parts[2])]
        if len(keys) > _DEEPEST:
            raise Refusal(None, f"the field {name[:80]!r} is nested too deeply.")
        _put(fields, keys, _upload(value) if isinstance(value, UploadFile) else value)
    return {name: _as_lists(value) for name, value in fields.items()}


class _Several(list[Any]):
    """Values of a name that came several times."""


def _put(target: dict[str, Any], keys: list[str], value: Any) -> None:
    """Store a value under nested keys. Lists are dicts with numbers until all is read."""
    key, rest = keys[0], keys[1:]
    if key == "":
        key = _number_of_next(target, rest)
    held = target.get(key)
    if rest:
        inner = target.setdefault(key, {})
        if not isinstance(inner, dict):
            raise Refusal(None, f"the field {key[:80]!r} has a value and parts; give one of them.")
        _put(inner, rest, value)
    elif isinstance(held, dict):
        raise Refusal(None, f"the field {key[:80]!r} has a value and parts; give one of them.")
    elif isinstance(held, _Several):
        held.append(value)
    else:
        target[key] = value if held is None else _Several([held, value])


def _number_of_next(target: dict[str, Any], rest: list[str]) -> str:
    """Which element ``a[][b]`` belongs to: the last one, until it has a ``b``."""
    last = max((int(key) for key in target if _INDEX.fullmatch(key)), default=-1)
    held = target.get(str(last))
    return str(last) if rest and isinstance(held, dict) and rest[0] not in held else str(last + 1)


def _as_lists(value: Any) -> Any:
    """Dicts whose keys are all numbers, as lists."""
    if isinstance(value, _Several):
        return list(value)
    if not isinstance(value, dict):
        return value
    inner = {key: _as_lists(part) for key, part in value.items()}
    if inner and all(_INDEX.fullmatch(key) for key in inner):
        return [inner[key] for key in sorted(inner, key=int)]
    return inner


def _upload(file: UploadFile) -> Upload:
    head = file.file.read(64)
    file.file.seek(0)
    return Upload(_writer(file.file), head)


def _writer(source: IO[bytes]) -> Callable[[Path], int]:
    def write(path: Path) -> int:
        source.seek(0)
        with path.open("xb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
            return target.tell()

    return write


def _first_words(error: Exception) -> str:
    return str(error)[:120] if isinstance(error, ValueError) else "it is nested too deeply"
