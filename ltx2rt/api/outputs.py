"""How a clip is written: which files, and with which encoder settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltx2rt.graph.settings.kinds import FilePath, Number, Switch, Text, Whole
from ltx2rt.graph.settings.setting import plain_values, setting, stored_values
from ltx2rt.media.video_writer import CODECS, HLG, PRESETS, SDR

# ruff: noqa: RUF009  (the calls make dataclass fields)


@dataclass(frozen=True)
class OutputOptions:
    """Encoder settings and further files of one saved clip.

    Attributes:
        codec: ``h264`` or ``hevc``; None = ``h264``, and ``hevc`` for high dynamic range, which has no other.
        crf: quality, 0 (best) to 51; None = the usual one.
        preset: encoder speed; None = the usual one.
        speed: playback speed; pictures and sound are both changed.
        save_wav: the sound as a .wav file.
        save_first_frame: the first frame as a .png file.
        contact_sheet: a .png file with frames in rows.
        save_latents: the final latents as a .safetensors file.
        audio: give the clip a sound track; without one its sound can still be written by ``save_wav``.
        sidecar: write FILE.json with every setting beside the clip.
    """

    codec: str | None = setting(
        None,
        Text(),
        "of the video",
        "Output",
        choices=tuple(CODECS),
        shown_default=f"{SDR.codecs[0]}; {HLG.codecs[0]} for high dynamic range",
    )
    crf: int | None = setting(
        None,
        Whole(),
        f"quality of the video, 0 (best, hardly any loss) to 51 (default: "
        f"{', '.join(f'{n} {c.crf}' for n, c in CODECS.items())}, high dynamic range {HLG.crf})",
        "Output",
        low=0,
        high=51,
    )
    preset: str | None = setting(
        None,
        Text(),
        "speed of the encoder",
        "Output",
        choices=PRESETS,
        shown_default=f"{SDR.preset}; {HLG.preset} for high dynamic range",
    )
    speed: float = setting(1.0, Number(), "playback speed", "Output", low=0.1, high=10)
    save_wav: Path | None = setting(None, FilePath("FILE.wav"), "also write the sound", "Output")
    save_first_frame: Path | None = setting(None, FilePath("FILE.png"), "also write the first frame", "Output")
    contact_sheet: Path | None = setting(None, FilePath("FILE.png"), "also write frames in rows", "Output")
    save_latents: Path | None = setting(None, FilePath("FILE.safetensors"), "also write the final latents", "Output")
    audio: bool = setting(
        True, Switch(), "make a clip without a sound track", "Output", flags=("--no-audio",), turns_off=True
    )
    sidecar: bool = setting(
        True, Switch(), "do not write FILE.json beside the clip", "Output", flags=("--no-sidecar",), turns_off=True
    )

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> OutputOptions:
        """Options from named values, each converted and checked; UsageError for what does not fit."""
        return cls(**stored_values(cls, values))

    def as_dict(self) -> dict[str, Any]:
        """The options that differ from their defaults as JSON values."""
        defaults = plain_values(OutputOptions())
        return {name: value for name, value in plain_values(self).items() if value != defaults.get(name)}
