"""News for whoever watches: only the latest of each kind is kept for a reader that is slow."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

News = tuple[str, dict[str, Any]]


class Subscription:
    """What one reader has not read yet."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[tuple[str, str], dict[str, Any]] = OrderedDict()
        self._arrived = asyncio.Event()
        self.is_closed = False

    def put(self, kind: str, job_id: str, value: dict[str, Any]) -> None:
        self._waiting.pop((kind, job_id), None)
        self._waiting[kind, job_id] = value
        self._arrived.set()

    def close(self) -> None:
        """Nothing more will come."""
        self.is_closed = True
        self._arrived.set()

    async def get(self, timeout: float) -> News | None:
        """The next news; None: there was none for so many seconds, or there will be none."""
        if not self._waiting and not self.is_closed:
            try:
                await asyncio.wait_for(self._arrived.wait(), timeout)
            except asyncio.TimeoutError:
                return None
        if not self._waiting:
            return None
        (kind, _), value = self._waiting.popitem(last=False)
        if not self._waiting and not self.is_closed:
            self._arrived.clear()
        return kind, value


class Broadcast:
    """Sends news to all subscriptions."""

    def __init__(self) -> None:
        self._subscriptions: set[Subscription] = set()

    @asynccontextmanager
    async def subscription(self) -> AsyncIterator[Subscription]:
        """News from here on."""
        mine = Subscription()
        self._subscriptions.add(mine)
        try:
            yield mine
        finally:
            self._subscriptions.discard(mine)

    @property
    def has_readers(self) -> bool:
        return bool(self._subscriptions)

    def send(self, kind: str, job_id: str, value: dict[str, Any]) -> None:
        for subscription in self._subscriptions:
            subscription.put(kind, job_id, value)

    def close(self) -> None:
        for subscription in self._subscriptions:
            subscription.close()
