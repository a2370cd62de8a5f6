"""The kernels' tests, on the processor or on the simulated Metal device, with LTX2RT_TEST_KERNELS=metal_sim.

By default those of a test in which each value of its parameters occurs; all combinations are slow tests, which
the sanitizers and the emulated arm64 processor run as well (mark `combination`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from covering import left_out

from ltx2rt import _ext

ROOT = Path(__file__).parents[2]
ON = os.environ.get("LTX2RT_TEST_KERNELS") or "compiled"
if ON not in ("compiled", "metal_sim"):
    raise ValueError(f'LTX2RT_TEST_KERNELS must be "compiled" or "metal_sim" but is "{ON}".')

# Files about the machine layer of the CPU or the choice of kernels.
NOT_OF_KERNELS = ("test_errors", "test_isa", "test_thread_pool", "test_package", "test_kernel_choice")
# Why a test does not hold on a GPU.
EXEMPT = {
    "test_bits_depend_neither_on_threads_nor_on_other_rows": "few rows and many have kernels of their own",
    "test_few_rows_have_the_bits_of_many_with_odd_scales_and_codes": "few rows and many have kernels of their own",
    "test_dtypes_mix": "weights of a wider dtype than x are rounded to that of x",
    "test_many_threads_transform_more_at_a_time_and_keep_the_bits": "threads of the CPU",
    "test_same_bits_for_any_number_of_threads_and_close_without_simd": "threads of the CPU, in new processes",
    "test_threads_with_streams_of_their_own": "the simulated device is called by one thread at a time",
    "test_what_cannot_be_in_memory_is_an_error_of_its_evaluation_alone": "scratch of the CPU kernel",
}
# As large as something that the CPU kernel packs at once: seconds on the simulated device, and nothing special to it.
SIZED_FOR_THE_CPU = (
    "test_keys_beyond_the_packing_budget",
    "test_more_weights_than_are_packed_at_once",
    "test_winograd_in_several_slabs_and_rounds_of_panels",
)


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = [item for item in items if Path(__file__).parent in item.path.parents]
    for item in left_out(here):
        item.add_marker(pytest.mark.slow)
        item.add_marker(pytest.mark.combination)
    for item in here if ON == "metal_sim" else ():
        if item.path.stem in NOT_OF_KERNELS:
            item.add_marker(pytest.mark.skip(reason="not about a kernel that a GPU runs"))
        name = getattr(item, "originalname", item.name)
        if name in SIZED_FOR_THE_CPU:
            item.add_marker(pytest.mark.slow)
        if name in EXEMPT:
            item.add_marker(pytest.mark.skip(reason=EXEMPT[name]))


@pytest.fixture(autouse=True, scope="module")
def _more_than_one_thread() -> Iterator[None]:
    """Also where the processes of the tests have one core each."""
    before = _ext.num_threads()
    _ext.set_num_threads(max(2, before))
    yield
    _ext.set_num_threads(before)


@pytest.fixture(autouse=ON == "metal_sim")
def on_the_simulated_device(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every kernel of the test runs its Metal launch code; findings fail the test, but NaN where it is its subject."""
    for folder in (ROOT, ROOT / "tests/metal"):
        if str(folder) not in sys.path:
            sys.path.append(str(folder))
    from simulated_kernels import simulated_kernels

    subject = any(words in request.node.name for words in ("nan", "no_number", "e4m3_code", "code_of_mxfp8"))
    with simulated_kernels(allow={"nan"} if subject else ()):
        yield
