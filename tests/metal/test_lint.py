"""The lint refuses what Apple's compiler would, and accepts our shaders."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.metal_sim.lint import lint

HEAD = "#include <metal_stdlib>\nusing namespace metal;\n"
KERNEL = "kernel void k(device float* y [[buffer(0)]], uint i [[thread_position_in_grid]]) {{ {} }}\n"

# What is wrong on line 3, the rule that says so and part of its message.
REFUSED = {
    "device pointer as threadgroup pointer": (
        "void f(threadgroup float* p) {} void g(device float* q) { f(q); }",
        "compiler",
        "no matching function",
    ),
    "constant pointer as device pointer": (
        "void f(device float* p, constant float* q) { p = q; }",
        "compiler",
        "address space",
    ),
    "device value as thread reference": (
        "void f(thread float& t) {} void g(device float* d) { f(d[0]); }",
        "compiler",
        "no matching function",
    ),
    "virtual function": ("struct A { virtual void f(); };", "word", "virtual"),
    "lambda": ("int f(int n) { auto g = [](int a) { return a + 1; }; return g(n); }", "lambda", "version 4"),
    "double": ("float f(float x) { double y = x; return float(y); }", "word", "no double"),
    "recursion": ("int f(int n) { return n < 2 ? 1 : n * f(n - 1); }", "recursion", "calls itself"),
    "threadgroup variable in a function": (
        "float f(uint i) { threadgroup float s[4]; s[i] = 1; return s[0]; }",
        "threadgroup",
        "variable s is outside a kernel",
    ),
    "exceptions": ("int f() { try { return 1; } catch (...) { return 2; } }", "word", "exceptions"),
    "new": ("void f() { auto p = new int(3); }", "word", "no new"),
    "pointer without address space": ("void f(float* p) { *p = 1; }", "address-space", "need device"),
    "reference without address space": ("float f(const float& x) { return x; }", "address-space", "need device"),
    "mutable program-scope variable": ("static int counter = 0;", "global", "must be constant"),
    "mutable program-scope variable without static": ("int counter = 0;", "global", "must be constant"),
    "mutable variable in a namespace": ("namespace a { float b[2]; }", "global", "must be constant"),
    "program-scope pointer": ("device float* p = nullptr;", "global", "must be constant"),
    "threadgroup variable outside functions": ("threadgroup float s[4];", "compiler", "must reside in global"),
    "static variable in a function": ("int f() { static int n = 0; return n++; }", "global", "must be constant"),
    "thread_local": ("thread_local int counter;", "word", "no thread_local"),
    "dynamic_cast": (
        "struct A {}; int f(thread A* a) { return dynamic_cast<thread A*>(a) != a; }",
        "word",
        "no dynamic_cast",
    ),
    "buffer index beyond 30": (
        "kernel void f(device float* y [[buffer(31)]], uint i [[thread_position_in_grid]]) { y[i] = 1; }",
        "source",
        "has buffer 31",
    ),
    "too many threads": (
        "[[max_total_threads_per_threadgroup(2048)]] kernel void f(device float* y [[buffer(0)]]) { y[0] = 1; }",
        "limit",
        "at most 1024 threads",
    ),
    "too much threadgroup memory": (
        "kernel void f(device float* y [[buffer(0)]], uint i [[thread_position_in_threadgroup]]) { "
        "threadgroup float a[5000]; threadgroup float b[4000]; a[i] = b[i] = i; y[i] = a[i]; }",
        "limit",
        "f has 36000 bytes, Metal allows 32768",
    ),
    "too large a struct": (
        "struct P { float v[1025]; }; kernel void f(device float* y [[buffer(0)]], constant P& p [[buffer(1)]]) "
        "{ y[0] = p.v[0]; }",
        "limit",
        "at most 4096 bytes: f",
    ),
    "bfloat as half": ("half f(bfloat b) { return b; }", "compiler", "half"),
    "temporary matrix operand": (
        "void f(thread simdgroup_float8x8& s) { simdgroup_multiply_accumulate(s, simdgroup_float8x8(1.0f), s, s); }",
        "compiler",
        "no matching function",
    ),
    "constant matrix operand": (
        "void f(thread simdgroup_float8x8& s, const thread simdgroup_float8x8& w) { simdgroup_multiply(s, s, w); }",
        "compiler",
        "no matching function",
    ),
    "float as bfloat": ("bfloat f(float b) { return b; }", "bfloat", "implicit conversion to bfloat"),
    "function pointer": ("typedef int (*fp)(int); int f(fp g) { return g(1); }", "compiler", "not allowed"),
    "goto": ("int f(int n) { goto end; end: return n; }", "word", "no goto"),
    "standard library": ("namespace std {} ", "word", "std"),
    "unknown attribute": ("[[nodiscard]] int f() { return 1; }", "attribute", "nodiscard"),
    "structured binding": ("void f() { int a[2] = {1, 2}; auto [b, c] = a; }", "binding", "not Metal 3"),
    "positions of different size": (
        "kernel void f(device int* y [[buffer(0)]], uint2 a [[thread_position_in_grid]], "
        "uint b [[threadgroup_position_in_grid]], uint c [[thread_index_in_simdgroup]]) { y[0] = a.x + b + c; }",
        "positions",
        "same number of components",
    ),
    "letters": ("// \u00b5s", "ascii", "must be ASCII"),
}


def problems(tmp_path: Path, source: str) -> list:
    path = tmp_path / "shader.metal"
    path.write_text(source, encoding="utf-8")
    return lint(path)


@pytest.mark.parametrize("name", REFUSED)
def test_it_refuses(name: str, tmp_path: Path) -> None:
    text, rule, message = REFUSED[name]
    found = problems(tmp_path, HEAD + text + "\n" + KERNEL.format("y[i] = 1;"))
    mine = [p for p in found if p.rule == rule and message in p.message]
    assert mine, found
    # Rules that look at compiled code know the file alone.
    assert mine[0].line == (1 if rule in ("recursion", "source") or "bytes" in message else 3)


def test_it_accepts_what_metal_accepts(tmp_path: Path) -> None:
    text = """template <typename T> METAL_FUNC void put(device T* to, float v) { to[0] = static_cast<T>(v); }
struct Pair { float a; thread float& first() thread { return a; } };
constant float table[2] = {1.0f, 2.0f};
template <typename T> [[kernel]] void k(device T* y [[buffer(0)]], constant Pair& p [[buffer(1)]],
                                        uint i [[thread_position_in_grid]]) {
  threadgroup float s[32];
  s[i] = p.a + table[i & 1];
  threadgroup_barrier(mem_flags::mem_threadgroup);
  Pair q = {p.a};
  q.first() += s[i ^ 1];
  put(y + i, q.a);
}
template [[host_name("k_bfloat")]] [[kernel]] decltype(k<bfloat>) k<bfloat>;
"""
    assert problems(tmp_path, HEAD + text) == []


SHADERS = sorted((Path(__file__).parents[2] / "csrc/metal").glob("*.metal"))


@pytest.mark.parametrize("shader", SHADERS, ids=lambda path: path.stem)
def test_our_shaders_pass(shader: Path) -> None:
    assert lint(shader, [SHADERS[0].parents[2]]) == []
