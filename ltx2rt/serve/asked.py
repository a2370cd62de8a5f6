"""What a client asks for: the fields of a body, checked one by one and in the form in which a job is stored."""

from __future__ import annotations

import base64
import binascii
import difflib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ltx2rt.errors import UsageError
from ltx2rt.graph.pipelines import AUTOMATIC, pipeline_name
from ltx2rt.serve.fields import ALIASES, FIELDS, OWN, UNSERVED, Field
from ltx2rt.serve.refusal import Refusal

# Longer texts are no prompts.
LONGEST_TEXT = 32768
MOST_FILES = 32
# Whole numbers above this are no sizes, steps or seeds, and no JSON number everywhere.
_LARGEST = 2**53
_UPLOAD = "upload:"
_INPUT = "input-"
_IMAGE_KEYS = ("image", "image_url", "path", "frame", "frame_index", "strength", "crf")
_VIDEO_KEYS = ("video", "path", "strength")
_SWITCH_WORDS = {"true": True, "1": True, "on": True, "false": False, "0": False, "off": False}


@dataclass(frozen=True)
class Upload:
    """A file of a request.

    Attributes:
        write: writes its content to a path and returns the number of bytes.
        head: its first bytes.
    """

    write: Callable[[Path], int]
    head: bytes


@dataclass(frozen=True)
class Served:
    """What this server offers to a request.

    Attributes:
        model: its name.
        loras: names of the LoRAs that a request may ask for.
        folders: folders below which a request may name files.
    """

    model: str
    loras: tuple[str, ...] = ()
    folders: tuple[Path, ...] = ()


@dataclass
class Asked:
    """A request whose fields are right one by one.

    Attributes:
        pipeline: its name.
        settings: setting -> JSON value; files are names in the job's folder, or absolute paths.
        output: the same of how the clip is written.
        loras: names with strengths.
        files: name in the job's folder -> what it holds.
    """

    pipeline: str = AUTOMATIC
    settings: dict[str, Any] = field(default_factory=dict)
    output: dict[str, Any] = field(default_factory=dict)
    loras: list[list[Any]] = field(default_factory=list)
    files: dict[str, Upload] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """What is stored of it; the files lie in the folder of the job."""
        return {name: getattr(self, name) for name in ("pipeline", "settings", "output", "loras")}

    @property
    def inputs(self) -> set[str]:
        """The files in the job's folder that the settings name."""
        found = set()
        for name, value in self.settings.items():
            if FIELDS[name].is_media:
                rows = [[value]] if FIELDS[name].form == "file" else value
                found |= {row[0] for row in rows if row[0].startswith(_INPUT)}
        return found

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Asked:
        """The request that was stored."""
        return cls(**{name: stored[name] for name in ("pipeline", "settings", "output", "loras")})


def read_asked(values: Mapping[str, Any], served: Served, before: Asked | None = None) -> Asked:
    """Check a request.

    Args:
        values: field -> JSON value, word of a form, or `Upload`.
        served: what the server offers.
        before: a request that this one repeats with changes.

    Raises:
        Refusal: 400, with the name of the field.
    """
    return _Reader(values, served, before).read()


class _Reader:
    def __init__(self, values: Mapping[str, Any], served: Served, before: Asked | None) -> None:
        self._values = values
        self._served = served
        self._asked = Asked() if before is None else Asked.of(json.loads(json.dumps(before.as_dict())))
        self._taken: set[str] = set()
        self._origin: dict[str, str] = {}
        self._kept = 0 if before is None else _next_number(before)

    def read(self) -> Asked:
        parts = {name for name, value in self._values.items() if isinstance(value, Upload)}
        for name, value in self._values.items():
            if value is None or (name in parts and name not in OWN and name not in FIELDS):
                continue
            self._read(name, value)
        unused = sorted(parts - self._taken)
        if unused:
            raise Refusal(unused[0], f"the uploaded file {_shown(unused[0])} belongs to no field; {_known(unused[0])}")
        return self._asked

    def _read(self, name: str, value: Any) -> None:
        setting = ALIASES.get(name, name)
        if setting in FIELDS:
            self._set(name, setting, self._stored(name, FIELDS[setting], value))
        elif name in OWN:
            getattr(self, f"_read_{name}")(value)
        elif name in UNSERVED:
            raise Refusal(name, f"{name} has no meaning for a server; {UNSERVED[name]}.")
        else:
            raise Refusal(name, f"unknown field {_shown(name)}; {_known(name)}")

    def _set(self, name: str, setting: str, value: Any) -> None:
        """Store a value; two fields of one request that say different things about a setting are refused."""
        values = getattr(self._asked, FIELDS[setting].target)
        other = self._origin.get(setting)
        if other is not None and values[setting] != value:
            raise Refusal(name, f"{name} and {other} say different things; give one of them.")
        self._origin[setting] = name
        for rival in _RIVALS.get(setting, ()):  # of the request that is repeated
            if rival not in self._origin:
                values.pop(rival, None)
        values[setting] = value

    # Values

    def _stored(self, name: str, known: Field, value: Any) -> Any:
        if known.form == "images":
            return self._images(name, value)
        if known.form == "videos":
            return [self._row(name, item, _VIDEO_KEYS, "video") for item in _listed(name, value)]
        if known.form == "file":
            return self._file(name, value)
        if isinstance(value, Upload):
            raise Refusal(name, f"{name} is no file; send its value as text.")
        return _plain(name, known, value)

    def _images(self, name: str, value: Any) -> list[list[Any]]:
        rows = []
        for item in _listed(name, value):
            path, frame, strength, crf = self._row(name, item, _IMAGE_KEYS, "image")
            rows.append([path, frame, strength, *([] if crf is None else [crf])])
        return rows

    def _row(self, name: str, item: Any, keys: tuple[str, ...], main: str) -> list[Any]:
        """``[file, strength]``, or ``[file, frame, strength, crf]`` of a picture."""
        if not isinstance(item, Mapping):
            item = {main: item}
        unknown = [key for key in item if key not in keys]
        if unknown:
            raise Refusal(name, f"{name}: unknown {_shown(unknown[0])}; its parts are {', '.join(keys)}.")
        source = next((item[key] for key in (main, f"{main}_url") if item.get(key) is not None), None)
        if source is None and item.get("path") is not None:
            source = {"path": item["path"]}
        if source is None:
            raise Refusal(name, f"{name}: an entry has no {main}; send a data: URL, base64 or a file.")
        path, strength = self._file(name, source), _number(name, item.get("strength", 1.0), "strength")
        if main == "video":
            return [path, strength]
        frame = item.get("frame_index") if item.get("frame") is None else item["frame"]
        crf = item.get("crf")
        return [
            path,
            0 if frame is None else _whole(name, frame, "frame"),
            strength,
            None if crf is None else _whole(name, crf, "crf"),
        ]

    def _file(self, name: str, value: Any) -> str:
        """The name in the job's folder, or the path, of a file."""
        if isinstance(value, Upload):
            self._taken.add(name)
            return self._added(name, value)
        if isinstance(value, Mapping) and set(value) == {"path"}:
            return str(self._allowed(name, value["path"]))
        if isinstance(value, Mapping) and set(value) == {"image_url"}:
            value = value["image_url"]
        if not isinstance(value, str):
            raise Refusal(name, f"{name} must be a file of the form, a data: URL or base64, got {_shown(value)}.")
        if value.startswith(_UPLOAD):
            part = value.removeprefix(_UPLOAD)
            upload = self._values.get(part)
            if not isinstance(upload, Upload):
                raise Refusal(name, f"{name} names the file {_shown(part)}, which the form does not have.")
            self._taken.add(part)
            return self._added(name, upload)
        return self._added(name, _decoded(name, value))

    def _added(self, name: str, upload: Upload) -> str:
        if len(self._asked.files) >= MOST_FILES:
            raise Refusal(name, f"a request may have {MOST_FILES} files at the most; send fewer.")
        stored = f"{_INPUT}{self._kept + len(self._asked.files)}{suffix_of(upload.head)}"
        self._asked.files[stored] = upload
        return stored

    def _allowed(self, name: str, value: Any) -> Path:
        """A file of the server that the client may name."""
        if not isinstance(value, str) or "\0" in value:
            raise Refusal(name, f"{name}: a path must be a text, got {_shown(value)}.")
        try:
            path = Path(value).resolve()
            allowed = any(path.is_relative_to(folder) for folder in self._served.folders) and path.is_file()
        except (OSError, ValueError, RuntimeError):
            allowed = False
        if not allowed:
            raise Refusal(
                name,
                f"{name}: {_shown(value)} is no file in a folder that this server allows; upload the file, or start "
                "the server with --allow-folder.",
            )
        return path

    # Fields that are no settings

    def _read_model(self, value: Any) -> None:
        if value != self._served.model:
            raise Refusal(
                "model", f"model must be {self._served.model}, got {_shown(value)}; leave it out, or ask /v1/models."
            )

    def _read_pipeline(self, value: Any) -> None:
        if not isinstance(value, str):
            raise Refusal("pipeline", f"pipeline must be a name, got {_shown(value)}.")
        try:
            self._asked.pipeline = pipeline_name(value)
        except UsageError as error:
            raise Refusal("pipeline", str(error)) from None

    def _read_size(self, value: Any) -> None:
        found = re.fullmatch(r"(\d{1,6})\s*x\s*(\d{1,6})", value, re.IGNORECASE) if isinstance(value, str) else None
        if found is None:
            raise Refusal("size", f"size must be WIDTHxHEIGHT such as 768x512, got {_shown(value)}.")
        for setting, number in zip(("width", "height"), found.groups(), strict=True):
            self._set("size", setting, _plain("size", FIELDS[setting], int(number)))

    def _read_input_reference(self, value: Any) -> None:
        if isinstance(value, Upload):
            self._taken.add("input_reference")
        elif isinstance(value, Mapping) and "file_id" in value:
            raise Refusal("input_reference", "input_reference: this server keeps no files; send the picture itself.")
        row = [self._file("input_reference", value), 0, 1.0]
        self._asked.settings["images"] = [row, *self._asked.settings.get("images", [])]

    def _read_loras(self, value: Any) -> None:
        loras = []
        for item in _listed("loras", value):
            if isinstance(item, str):
                item = {"name": item}
            if not isinstance(item, Mapping) or not set(item) <= {"name", "strength", "scale"} or "name" not in item:
                raise Refusal(
                    "loras", f"loras: an entry must be a name, or a name with a strength, got {_shown(item)}."
                )
            if item["name"] not in self._served.loras:
                known = ", ".join(self._served.loras) or "none"
                raise Refusal("loras", f"loras: there is no LoRA {_shown(item['name'])} here; there are: {known}.")
            strength = item.get("strength", item.get("scale", 1.0))
            loras.append([item["name"], _number("loras", strength, "strength")])
        self._asked.loras = loras

    def _read_n(self, value: Any) -> None:
        if value not in (1, "1"):
            raise Refusal("n", f"n must be 1, got {_shown(value)}; send several requests.")


# Settings that take each other's place when a request is repeated with one of them.
_RIVALS: Mapping[str, tuple[str, ...]] = {
    "duration": ("num_frames", "auto_duration"),
    "num_frames": ("duration", "auto_duration"),
    "auto_duration": ("duration", "num_frames"),
}


def _plain(name: str, known: Field, value: Any) -> Any:
    """The JSON value of a setting; Refusal names the field."""
    said = known.said
    if isinstance(value, str) and len(value) > LONGEST_TEXT:
        raise Refusal(name, f"{name} must be {LONGEST_TEXT} characters or less, got {len(value)}.")
    if isinstance(value, int) and abs(value) > _LARGEST:
        raise Refusal(name, f"{name} is too large a number: {_shown(value)}.")
    try:
        if known.form == "switch" and isinstance(value, str):
            value = _SWITCH_WORDS[value.lower()]
        elif known.form == "list":
            return _plain_list(name, known, value)
        elif isinstance(value, str) and known.form not in ("text", "choice"):
            return said.kind.plain(said.checked(name, said.kind.parse(value)))
        return said.kind.plain(said.stored(name, value))
    except UsageError as error:
        raise Refusal(name, str(error)) from None
    except (TypeError, ValueError, KeyError, ArithmeticError, RecursionError):
        raise Refusal(name, f"{name} must be {said.wanted}, got {_shown(value)}.") from None


def _plain_list(name: str, known: Field, value: Any) -> Any:
    """The JSON value of a setting that has several words: a list, or a text with commas."""
    if isinstance(value, str):
        value = json.loads(value) if value.startswith("[") else [word for word in value.split(",") if word.strip()]
    if not isinstance(value, list) or len(value) > 1000:
        raise ValueError
    for item in value:
        if isinstance(item, (bool, dict, list)) or item is None or (isinstance(item, int) and abs(item) > _LARGEST):
            raise ValueError
    said = known.said
    return said.kind.plain(said.checked(name, said.kind.rows([value])))


def _listed(name: str, value: Any) -> Sequence[Any]:
    """The entries of a list, also where it is JSON in a field of a form, or one entry alone."""
    if isinstance(value, str) and value[:1] in ("[", "{"):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise Refusal(name, f"{name} is no JSON: {_shown(value)}.") from None
    return value if isinstance(value, list) else [value]


def _number(name: str, value: Any, what: str) -> float:
    try:
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = float("nan")
    if not abs(number) <= 1000:
        raise Refusal(name, f"{name}: {what} must be a number, got {_shown(value)}.")
    return number


def _whole(name: str, value: Any, what: str) -> int:
    number = value
    if isinstance(value, str):
        number = int(value) if re.fullmatch(r"-?\d{1,9}", value) else None
    if isinstance(number, bool) or not isinstance(number, int) or abs(number) > _LARGEST:
        raise Refusal(name, f"{name}: {what} must be a whole number, got {_shown(value)}.")
    return number


def _decoded(name: str, value: str) -> Upload:
    """The file in a ``data:`` URL or in base64."""
    if value.startswith(("http://", "https://", "file:")):
        raise Refusal(name, f"{name}: addresses are not fetched; send the file itself.")
    text = value
    if value.startswith("data:"):
        head, comma, text = value.partition(",")
        if not comma or not head.endswith(";base64"):
            raise Refusal(name, f"{name}: a data: URL must be data:TYPE;base64,DATA, got {_shown(value)}.")
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        content = b""
    if not content:
        raise Refusal(name, f"{name} must be a file of the form, a data: URL or base64, got {_shown(value)}.")
    return Upload(lambda path: path.write_bytes(content), content[:64])


_BRANDS = {b"heic": ".heic", b"heix": ".heic", b"mif1": ".heic", b"avif": ".avif", b"qt  ": ".mov", b"M4A ": ".m4a"}
_MAGIC = (
    (b"\x89PNG", ".png"),
    (b"\xff\xd8\xff", ".jpg"),
    (b"GIF8", ".gif"),
    (b"BM", ".bmp"),
    (b"II*\0", ".tiff"),
    (b"MM\0*", ".tiff"),
    (b"\x76\x2f\x31\x01", ".exr"),
    (b"\x1aE\xdf\xa3", ".webm"),
    (b"ID3", ".mp3"),
    (b"\xff\xfb", ".mp3"),
    (b"fLaC", ".flac"),
    (b"OggS", ".ogg"),
    (b"PK\x03\x04", ".npz"),
)


def suffix_of(head: bytes) -> str:
    """The ending of a file by its first bytes; what a client calls it does not count."""
    if head[:4] == b"RIFF":
        return {b"WEBP": ".webp", b"WAVE": ".wav", b"AVI ": ".avi"}.get(head[8:12], ".bin")
    if head[4:8] == b"ftyp":
        return _BRANDS.get(head[8:12], ".mp4")
    if head[8:9] == b"{":
        return ".safetensors"
    return next((suffix for magic, suffix in _MAGIC if head.startswith(magic)), ".bin")


def _next_number(asked: Asked) -> int:
    """The first free number of the inputs in a job's folder."""
    return 1 + max((int(name.removeprefix(_INPUT).partition(".")[0]) for name in asked.inputs), default=-1)


def _known(name: str) -> str:
    names = [*FIELDS, *ALIASES, *OWN]
    near = difflib.get_close_matches(name[:100], names, n=1, cutoff=0.75)
    return f"did you mean {near[0]}?" if near else "the fields are in docs/serve.md and at /v1/options."


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]}..."
