"""Only `kernels.host` turns an `mx.array` into numpy: anything else loses the errors of kernels.

Why: numpy clears the error that MLX raises while numpy asks for the buffer of an unevaluated array, and goes on with
memory that nobody wrote (`to_numpy`).

A syntax tree does not know types, so the rules are about spelling, and host-side work is spelled in another way:

* No function of numpy that makes an array of what it is given (``np.array``, ``np.asarray``, ``np.ascontiguousarray``,
  ``np.frombuffer``, ...) is called with anything but constants and lists of them. Python numbers go through
  ``host.from_numbers``, which refuses an `mx.array` when it runs; arrays of numpy are copied and converted by methods
  that an `mx.array` does not have in that form (``x.copy()``, ``x.astype(np.float32)``), which fail loudly.
* ``memoryview``, ``.tolist()``, ``.item()``, ``__array__`` and their like, which belong to both kinds of arrays, do not
  occur. (MLX raises from them as it should; but they are conversions, and there is one.) Files read into a
  ``bytearray`` are no arrays.
* Any other function of numpy converts its arguments, too (``np.stack``, ``np.abs``). None is called on an expression
  that is an `mx.array` as far as its spelling tells: one that mentions ``mx``, or a name that is annotated as
  `mx.array` or assigned from such an expression in the same function.

`ltx2rt.media` and `ltx2rt.graph.diffusion` never see an `mx.array`: test_layers.py holds them free of mlx. What no rule
about spelling can see is ``ndarray + mx_array`` with names that do not tell.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "ltx2rt"
FREE = (ROOT / "media", ROOT / "graph" / "diffusion", ROOT / "kernels" / "host.py")

MAKES_ARRAYS = {"array", "asarray", "asanyarray", "ascontiguousarray", "asfortranarray", "asarray_chkfinite", "copy"}
MAKES_ARRAYS |= {"require", "frombuffer", "from_dlpack", "fromiter", "matrix", "asmatrix", "array_equal"}
METHODS = {"tolist", "item", "__array__", "__array_interface__", "__dlpack__"}
# Functions of numpy that take no array.
TAKES_NONE = {"dtype", "errstate", "finfo", "iinfo", "ndarray", "issubdtype"}


# What every breach of a rule has in it somewhere: modules without it are not taken apart.
SUSPECT = re.compile(rf"\bnp\b|numpy|memoryview|\.\s*(?:{'|'.join(sorted(METHODS))})\b")


def violations(source: str) -> list[str]:
    """What a module spells that the rules forbid, ``line: why``."""
    return sorted(_violations(ast.parse(source))) if SUSPECT.search(source) else []


def _violations(tree: ast.Module) -> Iterator[str]:
    functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    known = {inner: names for function in functions for names in [_arrays(function)] for inner in ast.walk(function)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "numpy":
            for name in {alias.name for alias in node.names} & MAKES_ARRAYS:
                yield f"{node.lineno}: {name} is imported by itself; write np.{name}"
        if isinstance(node, ast.Attribute) and node.attr in METHODS:
            yield f"{node.lineno}: .{node.attr}; use host.to_numpy"
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Name) and node.func.id == "memoryview" and not _is_bytes(node):
            yield f"{node.lineno}: memoryview; use host.writable_view"
        name = _of_numpy(node.func)
        arguments = [*node.args, *(keyword.value for keyword in node.keywords)]
        if name in MAKES_ARRAYS and not (arguments and _is_literal(arguments[0])):
            yield f"{node.lineno}: np.{name}; use host.to_numpy for an mx.array, host.from_numbers for numbers"
        elif name is not None and name not in TAKES_NONE:
            names = known.get(node, set())
            if any(_is_mlx(argument, names) for argument in arguments):
                yield f"{node.lineno}: np.{name} of an mx.array; use host.to_numpy first"


def _of_numpy(function: ast.expr) -> str | None:
    """``concatenate`` of ``np.concatenate``, ``np.linalg.norm`` gives ``linalg.norm``; None for anything else."""
    names: list[str] = []
    while isinstance(function, ast.Attribute):
        names.append(function.attr)
        function = function.value
    return ".".join(reversed(names)) if isinstance(function, ast.Name) and function.id in ("np", "numpy") else None


def _is_literal(node: ast.expr) -> bool:
    if isinstance(node, (ast.List, ast.Tuple)):
        return all(_is_literal(element) for element in node.elts)
    return isinstance(node, ast.Constant) or (isinstance(node, ast.UnaryOp) and _is_literal(node.operand))


def _is_bytes(call: ast.Call) -> bool:
    return len(call.args) == 1 and isinstance(call.args[0], ast.Name) and call.args[0].id == "buffer"


def _is_mlx(node: ast.expr, names: set[str]) -> bool:
    """Whether an expression is an `mx.array`, as far as its spelling tells."""
    if isinstance(node, ast.Name):
        return node.id in names
    if isinstance(node, ast.Call):
        text = ast.unparse(node.func)
        if text.startswith("mx."):
            return True
        if isinstance(node.func, ast.Attribute):  # x.astype(mx.float32), x.reshape(...)
            mentions = any(ast.unparse(argument).startswith("mx.") for argument in node.args)
            return mentions or _is_mlx(node.func.value, names)
        return False
    if isinstance(node, ast.Subscript):
        return _is_mlx(node.value, names)
    if isinstance(node, ast.BinOp):
        return _is_mlx(node.left, names) or _is_mlx(node.right, names)
    if isinstance(node, (ast.List, ast.Tuple)):
        return any(_is_mlx(element, names) for element in node.elts)
    if isinstance(node, ast.Starred):
        return _is_mlx(node.value, names)
    return False


def _arrays(function: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    """Names of a function that hold an `mx.array`, and never anything else."""
    parameters = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    names = {p.arg for p in parameters if p.annotation is not None and _says_array(p.annotation)}
    targets: dict[str, list[ast.expr]] = {}
    for node in ast.walk(function):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and _says_array(node.annotation):
            names.add(node.target.id)
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    targets.setdefault(target.id, []).append(node.value)
    for name, values in targets.items():
        if all(_is_mlx(value, names) for value in values):
            names.add(name)
        elif name in names:
            names.discard(name)  # it becomes something else on the way, numpy perhaps
    return names


def _says_array(annotation: ast.expr) -> bool:
    return ast.unparse(annotation).strip("'\"") in (
        "mx.array",
        "mx.array | None",
        "Sequence[mx.array]",
        "list[mx.array]",
    )


MODULES = sorted(path for path in ROOT.rglob("*.py") if not any(path.is_relative_to(free) for free in FREE))


def test_no_other_way_from_mlx_to_numpy() -> None:
    found = {str(path.relative_to(ROOT)): violations(path.read_text()) for path in MODULES}
    assert len(found) > 200
    assert {path: said for path, said in found.items() if said} == {}


@pytest.mark.parametrize(
    "line",
    [
        "np.array(x)",
        "numpy.asarray(x, np.float32)",
        "np.array([x, y])",
        "np.array(object=x)",
        "np.ascontiguousarray(x.T)",
        "np.copy(x)",
        "np.frombuffer(x, np.uint8)",
        "np.stack([mx.ones(3), mx.ones(3)])",
        "np.abs(mx.exp(y))",
        "np.moveaxis(y.astype(mx.float32), 1, 0)",
        "np.concatenate([x[0], y])",
        "np.linalg.norm(x * 2)",
        "np.abs(z)",
        "np.abs(w)",
        "memoryview(x)",
        "x.tolist()",
        "x.sum().item()",
        "from numpy import array",
    ],
)
def test_the_rules_can_fail(line: str) -> None:
    body = f"def f(x: mx.array, y):\n    z = mx.exp(y)\n    w: mx.array = y\n    {line}\n"
    found = violations(body)
    assert len(found) == 1
    assert found[0].startswith("4: ")


def test_host_side_work_has_spellings_of_its_own() -> None:
    body = """
def f(x: mx.array, given, values):
    values = to_numpy(x)
    table = np.array([0.25, -1])
    return np.stack([values, values.copy()]) + from_numbers([given]) + table, np.zeros(3, np.float32)
"""
    assert violations(body) == []
