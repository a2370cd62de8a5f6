"""Which files a command writes, under which names, so that nothing is replaced that was not meant to be."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ltx2rt.api.output_files import PICTURE, RECORD, WrittenFile, check_files, check_folder, clip_files, numbered
from ltx2rt.api.outputs import OutputOptions
from ltx2rt.media.output_lock import held, is_held
from ltx2rt.spelling import spelled

# What --help says about every verb that writes files.
RULE = (
    "Files that exist are not replaced: one that you name is refused, unless --overwrite is given; where you name "
    "none, the next free name is taken (output-2.mp4). Inputs are never replaced."
)
# The options of a clip that name further files.
FURTHER = ("save_wav", "save_first_frame", "contact_sheet", "save_latents")


@dataclass(frozen=True)
class Outputs:
    """The files of one command that makes a clip.

    Attributes:
        clip: the clip; not written where only latents are made.
        options: how it is written.
        pictures: whether it can have pictures.
        decoded: whether more than latents is made.
        report, preview: further files.
        save_control: write the control video beside the clip.
        own: absolute paths of files that the interrupted run which goes on may have left.
    """

    clip: Path
    options: OutputOptions
    pictures: bool = True
    decoded: bool = True
    report: Path | None = None
    preview: Path | None = None
    save_control: bool = False
    own: frozenset[Path] = frozenset()

    @property
    def control(self) -> Path:
        """The control video."""
        return self.clip.with_suffix(".control.mp4")

    def files(self) -> list[WrittenFile]:
        """Everything that is written; UsageError for what the clip does not have."""
        files = clip_files(self.clip, self.options, pictures=self.pictures, sound=True, decoded=self.decoded)
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
        # The clip's name is held without a clip, too: what can be resumed lies beside it.
        paths = list(dict.fromkeys([self.clip, *self.paths]))
        for path in paths:
            check_folder(path)
        with held(paths):
            yield

    def check(self, inputs: Iterable[Path], *, overwrite: bool) -> None:
        """Refuse names that do not fit, collisions, inputs, and files that exist; see `check_files`."""
        own = [path for path in self.paths if path.absolute() in self.own]
        check_files(self.files(), inputs, overwrite=overwrite, own=own)


def free_outputs(outputs: Outputs, unnamed: Collection[str]) -> tuple[Outputs, list[str]]:
    """The outputs with free names in place of those that nobody gave.

    Args:
        outputs: with the usual names.
        unnamed: ``output_path`` and those of `FURTHER` that the user did not name.

    Returns:
        The outputs, and what to say about other names.
    """
    number = 1
    named = {*_numbered(outputs, unnamed, 1).paths} & {*_numbered(outputs, unnamed, 2).paths}
    while any(_is_taken(path) for path in _numbered(outputs, unnamed, number).paths if path not in named):
        number += 1
    found = _numbered(outputs, unnamed, number)
    changed = [(old, new) for old, new in zip(outputs.paths, found.paths, strict=True) if old != new]
    return found, [f"writing {new}, as {old} exists" for old, new in changed[:1]]


def free_path(path: Path) -> Path:
    """The first of ``clip.mp4``, ``clip-2.mp4``, ... that does not exist and that no run is writing."""
    number = 1
    while _is_taken(numbered(path, number)):
        number += 1
    return numbered(path, number)


def names_up_to_free(path: Path) -> Sequence[Path]:
    """``clip.mp4``, ``clip-2.mp4``, ... up to the first that does not exist."""
    names = [path]
    while os.path.lexists(names[-1]):
        names.append(numbered(path, len(names) + 1))
    return names


def _numbered(outputs: Outputs, unnamed: Collection[str], number: int) -> Outputs:
    further: dict[str, Any] = {
        name: numbered(getattr(outputs.options, name), number)
        for name in FURTHER
        if name in unnamed and getattr(outputs.options, name) is not None
    }
    clip = numbered(outputs.clip, number) if "output_path" in unnamed else outputs.clip
    return replace(outputs, clip=clip, options=replace(outputs.options, **further))


def _is_taken(path: Path) -> bool:
    return os.path.lexists(path) or is_held(path)
