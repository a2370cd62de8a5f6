"""For tests in which memory or threads are refused."""

from __future__ import annotations

import os

import pytest

# A sanitizer's runtime is loaded before Python (.ci/sanitize).
SANITIZED = "san" in os.environ.get("LD_PRELOAD", "")
NOT_SANITIZED = pytest.mark.skipif(SANITIZED, reason="sanitizers do not survive refused memory; run it without")
