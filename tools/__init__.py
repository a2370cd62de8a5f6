"""Programs for those who work on ltx2rt; they run in a checkout's root, as ``python -m tools.NAME``.

That puts the root before all installed packages, and its sources of ltx2rt hold no compiled kernels unless they were
built in place. The installed package comes first.
"""

from __future__ import annotations

import sys
from pathlib import Path

_ROOT = Path(__file__).parents[1]
sys.path.sort(key=lambda place: Path(place).resolve() == _ROOT)
