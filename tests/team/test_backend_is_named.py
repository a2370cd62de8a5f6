"""MLX is always told the backend: where it may look for one, MPICH ends the process."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2] / "ltx2rt"


def uses(path: Path) -> Iterator[ast.Attribute]:
    """``mx.distributed.NAME`` in a file."""
    source = path.read_text()
    for node in ast.walk(ast.parse(source)) if "distributed" in source else ():
        owner = node.value if isinstance(node, ast.Attribute) else None
        if isinstance(owner, ast.Attribute) and owner.attr == "distributed":
            assert isinstance(node, ast.Attribute)
            yield node


def named_in_calls(path: Path, function: str) -> list[bool]:
    """For each call of ``mx.distributed.function``, whether it names the backend."""
    return [
        any(keyword.arg == "backend" for keyword in node.keywords)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Attribute)
        and (node.func.value.attr, node.func.attr) == ("distributed", function)
    ]


def test_one_module_speaks_to_the_engine_and_names_the_backend() -> None:
    users = {path.relative_to(ROOT).as_posix(): {use.attr for use in uses(path)} for path in ROOT.rglob("*.py")}
    assert {path: names for path, names in users.items() if names} == {
        "team/group.py": {"init", "all_gather", "all_sum"}
    }
    assert named_in_calls(ROOT / "team" / "group.py", "init") == [True]


def test_a_call_without_a_name_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text('mx.distributed.init()\nmx.distributed.init(backend="ring")\nmx.distributed.is_available()\n')
    assert named_in_calls(path, "init") == [False, True]
    assert {use.attr for use in uses(path)} == {"init", "is_available"}
