"""The one table of benchmark cases; the command, the plot and the tests read it."""

from __future__ import annotations

from collections.abc import Sequence

from ltx2rt.bench.attention_cases import attention_cases
from ltx2rt.bench.bandwidth_case import MEL_FRAMES, BandwidthCase
from ltx2rt.bench.block_case import block_cases
from ltx2rt.bench.case import Case
from ltx2rt.bench.convolution_cases import convolution_cases
from ltx2rt.bench.decoder_cases import decoder_cases
from ltx2rt.bench.linear_cases import linear_cases
from ltx2rt.bench.norm_cases import norm_cases
from ltx2rt.bench.text_cases import text_cases
from ltx2rt.errors import UsageError


def all_cases() -> list[Case]:
    """Kernels first, then whole model parts."""
    return [
        *linear_cases(),
        *attention_cases(),
        *convolution_cases(),
        *norm_cases(),
        *text_cases(),
        *decoder_cases(),
        BandwidthCase(MEL_FRAMES),
        *block_cases(),
    ]


def select(only: Sequence[str]) -> list[Case]:
    """The cases whose name contains one of the texts; all for no text.

    Raises:
        UsageError: for a text that no case contains.
    """
    cases = all_cases()
    for text in only:
        if not any(text in case.name for case in cases):
            raise UsageError(f"no benchmark case contains {text!r}; ltx2rt bench --list shows their names.")
    return [case for case in cases if not only or any(text in case.name for text in only)]
