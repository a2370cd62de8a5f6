"""Turns preprocessed Metal source into C++ for OpenCL that the host compiler accepts, plus launch code."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from tools.metal_sim.tokens import Token, flat_text_of, matching, matching_angle, split_at_commas, tokenize

# Thread attributes and the field of msim_thread that holds their value.
BUILTINS = {
    name: name
    for name in (
        "thread_position_in_grid",
        "thread_position_in_threadgroup",
        "threadgroup_position_in_grid",
        "threads_per_grid",
        "threads_per_threadgroup",
        "threadgroups_per_grid",
        "thread_index_in_threadgroup",
        "thread_index_in_simdgroup",
        "simdgroup_index_in_threadgroup",
        "simdgroups_per_threadgroup",
        "threads_per_simdgroup",
    )
} | {
    "dispatch_threads_per_threadgroup": "threads_per_threadgroup",
    "thread_execution_width": "threads_per_simdgroup",
}
_VECTOR = re.compile(r"(?:packed_)?(?:char|uchar|short|ushort|int|uint|long|ulong|half|float|bfloat|bool)[234]")
_TYPE_WORDS = {"const", "constexpr", "device", "constant", "thread", "threadgroup", "struct", "typename", "void"}
# Keywords of OpenCL that are ordinary names in Metal.
_OPENCL_WORDS = {"local", "global", "generic", "pipe", "event_t", "sampler_t", "read_only", "write_only", "read_write"}


class TranslationError(ValueError):
    """Metal source that the simulator does not accept; the message says where and why."""


@dataclass(frozen=True)
class Parameter:
    """How one kernel parameter gets its value."""

    kind: str  # "buffer", "threadgroup" or "builtin"
    index: int = 0
    field: str = ""


@dataclass(frozen=True)
class FunctionConstant:
    index: int
    type: str
    name: str


@dataclass(frozen=True)
class Instance:
    """A kernel that can be launched: its name and the C++ expression of the function."""

    name: str
    function: str
    base: str


@dataclass
class Translation:
    text: str = ""
    parameters: dict[str, list[Parameter]] = field(default_factory=dict)
    constants: list[FunctionConstant] = field(default_factory=list)
    instances: list[Instance] = field(default_factory=list)
    misplaced: list[str] = field(default_factory=list)  # threadgroup variables outside kernels


@dataclass
class _Scope:
    kind: str  # "namespace", "class" or "function"
    kernel: bool = False


class _Translator:
    """One pass over the tokens; each `_at_...` method consumes what it recognises or returns False."""

    def __init__(self, tokens: list[Token], values: dict[str, str] | None) -> None:
        self.tokens = tokens
        self.values = values  # of function constants by name or index, when they are compiled in
        self.out: list[str] = []
        self.result = Translation()
        self.scopes = [_Scope("namespace")]
        self.i = 0
        self.statement = 0  # first token of the current statement
        self.pending_kernel = False
        self.in_kernel_head = False
        self.most_threads = ""  # of the attribute that the next kernel has
        self.arrays = 0
        self.derived: dict[str, str] = {}  # constants computed from function constants, as expressions

    # -- small steps ---------------------------------------------------------------------------------------------
    @property
    def token(self) -> Token:
        return self.tokens[self.i]

    def text(self, ahead: int = 0) -> str:
        at = self.i + ahead
        return self.tokens[at].text if 0 <= at < len(self.tokens) else ""

    def copy(self) -> None:
        self.out.append(self.token.space + self.token.text)
        self.i += 1

    def drop_to(self, end: int) -> None:
        """Skips tokens up to `end`, keeping their line breaks so that errors still name the right line."""
        self.out.append("".join(re.sub(r"[^\n]*(?=\n)", "", t.space) or " " for t in self.tokens[self.i : end]))
        self.i = end

    def put(self, text: str, end: int) -> None:
        self.out.append(self.token.space + text)
        newlines = sum(t.space.count("\n") for t in self.tokens[self.i + 1 : end])
        self.out.append("\n" * newlines)
        self.i = end

    def end_of_statement(self) -> int:
        i = self.i
        while self.tokens[i].text != ";":
            if self.tokens[i].kind == "end":
                raise TranslationError(f"{self.token.place}: the statement has no `;`.")
            i = matching(self.tokens, i) if self.tokens[i].text in ("(", "[", "{") else i
            i += 1
        return i

    @property
    def in_function(self) -> bool:
        return self.scopes[-1].kind == "function"

    @property
    def starts_statement(self) -> bool:
        return self.i == self.statement

    # -- the pass ------------------------------------------------------------------------------------------------
    def run(self) -> Translation:
        steps = (
            self._at_brace,
            self._at_attribute,
            self._at_instance,
            self._at_kernel,
            self._at_function_constant,
            self._at_derived_constant,
            self._at_derived_name,
            self._at_constant_query,
            self._at_threadgroup_variable,
            self._at_bfloat_cast,
            self._at_vector,
            self._at_compound_assignment,
            self._at_opencl_word,
        )
        while self.token.kind != "end":
            if any(step() for step in steps):
                continue
            if self.text() == ";" or (self.text() == ":" and self.text(-1) in ("public", "private", "protected")):
                self.statement = self.i + 1
            self.copy()
        self.result.text = "".join(self.out) + self.token.space
        return self.result

    def _at_brace(self) -> bool:
        limit = ""
        if self.text() == "{":
            if self.in_kernel_head and self.most_threads:
                limit, self.most_threads = f" msim_most_threads(int({self.most_threads}));", ""
            self.scopes.append(self._scope_of_brace())
        elif self.text() == "}":
            if len(self.scopes) == 1:
                raise TranslationError(f"{self.token.place}: `}}` closes nothing.")
            self.scopes.pop()
        else:
            return False
        self.copy()
        self.out.append(limit)
        self.statement = self.i
        return True

    def _scope_of_brace(self) -> _Scope:
        outer = self.scopes[-1]
        before = self.text(-1)
        words = [t.text for t in self.tokens[self.statement : self.i]]
        if outer.kind == "function" or before in ("=", ",", "(", "return"):
            return _Scope(outer.kind, outer.kernel)
        if "namespace" in words or (words and words[0] == "extern"):
            return _Scope("namespace")
        if before in (")", "const", "thread", "device", "constant", "noexcept", "override"):
            kernel, self.in_kernel_head = self.in_kernel_head, False
            return _Scope("function", kernel)
        if set(words) & {"struct", "class", "union", "enum"}:
            return _Scope("class")
        return _Scope("function")

    def _at_attribute(self) -> bool:
        if self.text() != "[" or self.text(1) != "[" or self.tokens[self.i + 1].space:
            return False
        end = matching(self.tokens, self.i) + 1
        inside = self.tokens[self.i : end]
        if any(t.text == "kernel" for t in inside):
            self.pending_kernel = True
        bound = next((j for j, t in enumerate(inside) if t.text == "max_total_threads_per_threadgroup"), None)
        if bound is not None:
            self.most_threads = flat_text_of(inside[bound + 2 : matching(inside, bound + 1)])
        self.drop_to(end)
        return True

    def _at_instance(self) -> bool:
        """``template [[host_name("x")]] [[kernel]] decltype(f<A>) f<A>;``, or ``... void f<A>(parameters);``"""
        if self.text() != "template" or self.text(1) != "[":
            return False
        end = self.end_of_statement()
        statement = self.tokens[self.i : end]
        name = "".join(t.text[1:-1] for t in statement if t.kind == "string")
        at = next((j for j, t in enumerate(statement) if t.text in ("decltype", "void")), None)
        if not name or at is None:
            raise TranslationError(f"{self.token.place}: an instantiation needs a host_name and a function.")
        if statement[at].text == "decltype":
            function = statement[at + 2 : matching(statement, at + 1)]
        else:
            opened = next((j for j in range(at, len(statement)) if statement[j].text == "<"), at)
            close = matching_angle(statement, opened)
            if close is None:
                raise TranslationError(f"{self.token.place}: the instantiation {name} has no template arguments.")
            function = statement[at + 1 : close + 1]
        names = [t.text for t in function[: next((j for j, t in enumerate(function) if t.text == "<"), None)]]
        self.result.instances.append(Instance(name, flat_text_of(function), names[-1]))
        self.drop_to(end + 1)
        self.statement = self.i
        return True

    def _at_kernel(self) -> bool:
        """The head of a kernel: its parameter list is recorded, the word `kernel` dropped."""
        if self.text() == "kernel" and not self.in_function:
            self.pending_kernel = True
            self.drop_to(self.i + 1)
            return True
        if not self.pending_kernel or self.text() != "void":
            return False
        name, opened = self.text(1), self.i + 2
        if self.tokens[opened].text != "(":
            return False
        close = matching(self.tokens, opened)
        parameters = _parameters(self.tokens[opened + 1 : close])
        last = max((p.index for p in parameters if p.kind == "buffer"), default=0)
        if last > 30:
            raise TranslationError(f"{self.token.place}: the kernel {name} has buffer {last}, Metal's last is 30.")
        self.result.parameters[name] = parameters
        if "template" not in [t.text for t in self.tokens[self.statement : self.i]]:
            self.result.instances.append(Instance(name, name, name))
        self.pending_kernel, self.in_kernel_head = False, True
        self.copy()
        return True

    def _at_function_constant(self) -> bool:
        """``constant T name [[function_constant(n)]];``"""
        if self.text() != "constant" or not self.starts_statement or self.in_function:
            return False
        end = self.end_of_statement()
        statement = self.tokens[self.i : end]
        mark = next((j for j, t in enumerate(statement) if t.text == "function_constant"), None)
        if mark is None or statement[mark + 1].text != "(":
            return False
        head = statement[1 : next(j for j, t in enumerate(statement) if t.text == "[")]
        constant = FunctionConstant(int(statement[mark + 2].text, 0), flat_text_of(head[:-1]), head[-1].text)
        self.result.constants.append(constant)
        if self.values is None:
            declaration = (
                f'extern "C" {{ extern __constant {constant.type} {constant.name} '
                f'__asm__("msim_constant_{constant.index}"); extern __constant bool msim_defined_{constant.name} '
                f'__asm__("msim_defined_{constant.index}"); }}'
            )
        else:
            value = self.values.get(constant.name, self.values.get(str(constant.index)))
            declaration = (
                f"constexpr __constant {constant.type} {constant.name} = ({constant.type})({value or 0}); "
                f"constexpr __constant bool msim_defined_{constant.name} = {'false' if value is None else 'true'};"
            )
        self.put(declaration, end + 1)
        self.statement = self.i
        return True

    def _at_derived_constant(self) -> bool:
        """``constant T name = expression with function constants;``, which Metal evaluates when a pipeline is made."""
        if self.text() != "constant" or not self.starts_statement or self.in_function or self.values is not None:
            return False
        end = self.end_of_statement()
        statement = self.tokens[self.i + 1 : end]
        equals = next((j for j, t in enumerate(statement) if t.text == "="), None)
        if equals is None:
            return False
        known = {c.name for c in self.result.constants} | set(self.derived)
        value = statement[equals + 1 :]
        if not known & {t.text for t in value}:
            return False
        words = [f"({self.derived[t.text]})" if t.text in self.derived else t.text for t in value]
        text = re.sub(r"is_function_constant_defined \( (\w+) \)", r"msim_defined_\1", " ".join(words))
        self.derived[statement[equals - 1].text] = f"({flat_text_of(statement[: equals - 1])})({text})"
        self.drop_to(end + 1)
        self.statement = self.i
        return True

    def _at_derived_name(self) -> bool:
        if self.text() not in self.derived or self.text(-1) in (".", "::", "->"):
            return False
        self.put(f"({self.derived[self.text()]})", self.i + 1)
        return True

    def _at_constant_query(self) -> bool:
        if self.text() != "is_function_constant_defined" or self.text(1) != "(":
            return False
        self.put(f"msim_defined_{self.text(2)}", matching(self.tokens, self.i + 1) + 1)
        return True

    def _at_threadgroup_variable(self) -> bool:
        """``threadgroup T a[n], b;`` becomes references into the memory of the running threadgroup."""
        if self.text() != "threadgroup" or not self.starts_statement or not self.in_function:
            return False
        end = self.end_of_statement()
        parts = split_at_commas(self.tokens[self.i + 1 : end])
        first = parts[0]
        if first[0].text == "alignas":
            alignment = flat_text_of(first[2 : matching(first, 1)])
            first = first[matching(first, 1) + 1 :]
        else:
            alignment = "1"
        words = [t.text for t in first]
        stop = next((j for j, t in enumerate(words) if t in ("[", "=")), len(words))
        if "=" in words or "*" in words[:stop] or "&" in words[:stop]:
            return False  # a pointer or a reference into threadgroup memory
        if not self.scopes[-1].kernel:
            self.result.misplaced.append(f"{self.token.place}: threadgroup variable {words[stop - 1]}")
        element = flat_text_of(first[: stop - 1])
        declarations = []
        for part in [first[stop - 1 :], *parts[1:]]:
            self.arrays += 1
            alias, name = f"msim_array_{self.arrays}", part[0].text
            declarations.append(
                f"typedef {element} {alias}{flat_text_of(part[1:])}; threadgroup {alias}& {name} = "
                f"*(threadgroup {alias}*)(ulong)msim_allocate_threadgroup({self.arrays}, sizeof({alias}), "
                f'alignof({element}) > {alignment} ? alignof({element}) : {alignment}, "{name}");'
            )
        self.put(" ".join(declarations), end + 1)
        self.statement = self.i
        return True

    def _at_bfloat_cast(self) -> bool:
        if [self.text(j) for j in range(5)] not in (
            ["static_cast", "<", "bfloat", ">", "("],
            ["static_cast", "<", "bfloat16_t", ">", "("],
        ):
            return False
        self.put("metal::to_bfloat", self.i + 4)
        return True

    def _vector_type_end(self) -> int | None:
        """Index after a vector type that starts here."""
        i = self.i + 2 if self.text() == "metal" and self.text(1) == "::" else self.i
        if _VECTOR.fullmatch(self.tokens[i].text):
            return i + 1
        if self.tokens[i].text == "vec" and self.tokens[i + 1].text == "<":
            close = matching_angle(self.tokens, i + 1)
            return None if close is None else close + 1
        return None

    def _at_vector(self) -> bool:
        """Constructor calls `float4(a, b)` and declarations `float4 v(a, b);`."""
        if self.token.kind != "name" or self.text(-1) in ("operator", "::", "."):
            return False
        end = self._vector_type_end()
        if end is None:
            return False
        type_text = flat_text_of(self.tokens[self.i : end])
        if self.tokens[end].text == "(":
            self.put(f"metal::make<{type_text}>", end)
            return True
        if not (self.in_function and self.tokens[end].kind == "name" and self.tokens[end + 1].text == "("):
            return False
        close = matching(self.tokens, end + 1)
        if self.tokens[close + 1].text != ";" or self.tokens[end + 2].text in _TYPE_WORDS:
            return False
        self.put(f"{type_text} {self.tokens[end].text} = metal::make<{type_text}>", end + 1)
        return True

    def _at_compound_assignment(self) -> bool:
        """``pointer += object;`` where the object converts to a number."""
        shape = [self.text(j) for j in range(4)]
        if not self.in_function or shape[1] not in ("+=", "-=") or shape[3] != ";":
            return False
        if self.token.kind != "name" or self.tokens[self.i + 2].kind != "name":
            return False
        self.put(f"{shape[0]} {shape[1]} metal::plain({shape[2]})", self.i + 3)
        return True

    def _at_opencl_word(self) -> bool:
        if self.text() not in _OPENCL_WORDS:
            return False
        self.put(f"msim_word_{self.text()}", self.i + 1)
        return True


def _parameters(tokens: list[Token]) -> list[Parameter]:
    parameters = []
    next_buffer = 0
    for part in split_at_commas(tokens):
        attributes = _attributes(part)
        builtin = next((BUILTINS[name] for name in attributes if name in BUILTINS), None)
        if builtin:
            parameters.append(Parameter("builtin", field=builtin))
        elif "threadgroup" in attributes:
            parameters.append(Parameter("threadgroup", attributes["threadgroup"]))
        else:
            index = attributes.get("buffer", next_buffer)
            parameters.append(Parameter("buffer", index))
            next_buffer = index + 1
    return parameters


def _attributes(part: list[Token]) -> dict[str, int]:
    """Names inside ``[[...]]`` with their number, 0 where none is given."""
    found: dict[str, int] = {}
    for i, token in enumerate(part[:-1]):
        if token.text != "[" or part[i + 1].text != "[":
            continue
        inside = part[i + 2 : matching(part, i + 1)]
        for j, name in enumerate(inside):
            if name.kind == "name":
                has_number = j + 2 < len(inside) and inside[j + 1].text == "("
                found[name.text] = int(inside[j + 2].text, 0) if has_number and inside[j + 2].kind == "number" else 0
    return found


def translate(source: str, values: dict[str, str] | None = None) -> Translation:
    """Translates a whole preprocessed shader.

    Args:
        source: output of the preprocessor, with line markers.
        values: function constants to compile in, as C++ literals by name or by index; constants that are not in it are
            undefined. None leaves them to be set at each launch.

    Raises:
        TranslationError: for source that is not understood.
    """
    return _Translator(tokenize(source), values).run()


def launch_code(translation: Translation, kernel: str, suffix: str = "") -> str:
    """C++ that exports ``msim_kernel`` (runs one thread of ``kernel``) and the description of its parameters.

    ``suffix`` is appended to the exported names.

    Raises:
        TranslationError: if there is no such kernel.
    """
    instance = next((i for i in translation.instances if i.name == kernel), None)
    if instance is None:
        names = ", ".join(i.name for i in translation.instances[:12]) or "none"
        raise TranslationError(f"no kernel is named {kernel}; there are: {names}.")
    parameters = translation.parameters.get(instance.base)
    if parameters is None:
        raise TranslationError(f"the function {instance.base} of kernel {kernel} is not a kernel.")
    function = f"msim_function{suffix}"
    arguments, descriptions = [], []
    for j, parameter in enumerate(parameters):
        type_ = f"msim_parameter_type<{j}, {function}>::type"
        if parameter.kind == "builtin":
            arguments.append(f"msim_builtin<{type_}>(t->{parameter.field})")
            continue
        reader = "memory" if parameter.kind == "threadgroup" else "buffer"
        arguments.append(f"msim_argument<{type_}>::{reader}(t, {parameter.index})")
        descriptions.append(f"msim_argument<{type_}>::describe({parameter.index})")
    exported = 'extern "C" __attribute__((used, visibility("default")))'
    call = f"{instance.function}({', '.join(arguments)})"
    table = ", ".join([*descriptions, "{-1, 0, 0, 0, 0, 0}"])
    lines = [
        "#pragma OPENCL EXTENSION __cl_clang_function_pointers : enable",
        f"typedef decltype({instance.function}) {function};",
        f"{exported} void msim_kernel{suffix}(const msim_thread* t) {{ {call}; }}",
        f"{exported} extern __constant msim_parameter msim_parameters{suffix}[] = {{{table}}};",
        "#pragma OPENCL EXTENSION __cl_clang_function_pointers : disable",
    ]
    return "\n".join(lines) + "\n"
