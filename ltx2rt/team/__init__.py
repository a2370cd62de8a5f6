"""Several machines that make one clip together, through MLX's distributed engine.

The package is at the same time the function ``ltx2rt.team`` of the Python interface: calling it joins the group that
the environment asks for.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ltx2rt.team.team import Split, Team


class _Package(ModuleType):
    def __call__(
        self,
        patience: float = 600.0,
        split: Split = "auto",
        allow_mixed: bool = False,
        shares: Sequence[float] = (),
    ) -> Team | None:
        """Join the group of machines that the environment asks for.

        Args:
            patience: seconds after which a machine that says nothing counts as lost.
            split: what the machines share: the guidance ``passes`` of a step, the ``tokens`` of the video in every
                pass, or ``both``: groups of machines share passes, and the machines of a group the tokens. ``auto``:
                the passes where there are at least as many as machines, else what takes least time.
            allow_mixed: machines with other processors, GPUs or kernels may take part. The bits of a clip then depend
                on which machine computes what.
            shares: how fast each machine is beside the others, that of machine 0 first: twice the number, twice the
                tokens, or more passes; empty: all are alike. Those of the machine that leads count.

        Returns:
            The team, to be closed at the end or used in a ``with`` block; None where the environment asks for no group
            or for one of a single machine.

        Raises:
            UsageError: the variables, the file of hosts or an argument cannot work.
            MachineLost: a machine did not come.
        """
        from ltx2rt.team.team import Rules, Team  # ordinary runs, which know the package alone, load nothing of it

        return Team.connect(patience, Rules(split, allow_mixed, shares))


sys.modules[__name__].__class__ = _Package
