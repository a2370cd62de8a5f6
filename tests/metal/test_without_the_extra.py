"""Where the packages of the extra `metal` are missing, the tests of this folder are skipped and say so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
# A module that is None in sys.modules is neither found nor imported.
CODE = """
import sys
sys.modules.update(dict.fromkeys(sys.argv[1].split(",")))
import pytest
sys.exit(pytest.main(["-n0", "-q", "-p", "no:cacheprovider", *sys.argv[2:]]))
"""


@pytest.mark.parametrize("absent", ["ziglang", "ziglang,cmake,ninja,nanobind"])
def test_tests_are_skipped_with_the_reason(absent: str) -> None:
    files = [str(HERE / name) for name in ("test_delivery.py", "test_launch_plans.py")]
    done = subprocess.run([sys.executable, "-c", CODE, absent, *files], cwd=HERE, capture_output=True, text=True)
    assert done.returncode == 5, done.stdout + done.stderr  # nothing was collected that could run
    assert "2 skipped" in done.stdout
    assert f"needs {' and '.join(absent.split(','))}: pip install 'ltx2rt[metal]'" in done.stdout
