"""The kinds of values that settings have: what they take from Python, TOML and JSON, and from words of a command."""

from __future__ import annotations

import math
import operator
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from PIL import Image

from ltx2rt.errors import UsageError
from ltx2rt.graph.diffusion.noise import NoiseSource, RecordedNoise
from ltx2rt.graph.models.video_vae.tiling import TileSize, Tiling
from ltx2rt.graph.settings.in_memory import described
from ltx2rt.graph.settings.inputs import IcLoraStage, ImageInput, PromptFile, VideoInput
from ltx2rt.hub.weight_path import resolve_weight_path
from ltx2rt.media.colour import SOURCE_COLOR_CHOICES, SOURCE_COLORS
from ltx2rt.media.frame_rate import exact_frame_rate
from ltx2rt.paths import expanded
from ltx2rt.weights.embedding_file import TextEmbedding

T = TypeVar("T")

# What a row of words of one occurrence of an option is called: ``--image PATH FRAME STRENGTH CRF``.
Row = Sequence[Any]


class Kind(ABC, Generic[T]):
    """One kind of value.

    Attributes:
        wanted: what it is, for errors: "a whole number".
        annotation: its type, for signatures.
        metavar: names of its words on the command line.
        words: how many words an occurrence of the option has, as argparse's nargs; None: one.
        repeats: the option may be given several times.
    """

    wanted = ""
    annotation = ""
    metavar: str | tuple[str, ...] | None = None
    words: str | int | None = None
    repeats = False

    @abstractmethod
    def convert(self, value: Any) -> T:
        """The stored form of a value from Python, TOML or JSON; ValueError or TypeError for anything else."""

    def parse(self, word: str) -> T:
        """The stored form of one word of a command line; ValueError for anything else."""
        return self.convert(word)

    def rows(self, rows: Sequence[Row]) -> T:
        """The stored form of the words of every occurrence of the option."""
        raise NotImplementedError(f"{type(self).__name__} takes one word")

    def plain(self, value: T) -> Any:
        """The value for JSON and TOML; `convert` or `rows` take it back, unless it lies in memory."""
        return value

    def in_memory(self, value: T) -> list[Any]:
        """What of a value lies in memory alone, so that no later run can read it."""
        return []


class Text(Kind[str]):
    wanted, annotation, metavar = "a text", "str", "TEXT"

    def convert(self, value: Any) -> str:
        if not isinstance(value, str):
            raise TypeError
        try:
            value.encode()
        except UnicodeEncodeError:  # bytes of a terminal of another encoding
            raise UsageError(f"a text must be UTF-8, got {value!r}; set the terminal's encoding to UTF-8.") from None
        return value


class Whole(Kind[int]):
    wanted, annotation, metavar = "a whole number", "int", "N"

    def convert(self, value: Any) -> int:
        if isinstance(value, (bool, str)):
            raise TypeError
        return operator.index(value)

    def parse(self, word: str) -> int:
        return int(word)


# What stands for a seed that is still to be drawn.
RANDOM_SEED = -1


class Seed(Whole):
    """A seed; ``random``, or -1 as other programs have it, is drawn when a run begins."""

    wanted, annotation, metavar = "a whole number, or random", "int | str", "N|random"

    def convert(self, value: Any) -> int:
        return RANDOM_SEED if value == "random" else super().convert(value)

    def parse(self, word: str) -> int:
        return RANDOM_SEED if word == "random" else super().parse(word)


class Number(Kind[float]):
    wanted, annotation, metavar = "a number", "float", "S"

    def __init__(self, metavar: str = "S") -> None:
        self.metavar = metavar

    def convert(self, value: Any) -> float:
        if isinstance(value, (bool, str)):
            raise TypeError
        number = float(value)
        if not math.isfinite(number):
            raise ValueError
        return number

    def parse(self, word: str) -> float:
        return self.convert(float(word))


class Switch(Kind[bool]):
    wanted, annotation = "True or False", "bool"

    def convert(self, value: Any) -> bool:
        if not isinstance(value, bool):
            raise TypeError
        return value


class SourceColor(Text):
    """The colours of a clip: ``hlg``, ``bt709-full``."""

    wanted, metavar = f"one of {', '.join(SOURCE_COLORS)}, with -limited or -full behind it if need be", "COLOR"

    def convert(self, value: Any) -> str:
        name = super().convert(value)
        if name not in SOURCE_COLOR_CHOICES:
            raise ValueError
        return name


class SpaceName(Text):
    """The name of a colour space, in capitals or not."""

    metavar = "SPACE"

    def convert(self, value: Any) -> str:
        return super().convert(value).lower()


class FilePath(Kind[Path]):
    wanted, annotation = "a path", "str | os.PathLike[str]"

    def __init__(self, metavar: str = "FILE") -> None:
        self.metavar: str | tuple[str, ...] | None = metavar

    def convert(self, value: Any) -> Path:
        if not isinstance(value, (str, os.PathLike)):
            raise TypeError
        return expanded(value)

    def plain(self, value: Path) -> Any:
        return str(value.absolute())


class PromptFileKind(Kind[PromptFile]):
    wanted, annotation, metavar = "a path", "str | os.PathLike[str]", "FILE.txt"

    def convert(self, value: Any) -> PromptFile:
        return value if isinstance(value, PromptFile) else PromptFile(FilePath().convert(value))

    def plain(self, value: PromptFile) -> str:
        return str(value.path.absolute())


class WeightPath(FilePath):
    """A path of weights, or what the hub's cache has of a repository; it is looked up when a setting is stored."""

    wanted = "a path, or ORG/NAME or ORG/NAME:FILE of the hub"

    def convert(self, value: Any) -> Path:
        return resolve_weight_path(super().convert(value))

    def parse(self, word: str) -> Path:
        return super().convert(word)


class WeightPaths(Kind[Path | tuple[Path, ...]]):
    """A path of weights, or several of which one is chosen."""

    wanted = "a path, or ORG/NAME or ORG/NAME:FILE of the hub, or a list of them"
    annotation = "str | os.PathLike[str] | Sequence[str | os.PathLike[str]]"
    repeats = True

    def __init__(self, metavar: str = "PATH") -> None:
        self.metavar: str | tuple[str, ...] | None = metavar

    def convert(self, value: Any) -> Path | tuple[Path, ...]:
        if isinstance(value, (str, os.PathLike)):
            return WeightPath().convert(value)
        paths = tuple(WeightPath().convert(path) for path in value)
        if not paths:
            raise ValueError
        return paths if len(paths) > 1 else paths[0]

    def parse(self, word: str) -> Path:
        return WeightPath().parse(word)

    def plain(self, value: Path | tuple[Path, ...]) -> Any:
        return [str(path.absolute()) for path in value] if isinstance(value, tuple) else str(value.absolute())


class EmbeddingKind(Kind[Path | TextEmbedding]):
    wanted = "a text embedding file, or what ltx2rt.encode gives"
    annotation, metavar = "str | os.PathLike[str] | TextEmbedding", "FILE"

    def convert(self, value: Any) -> Path | TextEmbedding:
        return value if isinstance(value, TextEmbedding) else FilePath().convert(value)

    def plain(self, value: Path | TextEmbedding) -> str:
        return described(value) if isinstance(value, TextEmbedding) else str(value.absolute())

    def in_memory(self, value: Path | TextEmbedding) -> list[Any]:
        return [value] if isinstance(value, TextEmbedding) else []


class LatentArray(Kind[np.ndarray[Any, np.dtype[Any]]]):
    wanted = "an array (1, f, h, w, 128) of floating-point numbers"
    annotation = "np.ndarray[Any, np.dtype[Any]]"

    def convert(self, value: Any) -> np.ndarray[Any, np.dtype[Any]]:
        if not isinstance(value, np.ndarray) or value.ndim != 5 or value.dtype.kind != "f":
            raise TypeError
        return value.astype(np.float32)

    def plain(self, value: np.ndarray[Any, np.dtype[Any]]) -> str:
        return described(value)

    def in_memory(self, value: np.ndarray[Any, np.dtype[Any]]) -> list[Any]:
        return [value]


class NoiseKind(Kind[NoiseSource]):
    wanted = "a list of arrays of floating-point numbers, in the order of the draws, or an object with normal and fork"
    annotation = "NoiseSource | Sequence[np.ndarray[Any, np.dtype[Any]]]"

    def convert(self, value: Any) -> NoiseSource:
        if isinstance(value, NoiseSource):
            return value
        if not isinstance(value, (list, tuple)):
            raise TypeError
        if not all(isinstance(draw, np.ndarray) and draw.dtype.kind == "f" for draw in value):
            raise TypeError
        return RecordedNoise(value)

    def plain(self, value: NoiseSource) -> str:
        return described(value)

    def in_memory(self, value: NoiseSource) -> list[Any]:
        return [value]


class MaskFile(FilePath):
    """A file that the command line may give a strength with, which is a setting of its own."""

    words = "+"

    def __init__(self) -> None:
        self.metavar = ("MASK", "STRENGTH")

    def rows(self, rows: Sequence[Row]) -> Path:
        return path_and_number(rows[-1], None)[0]


class FrameRate(Kind[Fraction]):
    wanted, annotation, metavar = (
        "a positive number or ratio such as 24, 23.976 or 30000/1001",
        "float | Fraction",
        "RATE",
    )

    def convert(self, value: Any) -> Fraction:
        if isinstance(value, bool) or not isinstance(value, (str, int, float, Fraction)):
            value = float(value)
        if isinstance(value, str):
            value = Fraction(value) if "/" in value else float(value)
        return exact_frame_rate(value)

    def plain(self, value: Fraction) -> str:
        return str(value)


class TilesKind(Kind[Any]):
    wanted, annotation, metavar = "auto, none or like 512/64,64/24 (pixels, frames)", "Tiling | str", "TILES"

    def convert(self, value: Any) -> Tiling | str:
        if isinstance(value, Tiling):
            return value
        if value in ("auto", "none"):
            return str(value)
        if not isinstance(value, str):
            raise TypeError
        axes = [_interval(part) for part in value.split(",")]
        if len(axes) > 2:
            raise ValueError
        return Tiling.of(spatial=axes[0], temporal=axes[1] if len(axes) == 2 else None)

    def plain(self, value: Tiling | str) -> str:
        if isinstance(value, str):
            return value
        axes = [axis for axis in (value.height, value.frames) if isinstance(axis, TileSize)]
        return ",".join(f"{axis.tile}/{axis.overlap}" for axis in axes)


def _interval(text: str) -> tuple[int, int]:
    tile, overlap = text.split("/")
    return int(tile), int(overlap)


class Blocks(Kind[tuple[int, ...]]):
    wanted, annotation, metavar, words = "a list of block numbers", "Sequence[int]", "BLOCK", "*"

    def convert(self, value: Any) -> tuple[int, ...]:
        if isinstance(value, str):
            raise TypeError
        return tuple(Whole().convert(item) for item in value)

    def rows(self, rows: Sequence[Row]) -> tuple[int, ...]:
        return tuple(_whole(item, "a block number") for row in rows for item in row)

    def plain(self, value: tuple[int, ...]) -> list[int]:
        return list(value)


class SecondsRange(Kind[tuple[float, float]]):
    wanted, annotation = "two numbers of seconds above 0, the shortest first", "tuple[float, float]"
    metavar, words = ("MIN", "MAX"), 2

    def convert(self, value: Any) -> tuple[float, float]:
        if isinstance(value, str):
            raise TypeError
        shortest, longest = (Number().convert(seconds) for seconds in value)
        if shortest <= 0:
            raise ValueError
        return shortest, longest

    def rows(self, rows: Sequence[Row]) -> tuple[float, float]:
        if len(rows[-1]) != 2:
            raise ValueError(f"takes MIN MAX, got {len(rows[-1])} values: {_joined(rows[-1])}")
        shortest, longest = (_number(item, name) for item, name in zip(rows[-1], self.metavar, strict=True))
        return shortest, longest

    def plain(self, value: tuple[float, float]) -> list[float]:
        return list(value)


class KeyframePlaces(Kind[int | tuple[int, ...]]):
    """A number of frames that are spread over the clip, or the frames themselves, sorted and each once."""

    wanted, annotation, metavar = "how many key frames, 0 or more, or a list of frames", "int | Sequence[int]", "N"

    def convert(self, value: Any) -> int | tuple[int, ...]:
        if isinstance(value, str):
            return self.parse(value)
        if not isinstance(value, Sequence):
            return _not_negative(Whole().convert(value))
        return tuple(sorted({_not_negative(Whole().convert(frame)) for frame in value})) or 0

    def parse(self, word: str) -> int | tuple[int, ...]:
        """``N``, or frames with commas between them; a comma at the end makes a list of one."""
        if "," not in word:
            return _not_negative(int(word))
        return self.convert([int(frame) for frame in word.rstrip(",").split(",")])

    def plain(self, value: int | tuple[int, ...]) -> int | str:
        return value if isinstance(value, int) else ",".join(map(str, value)) + "," * (len(value) == 1)


def _not_negative(number: int) -> int:
    if number < 0:
        raise ValueError
    return number


class Images(Kind[tuple[ImageInput, ...]]):
    wanted = "a list of images: paths, PIL images, arrays (H, W, 3) or ImageInput(image, frame_index, strength, crf)"
    annotation = "Sequence[ImageInput | ImageSource] | ImageInput | ImageSource"
    metavar, words, repeats = ("PATH", "FRAME STRENGTH CRF"), "+", True

    def convert(self, value: Any) -> tuple[ImageInput, ...]:
        items = list(value) if isinstance(value, (list, tuple)) else [value]
        return tuple(self._one(item) for item in items)

    def rows(self, rows: Sequence[Row]) -> tuple[ImageInput, ...]:
        return tuple(self.row(row) for row in rows)

    def row(self, row: Row, strength: float = 1.0) -> ImageInput:
        """``PATH [FRAME [STRENGTH [CRF]]]``."""
        if not 1 <= len(row) <= 4:
            raise ValueError(f"takes PATH [FRAME [STRENGTH [CRF]]], got {len(row)} values: {_joined(row)}")
        path, frame, given, crf = [*row, None, None, None][:4]
        return ImageInput(
            expanded(path),
            0 if frame is None else _whole(frame, "FRAME"),
            strength if given is None else _number(given, "STRENGTH"),
            None if crf is None else _whole(crf, "CRF"),
        )

    def plain(self, value: tuple[ImageInput, ...]) -> list[Any]:
        return [[_source(i.image), i.frame_index, i.strength, *([] if i.crf is None else [i.crf])] for i in value]

    def in_memory(self, value: tuple[ImageInput, ...]) -> list[Any]:
        return [item.image for item in value if not isinstance(item.image, os.PathLike)]

    @staticmethod
    def _one(item: Any) -> ImageInput:
        if isinstance(item, ImageInput):
            return item
        if isinstance(item, (str, os.PathLike)) or _is_picture(item):
            return ImageInput(item)
        raise TypeError


class Videos(Kind[tuple[VideoInput, ...]]):
    wanted = "a list of videos: paths, arrays (F, H, W, 3) or VideoInput(video, strength)"
    annotation = "Sequence[VideoInput | VideoSource] | VideoInput | VideoSource"
    metavar, words, repeats = ("PATH", "STRENGTH"), "+", True

    def convert(self, value: Any) -> tuple[VideoInput, ...]:
        items = list(value) if isinstance(value, (list, tuple)) else [value]
        return tuple(self._one(item) for item in items)

    def rows(self, rows: Sequence[Row]) -> tuple[VideoInput, ...]:
        return tuple(VideoInput(path, strength) for path, strength in (path_and_number(row, 1.0) for row in rows))

    def plain(self, value: tuple[VideoInput, ...]) -> list[Any]:
        return [[_source(video.video), video.strength] for video in value]

    def in_memory(self, value: tuple[VideoInput, ...]) -> list[Any]:
        return [item.video for item in value if not isinstance(item.video, os.PathLike)]

    @staticmethod
    def _one(item: Any) -> VideoInput:
        if isinstance(item, VideoInput):
            return item
        if isinstance(item, (str, os.PathLike, np.ndarray)):
            return VideoInput(item)
        raise TypeError


class IcLoraStages(Kind[tuple[IcLoraStage, ...]]):
    """Stages of ic-lora; their order, sizes and schedules are checked by the pipeline."""

    wanted = "a list of IcLoraStage(divisor, with_reference, sigmas, tile)"
    annotation = "Sequence[IcLoraStage]"

    def convert(self, value: Any) -> tuple[IcLoraStage, ...]:
        if isinstance(value, (str, IcLoraStage)):
            raise TypeError
        return tuple(self._one(item) for item in value)

    def plain(self, value: tuple[IcLoraStage, ...]) -> list[Any]:
        return [
            [
                stage.divisor,
                stage.with_reference,
                None if stage.sigmas is None else list(stage.sigmas),
                None if stage.tile is None else list(stage.tile),
            ]
            for stage in value
        ]

    @staticmethod
    def _one(item: Any) -> IcLoraStage:
        if isinstance(item, IcLoraStage):
            fields: Sequence[Any] = (item.divisor, item.with_reference, item.sigmas, item.tile)
        elif isinstance(item, (list, tuple)) and 1 <= len(item) <= 4:
            fields = (*item, *(True, None, None)[len(item) - 1 :])
        else:
            raise TypeError
        divisor, with_reference, sigmas, tile = fields
        if tile is not None:
            height, width = (Whole().convert(side) for side in tile)
            tile = height, width
        return IcLoraStage(
            Whole().convert(divisor),
            Switch().convert(with_reference),
            None if sigmas is None else tuple(Number().convert(sigma) for sigma in sigmas),
            tile,
        )


class Loras(Kind[tuple[tuple[Path, float], ...]]):
    wanted = "a list of LoRA files, each a path or (path, strength)"
    annotation = "Sequence[str | os.PathLike[str] | tuple[str | os.PathLike[str], float]]"
    metavar, words, repeats = ("PATH", "STRENGTH"), "+", True

    def convert(self, value: Any) -> tuple[tuple[Path, float], ...]:
        if isinstance(value, (str, os.PathLike)):
            raise TypeError
        return tuple(LoraKind().convert(item) for item in value)

    def rows(self, rows: Sequence[Row]) -> tuple[tuple[Path, float], ...]:
        return tuple(path_and_number(row, 1.0) for row in rows)

    def plain(self, value: tuple[tuple[Path, float], ...]) -> list[Any]:
        return [LoraKind().plain(item) for item in value]


class LoraKind(Kind[tuple[Path, float]]):
    wanted = "a LoRA file, a path or (path, strength)"
    annotation = "str | os.PathLike[str] | tuple[str | os.PathLike[str], float]"
    metavar, words = ("PATH", "STRENGTH"), "+"

    def convert(self, value: Any) -> tuple[Path, float]:
        path, strength = (value, 1.0) if isinstance(value, (str, os.PathLike)) else value
        return WeightPath().convert(path), Number().convert(strength)

    def rows(self, rows: Sequence[Row]) -> tuple[Path, float]:
        return path_and_number(rows[-1], 1.0)

    def plain(self, value: tuple[Path, float]) -> list[Any]:
        return [str(value[0].absolute()), value[1]]


def path_and_number(row: Row, default: Any) -> tuple[Path, Any]:
    """``PATH [STRENGTH]``."""
    if not 1 <= len(row) <= 2:
        raise ValueError(f"takes PATH [STRENGTH], got {len(row)} values: {_joined(row)}")
    return expanded(row[0]), _number(row[1], "STRENGTH") if len(row) == 2 else default


def _whole(item: Any, name: str) -> int:
    number = _number(item, name)
    if not number.is_integer():
        raise ValueError(f"{name} must be a whole number, got {item!r}")
    return int(number)


def _number(item: Any, name: str) -> float:
    try:
        return Number().convert(float(item))
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be a number, got {item!r}") from None


def _joined(row: Row) -> str:
    return " ".join(str(item) for item in row)


def _is_picture(item: Any) -> bool:
    return isinstance(item, (np.ndarray, Image.Image))


def _source(item: Any) -> str:
    return str(Path(item).absolute()) if isinstance(item, os.PathLike) else described(item)
