"""What the embedded model was trained on: the words it knows and what they mean in picture and sound."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

COLORS: Mapping[str, tuple[int, int, int]] = {
    "red": (222, 42, 42),
    "green": (46, 182, 66),
    "blue": (44, 84, 224),
    "yellow": (242, 214, 52),
    "white": (240, 240, 240),
    "black": (22, 22, 22),
}


@dataclass(frozen=True)
class Shape:
    """A kind of object.

    Attributes:
        names: nouns for it; the first is the plain one.
        pitch_hz: of its tone. Multiples of 100 Hz, the frame rate of the log-mel: a vocoder that sees no phase can
            only hold those steadily.
    """

    names: tuple[str, ...]
    pitch_hz: float


SHAPES: Mapping[str, Shape] = {
    "circle": Shape(("circle", "ball", "disc", "dot"), 400.0),
    "square": Shape(("square", "box", "block"), 700.0),
    "triangle": Shape(("triangle", "wedge"), 1200.0),
}

# Phrases that follow one of VERBS; those of "still" stand alone.
MOTIONS: Mapping[str, tuple[str, ...]] = {
    "left": ("left", "to the left", "leftward", "from right to left", "towards the left"),
    "right": ("right", "to the right", "rightward", "from left to right", "towards the right"),
    "up": ("up", "upward", "upwards", "to the top", "from bottom to top"),
    "down": ("down", "downward", "downwards", "to the bottom", "from top to bottom"),
    "still": ("stays still", "does not move", "stands still", "is not moving", "rests", "remains in place"),
}
VERBS = ("moves", "is moving", "slides", "drifts", "glides", "travels", "goes")
SIZES: Mapping[str, tuple[str, ...]] = {"small": ("small", "tiny"), "normal": (), "large": ("large", "big")}
SPEEDS: Mapping[str, tuple[str, ...]] = {"slow": ("slowly",), "normal": (), "fast": ("fast", "quickly")}
BACKGROUNDS = ("background", "backdrop", "screen", "wall")
PLACES = ("on a", "over a", "in front of a", "against a", "across a")
# Phrases that say nothing about the clip and that the model has learned to pass over.
FILLERS = (
    "cinematic",
    "high quality",
    "a beautiful video",
    "smooth motion",
    "a simple scene",
    "realistic style",
    "with a soft tone",
    "static camera",
    "a short clip",
    "flat colours",
    "wide shot",
)
GRAMMAR = ("the", "one", "an", "a", "of", "and", "that", "video", "above", "below")


def known_words() -> frozenset[str]:
    """Every word, in lower case, that occurs in the captions the model was trained on."""
    phrases = [*COLORS, *VERBS, *BACKGROUNDS, *PLACES, *FILLERS, *GRAMMAR]
    for shape in SHAPES.values():
        phrases += shape.names
    for table in (MOTIONS, SIZES, SPEEDS):
        for words in table.values():
            phrases += words
    return frozenset(word for phrase in phrases for word in phrase.split())


def unknown_words(prompt: str) -> list[str]:
    """Words of ``prompt`` that the model has never seen, in lower case, each once, in order."""
    known = known_words()
    words = re.findall(r"[^\W_]+(?:['\u2019][^\W_]+)*", prompt.lower())
    return [word for word in dict.fromkeys(words) if word not in known]
