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

# The libraries that can be compared, and the extra that installs each.
EXTRAS = {"torch": "parity", "ggml": "ggml"}


class Rivals(Protocol):
    """What the module in `rivals_folder` offers."""

    def ways(self, case: Case, inputs: Any, wanted: Sequence[str], /) -> dict[str, Way]:
        """The wanted ways to compute ``case`` from `Prepared.inputs`."""

    def product(self, dtype: str, rows: int, width: int, /) -> Call:
        """A small matrix product, to foresee how long larger ones take."""

    def to_numpy(self, tensor: Any, /) -> np.ndarray[Any, Any]:
        """Float32 values of a result."""

    def set_threads(self, count: int, /) -> None:
        """Threads of the library."""


def rivals_folder(library: str) -> Path:
    """Of a checkout: where the ways of ``library`` are."""
    return Path("benchmarks") / f"{library}_rivals"


def load_rivals(library: str, checkouts: Sequence[Path] | None = None) -> Rivals:
    """The rivals of a library of `EXTRAS`, from the first of the folders that has them.

    Args:
        checkouts: roots of checkouts; by default the current folder and the one that holds the package.

    Raises:
        UsageError: when the library is not installed, or none of the folders is a checkout.
    """
    if importlib.util.find_spec(library) is None:
        raise UsageError(
            f"{library} is not installed, so it cannot be compared; pip install 'ltx2rt[{EXTRAS[library]}]'."
        )
    folder = rivals_folder(library)
    places = [Path.cwd(), Path(__file__).parents[2]] if checkouts is None else checkouts
    files = [place / folder / "__init__.py" for place in places]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise UsageError(
            f"the comparison with {library} is not part of the installed package, and there is no {folder.as_posix()} "
            f"in {' or '.join(map(str, places))}; run ltx2rt bench --compare {library} in the root of a checkout of "
            "ltx2rt."
        )
    name = f"ltx2rt_{folder.name}"
    spec = importlib.util.spec_from_file_location(name, file, submodule_search_locations=[str(file.parent)])
    assert spec is not None
    assert spec.loader is not None
    for loaded in [n for n in sys.modules if n == name or n.startswith(f"{name}.")]:
        del sys.modules[loaded]  # of another checkout
    module: Any = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # its files import each other by this name
    spec.loader.exec_module(module)
    rivals: Rivals = module
    return rivals
