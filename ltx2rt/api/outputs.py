"""How a clip is written: which files, and with which encoder settings."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ltx2rt.media.video_writer import DEFAULT_PRESET


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
