"""The vocoder of LTX-2.3 with its extension of the bandwidth to 48 kHz."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx

from ltx2rt.bench.case import normal
from ltx2rt.bench.stage import Part, StageCase, random_params
from ltx2rt.graph.models.audio.vocoder import Vocoder, VocoderConfig, param_specs
from ltx2rt.graph.models.layers.params import Params

MEL_FRAMES = 25  # a quarter of a second
_LOWPASS = (0.00202896, 0.00938947, -0.02554346, -0.05765738, 0.12857258, 0.44320980)


@dataclass(frozen=True)
class BandwidthCase(StageCase):
    """A log-mel spectrogram to stereo sound at 48 kHz, in float32 as always."""

    frames: int
    dtype: str = "f32"
    small: bool = False

    @property
    def name(self) -> str:
        return f"vocoder-2.3/{self.dtype}/{self.frames}"

    def reduced(self) -> BandwidthCase:
        return replace(self, frames=5, small=True)

    def part(self) -> Part:
        return Bandwidth(self)


def _section(core: int, extension: int) -> dict[str, Any]:
    shared = {
        "resblock": "AMP1",
        "activation": "snakebeta",
        "resblock_kernel_sizes": [3, 7, 11],
        "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5], [1, 3, 5]],
        "stereo": True,
        "use_tanh_at_final": False,
        "use_bias_at_final": False,
    }
    return {
        "vocoder": {
            **shared,
            "upsample_initial_channel": core,
            "upsample_rates": [5, 2, 2, 2, 2, 2],
            "upsample_kernel_sizes": [11, 4, 4, 4, 4, 4],
        },
        "bwe": {
            **shared,
            "upsample_initial_channel": extension,
            "upsample_rates": [6, 5, 2, 2, 2],
            "upsample_kernel_sizes": [12, 11, 4, 4, 4],
            "apply_final_activation": False,
            "input_sampling_rate": 16000,
            "output_sampling_rate": 48000,
            "hop_length": 80,
            "n_fft": 512,
            "win_size": 512,
            "num_mels": 64,
        },
    }


class Bandwidth:
    def __init__(self, case: BandwidthCase) -> None:
        self.widths = (64, 32) if case.small else (1536, 512)
        config = VocoderConfig.from_dict(_section(*self.widths))
        self.specs = param_specs(config)
        self.params = random_params(self.specs, case.dtype)
        for name, array in self.params.items():
            if name.endswith(".filter"):
                self.params[name] = mx.array([*_LOWPASS, *reversed(_LOWPASS)]).reshape(1, 1, -1)
            elif name.endswith(".weight") and isinstance(array, mx.array):
                # The sound must stay within [-1, 1], where diffusers, unlike the official code, cuts nothing off.
                self.params[name] = 0.3 * array
        mx.eval([array for array in self.params.values() if isinstance(array, mx.array)])
        self._vocoder = Vocoder(config, Params(self.params))
        self.log_mel = normal((1, case.frames, 64, 2), 1, mx.float32)

    def build(self) -> mx.array:
        return self._vocoder(self.log_mel)
