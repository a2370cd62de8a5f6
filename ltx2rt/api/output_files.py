"""Every file that a run writes, checked as a whole before anything is computed."""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ltx2rt.api.outputs import OutputOptions
from ltx2rt.api.record import sidecar_path
from ltx2rt.errors import MediaError, UsageError, write_failure
from ltx2rt.media.exr import exr_folder, is_own_frame
from ltx2rt.media.output_folder import require_replaceable
from ltx2rt.media.video_writer import CONTAINERS, HLG
from ltx2rt.spelling import spelled

# Options of the video's encoder, and those that also change a file of sound.
_OF_PICTURES, _OF_CLIPS = ("codec", "crf", "preset"), ("speed", "audio")
VIDEO, SOUND, PICTURE, LATENTS, RECORD = tuple(CONTAINERS), (".wav",), (".png",), (".safetensors",), (".json",)


@dataclass(frozen=True)
class WrittenFile:
    """One file that is going to be written.

    Attributes:
        name: what names it for the caller, an option or an argument.
        path: where.
        suffixes: the ends of names that say truthfully what it holds, in lower case; empty: a folder of EXR frames.
    """

    name: str
    path: Path
    suffixes: tuple[str, ...]

    @property
    def is_folder(self) -> bool:
        return not self.suffixes


def clip_files(
    path: Path, options: OutputOptions, *, pictures: bool, sound: bool, decoded: bool, hdr_space: str | None = None
) -> list[WrittenFile]:
    """The files of a saved clip.

    Args:
        path: of the clip.
        options: how it is written.
        pictures, sound: what the clip has.
        decoded: False: there are latents alone, and no file ``path``.
        hdr_space: colour space of the EXR frames of high dynamic range; None: a usual clip.

    Raises:
        UsageError: files that such a clip does not have, or a codec that it cannot have.
    """
    alone = path.suffix.lower() in SOUND
    for name, nothing in (
        ("save_first_frame", f"{path.name} is sound alone" if alone or not pictures else ""),
        ("contact_sheet", f"{path.name} is sound alone" if alone or not pictures else ""),
        ("save_wav", "" if sound else "there is no sound"),
    ):
        reason = nothing if decoded else "latents alone are made"
        if getattr(options, name) is not None and reason:
            raise UsageError(f"{spelled(name)} has nothing to write, because {reason}; leave it out.")
    usual = OutputOptions()
    for name in (*_OF_PICTURES, *_OF_CLIPS):
        nothing = f"{path.name} is sound alone" if alone or not pictures else ""
        reason = (nothing if name in _OF_PICTURES else "") if decoded else "latents alone are made"
        if getattr(options, name) != getattr(usual, name) and reason:
            raise UsageError(f"{spelled(name)} has no effect, because {reason}; leave it out.")
    if not decoded and options.save_latents is None:
        raise UsageError(
            f"{spelled('latents_only')} makes latents only; name their file with {spelled('save_latents')}."
        )
    if decoded and alone and not options.audio:
        raise UsageError(f"{path.name} is a file of sound, which {spelled('audio')} leaves out; give one of them.")
    if hdr_space is not None and options.codec not in (None, *HLG.codecs):
        raise UsageError(
            f"{spelled('codec')}: the master of high dynamic range is {', '.join(HLG.codecs)}, got {options.codec}; "
            "leave it out."
        )
    files = []
    if decoded:
        suffixes = (*(VIDEO if pictures else ()), *(SOUND if sound else ()))
        files.append(WrittenFile(_main_name("path"), path, suffixes))
        if hdr_space is not None and not alone:
            files.append(WrittenFile("the folder of EXR frames", exr_folder(path, hdr_space), ()))
    for name, suffixes in (
        ("save_wav", SOUND),
        ("save_first_frame", PICTURE),
        ("contact_sheet", PICTURE),
        ("save_latents", LATENTS),
    ):
        further = getattr(options, name)
        if further is not None:
            files.append(WrittenFile(spelled(name), further, suffixes))
    if options.sidecar:
        target = path if decoded or options.save_latents is None else options.save_latents
        files.append(WrittenFile("the sidecar", sidecar_path(target), RECORD))
    return files


def embedding_files(path: Path) -> list[WrittenFile]:
    """The files of a saved text embedding."""
    return [
        WrittenFile(_main_name("output"), path, (".safetensors", ".npz")),
        WrittenFile("the sidecar", sidecar_path(path), RECORD),
    ]


def check_files(
    files: Sequence[WrittenFile], inputs: Iterable[Path], *, overwrite: bool, own: Collection[Path] = ()
) -> None:
    """Refuse what must not be written or cannot.

    Args:
        files: everything that is going to be written.
        inputs: files that are read, and folders of such files.
        overwrite: whether files that exist are replaced; one that is read never is.
        own: files that the same run has written before, which it replaces.

    Raises:
        UsageError: a name that says something else than the file holds, two outputs in one file, an output that is an
            input, whatever links lead there, or one that exists.
        MediaError: a folder is missing or refuses new files.
    """
    for file in files:
        if file.is_folder:
            require_replaceable(file.path, is_own_frame)
            continue
        if file.path.is_dir():
            raise UsageError(f"{file.name}: {file.path} is a folder; name a file.")
        if file.path.suffix.lower() not in file.suffixes:
            raise UsageError(
                f"{file.name} must end in {', '.join(file.suffixes)}, which is what it holds, got {file.path.name!r}; "
                "rename it."
            )
    _check_collisions(files)
    _check_inputs(files, [path for path in inputs if os.path.lexists(path)])
    there = [file for file in files if os.path.lexists(file.path)]
    special = [
        file.path
        for file in there
        if not file.is_folder and file.path.exists() and not stat.S_ISREG(file.path.stat().st_mode)
    ]
    if special:
        raise UsageError(f"{special[0]} is no regular file and is not replaced; name another file.")
    existing = [file.path for file in there if file.path not in own]
    if existing and not overwrite:
        raise UsageError(
            f"{', '.join(map(str, existing))} {'exists' if len(existing) == 1 else 'exist'}; give "
            f"{spelled('overwrite')} to replace {'it' if len(existing) == 1 else 'them'}, or another name."
        )
    for folder in dict.fromkeys(file.path.parent for file in files):
        check_folder(next(file for file in files if file.path.parent == folder))


def check_folder(file: WrittenFile) -> None:
    """Raise when a file, or a folder of them, cannot be written because of the folder it is to be in.

    Raises:
        UsageError: the path of a file is a folder.
        MediaError: the folder is missing or refuses new files.
    """
    path, folder = file.path, file.path.parent
    if path.is_dir() and not file.is_folder:
        raise UsageError(f"the output {path} is a folder; name a file.")
    if not folder.is_dir():
        raise MediaError(f"the output folder {folder} does not exist; create it or choose another path.")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise write_failure(path, error) from error


def numbered(path: Path, number: int) -> Path:
    """``clip.mp4`` -> ``clip-2.mp4``; 1 leaves it as it is."""
    return path if number == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}")


def _main_name(argument: str) -> str:
    """What names the main output: the option, or the argument of a Python function."""
    option = spelled("output_path")
    return argument if option == "output_path" else option


def _check_collisions(files: Sequence[WrittenFile]) -> None:
    for index, file in enumerate(files):
        for other in files[:index]:
            if _same_target(file.path, other.path):
                raise UsageError(f"{other.name} and {file.name} are both written to {file.path}; give each a file.")


def _check_inputs(files: Sequence[WrittenFile], inputs: Sequence[Path]) -> None:
    for file in files:
        if not file.path.exists():
            continue
        for path in inputs:
            if not path.exists():
                continue
            if file.is_folder and path.resolve().is_relative_to(file.path.resolve()) and not file.path.samefile(path):
                raise UsageError(f"{file.name}: the input {path} lies in {file.path}; name another file.")
            inside = path.is_dir() and file.path.resolve().is_relative_to(path.resolve())
            if inside or os.path.samefile(file.path, path):
                what = f"lies among the inputs in {path}" if inside else "is the input"
                what += "" if inside or path == file.path else f" {path}"
                raise UsageError(f"{file.name}: {file.path} {what}; name another file, inputs are never replaced.")


def _same_target(first: Path, second: Path) -> bool:
    if first.exists() and second.exists() and os.path.samefile(first, second):
        return True
    names = [os.path.join(os.path.realpath(path.parent), path.name) for path in (first, second)]
    if sys.platform == "darwin":  # whose file systems usually do not tell capitals
        names = [name.casefold() for name in names]
    return names[0] == names[1]
