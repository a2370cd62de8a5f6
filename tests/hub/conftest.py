"""A local hub and an empty cache for every test, and no token, mirror or proxy of the machine."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants
from local_hub import NAME, LocalHub, Repository, content, local_hub

from ltx2rt.hub.cache import HubCache
from ltx2rt.hub.client import Hub


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LocalHub]:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    # It speaks without encryption: no client reads all the certificates of this machine for it.
    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", lambda *given, **named: None)
    with local_hub() as running:
        running.repositories[NAME] = Repository(
            {
                "config.json": b'{"model_type": "gemma3"}',
                "model.safetensors": content(3_000_000, 1),
                "sub/lora.safetensors": content(70_000, 2),
            }
        )
        yield running
    huggingface_hub.close_session()


@pytest.fixture
def cache(tmp_path: Path) -> HubCache:
    return HubCache(tmp_path / "hub")


@pytest.fixture
def waits() -> list[float]:
    """Seconds that were waited between attempts; nobody waits here."""
    return []


@pytest.fixture
def hub(server: LocalHub, cache: HubCache, waits: list[float]) -> Hub:
    return Hub(cache, server.endpoint, waits.append)
