"""Every instruction set of this build that this machine has: self-check, choice, and the other kernel tests with it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ltx2rt import _ext

HERE = Path(__file__).parent
USABLE = [name for name, state in _ext.isas() if not state.startswith("not supported")]
OTHERS = [name for name in USABLE if name != _ext.isa()]
KERNEL_TESTS = [
    "test_quantized_linear",
    "test_neighborhood_attention",
    "test_rope_attention",
    "test_causal_conv3d",
    "test_modulated_norm",
    "test_antialiased_snake",
]


def test_the_set_in_use_is_reported_and_the_portable_one_is_always_there():
    states = dict(_ext.isas())
    assert states[_ext.isa()].startswith("in use")
    assert sum(state.startswith("in use") for state in states.values()) == 1
    assert "portable" in states


@pytest.mark.parametrize("isa", USABLE)
def test_kernels_compute_what_the_portable_ones_do(isa):
    assert _ext.kernel_fault(isa) == ""


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("multiply", "multiply f32["),
        ("codes", "multiply codes has other sums"),
        ("finish", "finish["),
        ("norm", "modulated_norm["),
        ("attention", "rope_attention["),
        ("neighborhood", "neighborhood_attention["),
        ("conv", "causal_conv3d["),
        ("winograd", "causal_conv3d in Winograd form["),
        ("snake", "antialiased_snake["),
    ],
)
@pytest.mark.parametrize("isa", USABLE)
def test_the_self_check_sees_a_broken_part(isa, part, message):
    assert _ext.kernel_fault(isa, part).startswith(message)


@pytest.mark.parametrize("isa", [isa for isa in USABLE if "bf16" in isa])
def test_the_self_check_sees_broken_products_of_pairs(isa):
    assert _ext.kernel_fault(isa, "pairs").startswith("multiply bf16 pairs[")
    assert _ext.kernel_fault(isa, "attention pairs").startswith("rope_attention pairs[")
    assert _ext.kernel_fault(isa, "neighborhood pairs").startswith("neighborhood_attention pairs[")


@pytest.mark.skipif("avx512bf16" not in USABLE, reason="needs a processor with AVX-512 BF16")
def test_the_self_check_sees_broken_products_of_split_pairs():
    assert _ext.kernel_fault("avx512bf16", "split pairs").startswith("multiply bf16 split pairs[")
    with pytest.raises(ValueError, match="does not split pairs"):
        _ext.kernel_fault("portable", "split pairs")


@pytest.mark.skipif("amxbf16" not in USABLE, reason="needs a processor with AMX")
def test_the_self_check_sees_broken_tiles():
    assert _ext.kernel_fault("amxbf16", "tiles").startswith("multiply bf16 tiles[")
    assert _ext.kernel_fault("amxbf16", "row tiles").startswith("multiply_few bf16 tiles of few rows[")
    assert _ext.kernel_fault("amxbf16", "attention tiles").startswith("rope_attention tiles[")
    assert _ext.kernel_fault("amxbf16", "neighborhood tiles").startswith("neighborhood_attention tiles[")
    with pytest.raises(ValueError, match="no tiles"):
        _ext.kernel_fault("avx512bf16", "tiles")


X86 = ["amxbf16", "avx512bf16", "avx512vnni", "avx512", "avx2vnni", "avx2", "portable"]
ARM = ["neonbf16", "neondot", "neon", "portable"]
PROVEN = ["avx2", "portable"]


@pytest.mark.parametrize(
    ("asked", "usable", "faulty", "chosen", "mentioned"),
    [
        ("", X86, [], "amxbf16", []),
        ("", X86[1:], [], "avx512bf16", []),
        ("avx512bf16", X86, [], "avx512bf16", []),
        ("", X86, ["amxbf16"], "avx512bf16", ["amxbf16"]),
        ("", X86, ["amxbf16", "avx512bf16"], "avx512vnni", ["amxbf16", "avx512bf16"]),
        ("", X86, X86[:4], "avx2vnni", X86[:4]),
        ("avx512", X86, ["avx512bf16"], "avx512", []),
        ("avx512", X86, ["avx512", "avx2vnni"], "avx2", ["avx512", "avx2vnni"]),
        ("avx2", X86, ["avx512"], "avx2", []),
        ("", ["avx512_emulated", "avx2", "portable"], [], "avx2", []),
        ("avx512_emulated", ["avx512_emulated", "avx2", "portable"], [], "avx512_emulated", []),
        ("", ARM, [], "neonbf16", []),
        ("", ARM, ["neonbf16"], "neondot", ["neonbf16"]),
        ("", ARM, ["neonbf16", "neondot", "neon"], "portable", ["neonbf16", "neondot", "neon"]),
    ],
)
def test_a_set_that_computes_wrongly_gives_way_to_the_next_with_one_line(asked, usable, faulty, chosen, mentioned):
    isa, warning = _ext.choose_isa(asked, usable, faulty, PROVEN)
    assert isa == chosen
    assert "\n" not in warning
    for name in faulty:
        assert (f"the {name} kernels failed their self-check (a difference)" in warning) == (name in mentioned)
    assert bool(warning) == bool(mentioned)
    if warning:
        assert warning.endswith(f"using {chosen} instead.")


def test_proven_sets_are_not_checked_again():
    assert _ext.choose_isa("", ["avx2", "portable"], ["avx2", "portable"], PROVEN) == ("avx2", "")


def test_a_set_that_is_missing_is_refused():
    with pytest.raises(ValueError, match=r'must be one of: avx2, portable on this machine, got "avx512"'):
        _ext.choose_isa("avx512", ["avx2", "portable"], [], PROVEN)
    with pytest.raises(ValueError, match="not built or not supported"):
        _ext.kernel_fault("mmx")
    with pytest.raises(ValueError, match='no part "teeth"'):
        _ext.kernel_fault("portable", "teeth")


@pytest.mark.slow
@pytest.mark.skipif("LTX2RT_ISA" in os.environ, reason="this is the run with another instruction set")
@pytest.mark.parametrize("isa", OTHERS)
def test_kernel_tests_pass_with(isa):
    files = [str(HERE / f"{name}.py") for name in KERNEL_TESTS]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-n0", "-p", "no:cacheprovider", "-k", "not random_cases", *files],
        env={**os.environ, "LTX2RT_ISA": isa},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-1000:]
