"""ltx2rt: a kernel runtime for Lightricks' LTX-2 audio-video diffusion models."""
