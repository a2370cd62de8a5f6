"""Runs a program that prints a hash and some sums: in this process, or in a new one with other variables."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import redirect_stdout
from io import StringIO

from ltx2rt import _ext

Printed = tuple[str, list[float]]


def in_this_process(code: str, threads: int) -> Printed:
    """What it prints where kernels have so many threads."""
    before, said = _ext.num_threads(), StringIO()
    _ext.set_num_threads(threads)
    try:
        with redirect_stdout(said):
            exec(code, {})
    finally:
        _ext.set_num_threads(before)
    return _taken_apart(said.getvalue())


def in_new_process(code: str, **environment: str) -> Printed:
    """What it prints with these variables of the environment."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=True)
    return _taken_apart(done.stdout)


def _taken_apart(printed: str) -> Printed:
    digest, *sums = printed.split()
    return digest, [float(value) for value in sums]
