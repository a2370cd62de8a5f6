"""Requests that nobody sends on purpose: damaged, hostile, or merely odd ones, the same for the same seed."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Iterator
from typing import Any, NamedTuple

from ltx2rt.serve.fields import ALIASES, FIELDS, OWN

METHODS = ("GET", "POST", "DELETE", "PUT", "HEAD", "OPTIONS", "PATCH")
NAMES = [*FIELDS, *ALIASES, *OWN, "upload", "prompt_file", "save_wav", "__proto__", "../x", ""]
TEXTS = (
    "",
    "a red circle moves left",
    "../../../../etc/passwd",
    "/etc/passwd",
    "upload:a",
    "upload:../../x",
    "data:image/png;base64,iVBORw0KGgo=",
    "data:,",
    "64x64",
    "999999x999999",
    "1/0",
    "NaN",
    "-1",
    "1e999",
    "9" * 400,
    "\ud800",
    "\0",
    "é" * 50,
    "[[[[",
    '{"a": 1}',
    "<script>alert(1)</script>",
    "%00%2e%2e%2f",
    "'; DROP TABLE jobs; --",
)
VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    9,
    64,
    2**31,
    2**63,
    10**300,
    0.5,
    1e308,
    float("nan"),
    [],
    {},
    [[]],
)
SMALL = {"prompt": "a red circle", "size": "64x64", "num_frames": 9}


class FuzzedRequest(NamedTuple):
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


def fuzzed_requests(seed: int, count: int) -> Iterator[FuzzedRequest]:
    """So many requests."""
    source = random.Random(seed)
    makers = (_json, _json, _form, _bytes, _get, _get, _odd_headers)
    for _ in range(count):
        yield source.choice(makers)(source)


def _value(source: random.Random, depth: int = 0) -> Any:
    kind = source.randrange(8 if depth < 3 else 5)
    if kind < 3:
        return source.choice(TEXTS)
    if kind < 5:
        return source.choice(VALUES)
    if kind == 5:
        return base64.b64encode(source.randbytes(source.randrange(80))).decode()
    if kind == 6:
        return [_value(source, depth + 1) for _ in range(source.randrange(4))]
    keys = ("image", "image_url", "path", "frame", "strength", "crf", "name", "video", "file_id")
    return {source.choice(keys): _value(source, depth + 1) for _ in range(source.randrange(4))}


def _fields(source: random.Random) -> dict[str, Any]:
    """Often a request that would be right but for one field or two."""
    base = dict(SMALL) if source.random() < 0.7 else {}
    return base | {source.choice(NAMES): _value(source) for _ in range(source.randrange(1, 3))}


def _target(source: random.Random) -> str:
    job = source.choice(("video_" + "0" * 24, "video_x", "..", "%2e%2e", "x" * 300, "é", "plan", "\x01"))
    ends = ("", "/content", "/content?variant=sidecar", "/preview", "/remix", "/events", "/x", "/content/../..")
    paths = (
        "/v1/videos",
        "/v1/videos/plan",
        f"/v1/videos/{job}{source.choice(ends)}",
        f"/v1/videos?limit={source.choice(TEXTS)}",
        f"/v1/videos?after={source.choice(TEXTS)}&order=asc",
        f"/v1/models/{job}",
        f"/{source.choice(TEXTS)}",
        "/page.js",
        "/health",
    )
    path = source.choice(paths[:3] if source.random() < 0.6 else paths)
    return "".join(c if 32 < ord(c) < 127 and c not in '"<>' else f"%{ord(c) % 256:02x}" for c in path)


def _json(source: random.Random) -> FuzzedRequest:
    path = source.choice(("/v1/videos", "/v1/videos/plan", _target(source)))
    body = json.dumps(_fields(source)).encode()
    if source.random() < 0.2:
        cut = source.randrange(len(body) + 1)
        body = body[:cut] + source.randbytes(3) + body[cut:]
    return FuzzedRequest("POST", path, {"content-type": "application/json"}, body)


def _form(source: random.Random) -> FuzzedRequest:
    parts = []
    for name, value in _fields(source).items():
        text = value if isinstance(value, str) else json.dumps(value)
        file = f'; filename="{source.choice(TEXTS)}"' if source.random() < 0.3 else ""
        suffix = source.choice(("", "", "[]", "[0]", "[a][b]", "[999][image]", "]", "[", "[[]]"))
        head = f'--b\r\ncontent-disposition: form-data; name="{name}{suffix}"{file}\r\n\r\n{text}\r\n'
        parts.append(head.encode("utf-8", "surrogatepass"))
    body = b"".join(parts) + b"--b--\r\n"
    if source.random() < 0.2:
        body = body[: source.randrange(len(body) + 1)]
    kind = source.choice(
        ("multipart/form-data; boundary=b",) * 6 + ("multipart/form-data", "multipart/form-data; boundary=")
    )
    return FuzzedRequest("POST", source.choice(("/v1/videos", "/v1/videos/plan")), {"content-type": kind}, body)


def _bytes(source: random.Random) -> FuzzedRequest:
    kinds = (
        "application/json",
        "multipart/form-data; boundary=b",
        "application/x-www-form-urlencoded",
        "text/plain",
        "é",
        "",
    )
    kind = source.choice(kinds).encode().decode("latin-1")
    return FuzzedRequest("POST", _target(source), {"content-type": kind}, source.randbytes(source.randrange(400)))


def _get(source: random.Random) -> FuzzedRequest:
    ranges = (
        "bytes=0-",
        "bytes=-1",
        "bytes=5-1",
        "bytes=a-b",
        "bytes=" + ",".join(["0-1"] * 200),
        "lines=1-2",
        "bytes=0-,1-",
    )
    headers = {"range": source.choice(ranges)} if source.random() < 0.3 else {}
    return FuzzedRequest(source.choice(METHODS), _target(source), headers, b"")


def _odd_headers(source: random.Random) -> FuzzedRequest:
    name = source.choice(
        ("host", "origin", "authorization", "content-length", "transfer-encoding", "content-type", "if-range")
    )
    values = (
        "",
        "evil.example",
        "http://evil.example",
        "Bearer x",
        "-1",
        "99999999999",
        "chunked",
        "\xe9",
        "[::1",
        "null",
    )
    return FuzzedRequest(source.choice(METHODS), _target(source), {name: source.choice(values)}, b"")
