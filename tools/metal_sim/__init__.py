"""Runs Metal shaders on Linux, one fiber per thread, with race, bounds, divergence and initialisation checks."""

from tools.metal_sim.bfloat16 import from_bits, to_bits
from tools.metal_sim.build import CompileError
from tools.metal_sim.run import Argument, Counters, Finding, In, Inline, InOut, Out, Result, SimulationError, run
from tools.metal_sim.translate import TranslationError

__all__ = [
    "Argument",
    "CompileError",
    "Counters",
    "Finding",
    "In",
    "InOut",
    "Inline",
    "Out",
    "Result",
    "SimulationError",
    "TranslationError",
    "from_bits",
    "run",
    "to_bits",
]
