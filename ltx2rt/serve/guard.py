"""Who may ask: the key, the host that a browser thinks it talks to, and pages of other sites."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ltx2rt.serve.answers import JsonAnswer
from ltx2rt.serve.refusal import Refusal

# What needs no key: the page, which holds no data and asks for the key, and whether the server lives.
_OPEN = ("/", "/page.js", "/page.css", "/health")
_LOCAL = ("localhost", "127.0.0.1", "::1")
# What the page may do: nothing from elsewhere.
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; media-src 'self' blob:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
}


@dataclass(frozen=True)
class Access:
    """Who may ask.

    Attributes:
        keys: SHA-256 of the keys; empty: none is needed.
        hosts: names under which a browser may know the server; empty: any, where a key is needed.
        origins: sites whose pages may use the API.
    """

    keys: tuple[bytes, ...] = ()
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()

    @classmethod
    def of(cls, host: str, keys: Sequence[str], origins: Sequence[str]) -> Access:
        """For a server that listens on ``host``."""
        hosts = () if keys else tuple({*_LOCAL, host.strip("[]").lower()})
        return cls(tuple(_hash(key.encode()) for key in keys), hosts, tuple(origin.rstrip("/") for origin in origins))

    def has_key(self, headers: Headers) -> bool:
        """Whether a request has one of the keys; takes as long for every wrong one."""
        scheme, _, given = headers.get("authorization", "").partition(" ")
        # Headers are read as Latin-1, whatever their bytes are.
        found = _hash(given.strip().encode("latin-1")) if scheme.lower() == "bearer" else b""
        matches = [hmac.compare_digest(found, key) for key in self.keys]
        return any(matches)


class Guard:
    """Refuses before anything of a request is read, and adds headers to every answer."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refusal = self._refusal(scope)
        if refusal is not None:
            await JsonAnswer(refusal.as_dict(), refusal.status)(scope, receive, answer)
            return
        await self._app(scope, receive, answer)

    def _refusal(self, scope: Scope) -> Refusal | None:
        headers, access = Headers(scope=scope), self._access
        host = headers.get("host", "")
        name = _host_name(host)
        if access.hosts and name not in access.hosts:
            known = ", ".join(sorted(access.hosts))
            text = f"this server is not called {name[:80]!r}; use {known}, or start it with a key."
            return Refusal(None, text, 421, "wrong_host")
        origin = headers.get("origin")
        own = {f"http://{host}", f"https://{host}"}
        if origin is not None and origin not in own and origin not in access.origins:
            return Refusal(None, "pages of other sites may not use this server (--cors-origin).", 403, "wrong_origin")
        if access.keys and scope["path"] not in _OPEN and not access.has_key(headers):
            return Refusal(None, "a key is needed: Authorization: Bearer KEY.", 401, "invalid_api_key")
        return None


def _host_name(host: str) -> str:
    """The name in a Host header."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _hash(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
