"""Writes ltx2rt/api/call_arguments.py, the typed arguments of a pipeline call, from the table of settings.

    python tools/make_call_arguments.py > ltx2rt/api/call_arguments.py

A test compares the file with what this prints.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from ltx2rt.graph.settings.setting import settings_of
from ltx2rt.graph.settings.settings import Settings

HEADER = '''"""Every setting of a pipeline call with its type, for editors and type checkers.

Made from `ltx2rt.graph.settings.settings` by tools/make_call_arguments.py; change it there.
"""

# ruff: noqa: E501  (generated)
from __future__ import annotations

import os
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, TypedDict

import numpy as np

from ltx2rt.graph.diffusion.noise import NoiseSource
from ltx2rt.graph.models.video_vae.tiling import Tiling
from ltx2rt.graph.settings.inputs import IcLoraStage, ImageInput, VideoInput, VideoSource
from ltx2rt.media.images import ImageSource
from ltx2rt.weights.embedding_file import TextEmbedding


class CallArguments(TypedDict, total=False):
    """What a pipeline call takes besides the prompt; None is the default."""
'''


def lines() -> Iterator[str]:
    """The file, line by line."""
    yield from HEADER.splitlines()
    for name, (entry, said) in settings_of(Settings).items():
        if name != "prompt":
            optional = "" if "None" in said.kind.annotation else " | None"
            yield ""
            yield f"    {name}: {said.kind.annotation}{optional}"
            shown = said.shown_default or repr(entry.default)
            limits = f", {said.range}" if said.range else ""
            choices = f"; one of {', '.join(said.choices)}" if said.choices else ""
            yield f'    """{said.help}{limits}{choices} (default: {shown})."""'


if __name__ == "__main__":
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args()
    print("\n".join(lines()))
