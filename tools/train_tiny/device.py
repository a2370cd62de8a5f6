"""Where the stages compute: PyTorch's default device, which `train.py` sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch


def read_state(path: Path) -> dict[str, Any]:
    """A checkpoint's tensors on the default device."""
    state: dict[str, Any] = torch.load(path, map_location=torch.get_default_device(), weights_only=True)
    return state


def mixed_precision() -> torch.autocast:
    """Matrix products in bfloat16 on the default device."""
    return torch.autocast(torch.get_default_device().type, torch.bfloat16)


def seeded(seed: int) -> torch.Generator:
    """Random numbers of their own on the default device."""
    return torch.Generator(torch.get_default_device()).manual_seed(seed)


def common_generator() -> torch.Generator:
    """What draws on the default device when no generator is named; `torch.manual_seed` seeds it."""
    device = torch.get_default_device()
    return torch.cuda.default_generators[device.index or 0] if device.type == "cuda" else torch.default_generator
