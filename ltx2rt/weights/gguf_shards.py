"""GGUF models that were split into several files: found beside each other, complete, and with the values of the first.

A splitter writes the values of the model into the first file alone, and ``split.no`` (from 0), ``split.count`` and
``split.tensors.count`` into each. Their names end in ``-00001-of-00003.gguf``.

Source: tools/gguf-split of llama.cpp.
"""

from __future__ import annotations

import re
from pathlib import Path

from ltx2rt.errors import CheckpointError
from ltx2rt.weights.gguf import GgufFile
from ltx2rt.weights.markers import GGUF_MARKER

_NAME = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf$", re.IGNORECASE)
_CURE = "download it again, or merge the model with llama-gguf-split --merge"


def split_count(file: GgufFile) -> int:
    """How many files a model was split into of which this is one; 1 for a whole one."""
    count = file.value("split.count")
    return count if isinstance(count, int) and count > 1 else 1


def open_shards(path: Path) -> list[GgufFile]:
    """Every file of the model of which one is at ``path``, the first one first; what that states, all state.

    Raises:
        CheckpointError: a file is missing, damaged, or belongs to another model.
    """
    paths = _paths(path)
    first = GgufFile(paths[0])
    files = [first, *(GgufFile(other, first) for other in paths[1:])]
    for number, file in enumerate(files):
        stated = file.value("split.no"), split_count(file)
        if stated != (number, len(files)):
            raise CheckpointError(
                f"{file.path}: states that it is number {_shown(stated[0])} of {stated[1]} files, not {number + 1} of "
                f"{len(files)}; {_CURE}."
            )
    total, held = first.value("split.tensors.count"), sum(len(file.tensors) for file in files)
    if total is not None and total != held:
        raise CheckpointError(f"{first.path}: the model has {total} tensors, its files have {held}; {_CURE}.")
    names, stated_by_first = {name for file in files for name in file.tensors}, first.metadata
    for file in files:
        # What is said of a tensor belongs to the file that holds it.
        elsewhere = {GGUF_MARKER + name for name in names - file.tensors.keys()}
        merged = {**stated_by_first, **file.metadata}
        file.metadata = {key: value for key, value in merged.items() if key not in elsewhere}
    return files


def _paths(path: Path) -> list[Path]:
    """The files of a model by their names, the first one first."""
    count = split_count(GgufFile(path))
    named = _NAME.match(path.name)
    if named is None or int(named[3]) != count:
        raise CheckpointError(
            f"{path}: one of {count} files that a GGUF model was split into; their names must end in "
            f"-00001-of-{count:05}.gguf and so on; rename them, or merge them with llama-gguf-split --merge."
        )
    ending = f"of-{named[3]}{path.suffix}"
    paths = [path.with_name(f"{named[1]}-{number:05}-{ending}") for number in range(1, count + 1)]
    missing = [other.name for other in paths if not other.is_file()]
    if missing:
        raise CheckpointError(
            f"{path}: one of {count} files that a GGUF model was split into, of which {', '.join(missing[:5])} "
            f"{'is' if len(missing) == 1 else 'are'} missing; put all of them into one folder."
        )
    return paths


def _shown(number: object) -> str:
    return str(number + 1) if isinstance(number, int) else "unknown"
