"""Which files a command writes, under which names, so that nothing is replaced that was not meant to be."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ltx2rt.api.output_files import PICTURE, RECORD, SOUND, WrittenFile, check_files, check_folder, clip_files, numbered
from ltx2rt.api.outputs import OutputOptions
from ltx2rt.media.output_lock import held, is_held
from ltx2rt.spelling import spelled

# What --help says about every verb that writes files.
RULE = (
    "A file that exists is not replaced: the next free name is taken (clip-2.mp4) and said, unless --overwrite is "
    "given. An input is never replaced, and a file that another run is writing is refused."
)
# What names files: attributes of `Outputs` and of its options.
_NAMES = ("clip", "save_wav", "save_first_frame", "contact_sheet", "save_latents", "report", "preview")


def asks_for_sound(clip: Path, options: OutputOptions) -> bool:
    """Whether a file of sound alone is to be written."""
    return options.save_wav is not None or clip.suffix.lower() in SOUND


@dataclass(frozen=True)
class Outputs:
    """The files of one command that makes a clip.

    Attributes:
        clip: the clip; not written where only latents are made.
        options: how it is written.
        pictures, sound: whether it can have pictures and sound.
        decoded: whether more than latents is made.
        hdr_space: colour space of the EXR frames of high dynamic range; None: a usual clip.
        report, preview: further files.
        save_control: write the control video beside the clip.
        own: absolute paths of files that the interrupted run which goes on may have left.
        interrupted: the name of its clip, if one goes on.
    """

    clip: Path
    options: OutputOptions
    pictures: bool = True
    sound: bool = True
    decoded: bool = True
    hdr_space: str | None = None
    report: Path | None = None
    preview: Path | None = None
    save_control: bool = False
    own: frozenset[Path] = frozenset()
    interrupted: Path | None = None

    @property
    def state_of(self) -> Path:
        """The clip beside whose name lies what can be resumed."""
        return self.interrupted or self.clip

    @property
    def control(self) -> Path:
        """The control video."""
        return self.clip.with_suffix(".control.mp4")

    def files(self) -> list[WrittenFile]:
        """Everything that is written; UsageError for what the clip does not have."""
        files = clip_files(
            self.clip,
            self.options,
            pictures=self.pictures,
            sound=self.sound,
            decoded=self.decoded,
            hdr_space=self.hdr_space,
        )
        if self.report is not None:
            files.append(WrittenFile(spelled("report"), self.report, RECORD))
        if self.preview is not None:
            files.append(WrittenFile(spelled("preview"), self.preview, PICTURE))
        if self.save_control:
            files.append(WrittenFile(spelled("save_control"), self.control, (".mp4",)))
        return files

    @property
    def paths(self) -> list[Path]:
        return [file.path for file in self.files()]

    @contextmanager
    def held(self) -> Iterator[None]:
        """No other run writes one of the files inside the block; UsageError if one does already."""
        # What can be resumed is held without a clip of its name, too.
        files = self.files()
        written = [file.path for file in files]
        for path in dict.fromkeys([self.clip, self.state_of]):
            if path not in written:
                files.append(WrittenFile("the clip", path, (path.suffix,)))
        for file in files:
            check_folder(file)
        with held(file.path for file in files):
            yield

    def check(self, inputs: Iterable[Path], *, overwrite: bool) -> None:
        """Refuse names that do not fit, collisions, inputs, and files that exist; see `check_files`."""
        own = [path for path in self.paths if path.absolute() in self.own]
        check_files(self.files(), inputs, overwrite=overwrite, own=own)


def free_outputs(outputs: Outputs, *, avoid_held: bool) -> tuple[Outputs, list[str]]:
    """The outputs with free names in place of those that exist.

    Files that get another name get the same number. What belongs to the clip, its record and its control video, keeps
    to it.

    Args:
        outputs: with the names that are asked for.
        avoid_held: count a name of the clip as taken, too, that another run is writing.

    Returns:
        The outputs, and what to say about other names.
    """
    kept = {path for path in outputs.paths if path.absolute() in outputs.own}

    def is_taken(path: Path) -> bool:
        return path not in kept and (os.path.lexists(path) or (avoid_held and is_held(path)))

    def named_by(name: str) -> set[Path]:
        return {*outputs.paths} - {*_numbered(outputs, (name,), 2).paths}

    moving = [name for name in _NAMES if any(map(is_taken, named_by(name)))]
    if not moving:
        return outputs, []
    number = 2
    while any(map(is_taken, {*_numbered(outputs, moving, number).paths} - {*outputs.paths})):
        number += 1
    found = _numbered(outputs, moving, number)
    return found, [said(old, new) for old, new in zip(outputs.paths, found.paths, strict=True) if old != new]


def free_path(path: Path, *beside: str) -> Path:
    """The first of ``clip.mp4``, ``clip-2.mp4``, ... that does not exist.

    Args:
        path: the name that is asked for.
        beside: what is added to it for files that are written with it and must not exist either.
    """
    number = 1
    while any(os.path.lexists(f"{numbered(path, number)}{end}") for end in ("", *beside)):
        number += 1
    return numbered(path, number)


def said(asked: Path, found: Path) -> str:
    """The line about a file that gets another name than the one that was asked for."""
    return f"{asked} exists: writing {found} (--overwrite would replace it)"


def names_up_to_free(path: Path) -> Sequence[Path]:
    """``clip.mp4``, ``clip-2.mp4``, ... up to the first that does not exist."""
    names = [path]
    while os.path.lexists(names[-1]):
        names.append(numbered(path, len(names) + 1))
    return names


def _numbered(outputs: Outputs, names: Collection[str], number: int) -> Outputs:
    """The outputs with a number at the files that these options name."""
    options: dict[str, Any] = {
        name: numbered(path, number)
        for name in names
        if hasattr(outputs.options, name) and (path := getattr(outputs.options, name)) is not None
    }
    own: dict[str, Any] = {
        name: numbered(path, number)
        for name in names
        if hasattr(outputs, name) and (path := getattr(outputs, name)) is not None
    }
    return replace(outputs, options=replace(outputs.options, **options), **own)
