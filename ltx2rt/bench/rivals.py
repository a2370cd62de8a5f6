"""Ways of other libraries, which live in ``benchmarks/`` of a checkout and not in the installed package."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ltx2rt.bench.case import Call, Case, Way
from ltx2rt.errors import UsageError

FOLDER = Path("benchmarks") / "torch_rivals"
_MODULE = "ltx2rt_torch_rivals"


class Rivals(Protocol):
    """What the module in `FOLDER` offers."""

    def ways(self, case: Case, inputs: Any, wanted: Sequence[str], /) -> dict[str, Way]:
        """The wanted ways to compute ``case`` from `Prepared.inputs`."""

    def product(self, dtype: str, rows: int, width: int, /) -> Call:
        """A small matrix product, to foresee how long larger ones take."""

    def to_numpy(self, tensor: Any, /) -> np.ndarray[Any, Any]:
        """Float32 values of a result."""

    def set_threads(self, count: int, /) -> None:
        """Threads of the library."""


def load_rivals(checkouts: Sequence[Path] | None = None) -> Rivals:
    """The rivals of the first of the folders that has them.

    Args:
        checkouts: roots of checkouts; by default the current folder and the one that holds the package.

    Raises:
        UsageError: when torch is not installed, or none of the folders is a checkout.
    """
    if importlib.util.find_spec("torch") is None:
        raise UsageError("torch is not installed, so it cannot be compared; pip install 'ltx2rt[parity]'.")
    places = [Path.cwd(), Path(__file__).parents[2]] if checkouts is None else checkouts
    file = next(
        (place / FOLDER / "__init__.py" for place in places if (place / FOLDER / "__init__.py").is_file()), None
    )
    if file is None:
        raise UsageError(
            f"the comparison with torch is not part of the installed package, and there is no {FOLDER.as_posix()} in "
            f"{' or '.join(map(str, places))}; run ltx2rt bench --compare torch in the root of a checkout of ltx2rt."
        )
    spec = importlib.util.spec_from_file_location(_MODULE, file, submodule_search_locations=[str(file.parent)])
    assert spec is not None
    assert spec.loader is not None
    for name in [n for n in sys.modules if n == _MODULE or n.startswith(f"{_MODULE}.")]:
        del sys.modules[name]  # of another checkout
    module: Any = importlib.util.module_from_spec(spec)
    sys.modules[_MODULE] = module  # its files import each other by this name
    spec.loader.exec_module(module)
    rivals: Rivals = module
    return rivals
