"""The ledger: the first option that fits, refusals that say what to do, and what a stage really holds."""

from __future__ import annotations

import pytest

from ltx2rt.errors import MemoryBudgetError
from ltx2rt.memory.ledger import Ledger
from ltx2rt.memory.measure import resident_bytes
from ltx2rt.memory.need import Need

MB = 10**6


def test_the_first_option_that_fits_is_chosen() -> None:
    ledger = Ledger(budget=1000 * MB, base=100 * MB)
    options = [Need("a", weights=950 * MB), Need("a", weights=500 * MB), Need("a", weights=100 * MB)]
    assert ledger.choose(options).weights == 500 * MB
    assert ledger.choose([Need("a", weights=880 * MB)]).weights == 880 * MB
    assert [need.weights for need in ledger.needs] == [500 * MB, 880 * MB]
    assert ledger.peak(ledger.needs[0]) == 600 * MB
    assert Ledger(None, base=0).choose([Need("a", weights=10**15)]).weights == 10**15


def test_two_in_a_hundred_are_left_for_what_the_prediction_may_lie_below() -> None:
    ledger = Ledger(budget=1020 * MB, base=100 * MB)
    assert ledger.choose([Need("a", weights=900 * MB + 1), Need("a", weights=900 * MB)]).weights == 900 * MB
    assert ledger.least_budget(ledger.needs[0]) == 1020 * MB


def test_what_stages_leave_counts() -> None:
    ledger = Ledger(budget=1000 * MB, base=100 * MB)
    ledger.carried = 50 * MB
    assert ledger.choose([Need("a", weights=840 * MB), Need("a", weights=800 * MB)]).weights == 800 * MB


def test_a_stage_must_fit_beside_all_weights_that_stay() -> None:
    ledger = Ledger(budget=1020 * MB, base=100 * MB)
    ledger.reserved = 700 * MB
    fast = Need("a", weights=300 * MB, present=100 * MB, kept=50 * MB, activations=201 * MB, keeps=True)
    slow = Need("a", weights=300 * MB, present=100 * MB, kept=50 * MB, activations=200 * MB, keeps=True)
    chosen = ledger.choose([fast, slow])
    assert chosen.activations == 200 * MB
    assert ledger.peak(chosen) == 650 * MB  # while the others are still to come
    assert ledger.least_budget(chosen) == 1020 * MB
    assert chosen.left == 350 * MB
    assert Need("a", weights=300 * MB, kept=50 * MB).left == 0


def test_weights_that_are_there_are_not_wanted_again() -> None:
    now = resident_bytes()
    ledger = Ledger(budget=now + 200 * MB, base=0)
    ledger.admit(Need("a", weights=900 * MB, present=800 * MB, kept=500 * MB, activations=100 * MB, keeps=True))
    with pytest.raises(MemoryBudgetError, match=r"'a' needs 900 MB and the process already takes"):
        ledger.admit(Need("a", weights=900 * MB, kept=500 * MB, keeps=True))


def test_weights_of_earlier_calls_are_no_part_of_the_process() -> None:
    assert abs(Ledger().base - Ledger(kept=20 * MB).base - 20 * MB) < 5 * MB


def test_a_refusal_says_what_is_needed_and_what_to_do() -> None:
    ledger = Ledger(budget=1000 * MB, base=100 * MB)
    options = [
        Need("denoise 2", weights=2000 * MB, advice="lower --height"),
        Need("denoise 2", weights=1100 * MB, slots=300 * MB, advice="lower --height"),
    ]
    with pytest.raises(MemoryBudgetError) as caught:
        ledger.choose(options)
    assert str(caught.value) == (
        "stage 'denoise 2' needs 1.53 GB at the least (the process 100 MB, weights 1.10 GB, slots 300 MB, 2% to spare)"
        ", 530 MB more than the budget of 1.00 GB; lower --height, or give at least --memory 1.6GB."
    )
    assert caught.value.needed_bytes == 1530 * MB
    with pytest.raises(MemoryBudgetError, match=r"give at least --memory 120MB\.$"):
        Ledger(budget=100 * MB, base=0).choose([Need("a", weights=111 * MB)])
    with pytest.raises(MemoryBudgetError, match=r"\(the process 100 MB, 2% to spare\)"):
        Ledger(budget=50 * MB, base=100 * MB).choose([Need("a")])
    with pytest.raises(ValueError, match="at least one way"):
        ledger.choose([])


def test_admission_looks_at_what_is_really_there() -> None:
    now = resident_bytes()
    Ledger(budget=now + 200 * MB, base=0).admit(Need("a", weights=200 * MB))
    with pytest.raises(MemoryBudgetError, match=r"'a' needs 900 MB and the process already takes"):
        Ledger(budget=now + 200 * MB, base=0).admit(Need("a", weights=900 * MB))
    with pytest.raises(MemoryBudgetError, match=r"the .* leaves .*; raise that limit, or take a smaller one\.$"):
        Ledger(budget=None).admit(Need("a", weights=10**15, advice="take a smaller one"))


def test_holding_more_than_was_declared_is_refused_above_the_budget() -> None:
    ledger = Ledger(budget=1000 * MB, base=100 * MB)
    need = Need("a", weights=800 * MB)
    ledger.charge(need, 850 * MB)
    with pytest.raises(MemoryBudgetError, match=r"holds 1.20 GB of weights where 800 MB were planned"):
        ledger.charge(need, 1200 * MB)


def test_the_peak_may_lie_where_weights_are_loaded() -> None:
    need = Need("a", weights=100, activations=10, working=5)
    assert need.while_loading(12) is need
    assert need.while_loading(40).total == 140
