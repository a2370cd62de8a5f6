"""The self-proof proves what production runs: every pipeline state of the published graphs is in its problems.

``PYTHONPATH=. python tests/metal/published_graphs.py`` writes the list of variants that `ltx2rt verify` checks.
"""

from __future__ import annotations

import functools

import pytest
from published_graphs import Launches, Uses, graphs, recording, used

from ltx2rt import kernels
from ltx2rt.kernels.proof_problems import check_problems
from ltx2rt.kernels.variants import Variant
from ltx2rt.verify.kernels import model_variants


@functools.cache
def proven(variant: Variant) -> Uses:
    """What the problems of the self-proof launch."""
    with recording() as uses:
        for problem in check_problems(variant):
            getattr(kernels, variant.op)(**problem)
    return uses


# Wide graphs, whose variants take minutes in the simulator.
SLOW = ("transformer", "text encoder")


def _marked(name: str) -> object:
    return pytest.param(name, marks=pytest.mark.slow) if name.startswith(SLOW) else name


@pytest.mark.parametrize("name", [_marked(name) for name in graphs()])
def test_the_self_proof_covers_a_published_graph(name: str) -> None:
    uses = used(name)
    assert uses
    listed = {variant for _, variant in model_variants()}
    assert [variant.key for variant in uses if variant not in listed] == []
    for variant, launches in uses.items():
        found = proven(variant)
        assert list(found) == [variant]
        assert launches.missing(found[variant]) == [], variant.key


def test_a_launch_outside_the_self_proof_is_noticed() -> None:
    """Each of what can differ: a function constant, several simdgroups, a threadgroup along another axis."""
    launches = next(iter(used("upscaler ltx-2-temporal-upscaler-x2-1.0").values()))
    pipeline = next(iter(launches.traits))
    other = Launches()
    assert len(launches.missing(other)) == len(launches.traits)
    for known, traits in launches.traits.items():
        other.add(known, frozenset(traits))
    assert launches.missing(other) == []
    other.traits[pipeline].clear()
    assert bool(launches.missing(other)) == bool(launches.traits[pipeline])
    wider = Launches()
    wider.add(pipeline, frozenset({"axis 2", "deep"}))
    (text,) = wider.missing(other)
    assert text == f"{pipeline.kernel} ['axis 2', 'deep']"
