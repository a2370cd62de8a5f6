"""Tokens of preprocessed C++ source, and the few questions about their nesting that the translator asks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

# `<` and `>` are always tokens of their own, so that `vec<vec<T, 2>, 2>` nests without a grammar.
_TOKEN = re.compile(
    r"""
      (?P<name>[A-Za-z_]\w*)
    | (?P<number>\.?\d(?:[eEpP][+-]|[\w.'])*)
    | (?P<string>(?:u8|[uUL])?"(?:[^"\\\n]|\\.)*")
    | (?P<char>'(?:[^'\\\n]|\\.)+')
    | (?P<punctuation>->\*?|::|\.\.\.|\+\+|--|<<=|&&|\|\||[-+*/%&|^!=]=|\#\#|[-+*/%&|^~!=<>?:;,.(){}\[\]\#@\\$])
    """,
    re.VERBOSE,
)
_SPACE = re.compile(r"(?:[ \t\f\r\n]|^\#[^\n]*$)+", re.MULTILINE)
_MARKER = re.compile(r'^#(?:line)? ?(\d+) "([^"]*)"', re.MULTILINE)

OPENING = {"(": ")", "[": "]", "{": "}"}


class Token(NamedTuple):
    """One token, with the white space and preprocessor lines that stand before it."""

    kind: str  # name, number, string, char, punctuation, end
    text: str
    space: str
    file: str
    line: int

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}"


def tokenize(source: str, file: str = "") -> list[Token]:
    """The tokens of preprocessed source, ended by a token of kind ``end``.

    Args:
        source: C++ without comments; line markers and pragmas count as white space.
        file: name to report until the first line marker.

    Raises:
        ValueError: at a character that starts no token.
    """
    tokens = []
    position, line = 0, 1
    while True:
        space = ""
        blank = _SPACE.match(source, position)
        if blank:
            space = blank[0]
            position = blank.end()
            markers = list(_MARKER.finditer(space))
            if markers:
                file = markers[-1][2]
                line = int(markers[-1][1]) + space.count("\n", markers[-1].end()) - 1
            else:
                line += space.count("\n")
        if position == len(source):
            tokens.append(Token("end", "", space, file, line))
            return tokens
        match = _TOKEN.match(source, position)
        if not match:
            raise ValueError(f"{file}:{line}: no token starts with {source[position]!r}.")
        tokens.append(Token(match.lastgroup or "", match[0], space, file, line))
        position = match.end()


def text_of(tokens: Sequence[Token]) -> str:
    """The source text of tokens, without the white space before the first."""
    return "".join(t.text if i == 0 else t.space + t.text for i, t in enumerate(tokens))


def flat_text_of(tokens: Sequence[Token]) -> str:
    """The source text of tokens on one line."""
    return " ".join(t.text for t in tokens)


def matching(tokens: Sequence[Token], start: int) -> int:
    """Index of the bracket that closes the one at ``start``.

    Raises:
        ValueError: if it is never closed.
    """
    stack = []
    for i in range(start, len(tokens)):
        text = tokens[i].text if tokens[i].kind == "punctuation" else ""
        if text in OPENING:
            stack.append(OPENING[text])
        elif stack and text == stack[-1]:
            stack.pop()
            if not stack:
                return i
    raise ValueError(f"{tokens[start].place}: `{tokens[start].text}` is never closed.")


def matching_angle(tokens: Sequence[Token], start: int) -> int | None:
    """Index of the `>` that closes the template arguments opened at ``start``; None if it opens none."""
    depth, i = 0, start
    while i < len(tokens):
        text = tokens[i].text
        if text in OPENING and tokens[i].kind == "punctuation":
            i = matching(tokens, i)
        elif text == "<":
            depth += 1
        elif text == ">":
            depth -= 1
            if depth == 0:
                return i
        elif text in (";", "{", "}", ")", "]") or tokens[i].kind == "end":
            return None
        i += 1
    return None


def split_at_commas(tokens: Sequence[Token]) -> list[list[Token]]:
    """Cuts tokens at commas that are inside no brackets and no template arguments."""
    parts: list[list[Token]] = []
    current: list[Token] = []
    angle, i = 0, 0
    while i < len(tokens):
        text = tokens[i].text
        if text in OPENING and tokens[i].kind == "punctuation":
            end = matching(tokens, i)
            current.extend(tokens[i : end + 1])
            i = end + 1
            continue
        if text == "," and angle == 0:
            parts.append(current)
            current = []
        else:
            angle += (text == "<") - (text == ">")
            current.append(tokens[i])
        i += 1
    if current:
        parts.append(current)
    return parts
