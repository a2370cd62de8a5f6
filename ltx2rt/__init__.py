"""ltx2rt: a kernel runtime for Lightricks' LTX-2 audio-video diffusion models."""

from ltx2rt._abi import load_extension

__version__ = "0.1.0"

load_extension()
