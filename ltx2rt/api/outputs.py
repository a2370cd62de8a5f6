"""How a clip is written: which files, and with which encoder settings."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ltx2rt.errors import UsageError
from ltx2rt.media.video_writer import CODECS, DEFAULT_PRESET, PRESETS


@dataclass(frozen=True)
class OutputOptions:
    """Encoder settings and further files of one saved clip.

    Attributes:
        codec: ``h264`` or ``hevc``.
        crf: quality, 0 (best) to 51; None = the codec's default.
        preset: encoder speed.
        speed: playback speed; pictures and sound are both changed.
        save_wav: the sound as a .wav file.
        save_first_frame: the first frame as a .png file.
        contact_sheet: a .png file with frames in rows.
        save_latents: the final latents as a .safetensors file.
        sidecar: write FILE.json with every setting beside the clip.
    """

    codec: str = "h264"
    crf: int | None = None
    preset: str = DEFAULT_PRESET
    speed: float = 1.0
    save_wav: Path | None = None
    save_first_frame: Path | None = None
    contact_sheet: Path | None = None
    save_latents: Path | None = None
    sidecar: bool = True

    def check(self) -> None:
        """Raise UsageError for values that no encoder takes."""
        if self.codec not in CODECS:
            raise UsageError(f"unknown video codec {self.codec!r}; use one of {', '.join(CODECS)}.")
        if self.crf is not None and not 0 <= self.crf <= 51:
            raise UsageError(f"crf must be 0 to 51, got {self.crf}; smaller is better quality.")
        if self.preset not in PRESETS:
            raise UsageError(f"unknown encoder preset {self.preset!r}; use one of {', '.join(PRESETS)}.")
        if not 0.1 <= self.speed <= 10.0:
            raise UsageError(f"the playback speed must be 0.1 to 10, got {self.speed}.")

    def as_dict(self) -> dict[str, Any]:
        """The options that differ from their defaults as JSON values."""
        values = {e.name: (getattr(self, e.name), e.default) for e in fields(self)}
        return {
            name: str(value.absolute()) if isinstance(value, Path) else value
            for name, (value, default) in values.items()
            if value != default
        }

    def files(self) -> list[Path]:
        """The further files."""
        named = (self.save_wav, self.save_first_frame, self.contact_sheet, self.save_latents)
        return [path for path in named if path is not None]
