"""What `ltx2rt verify` does not compare, and why: the one table of exceptions.

Everything else in a golden folder must be compared: a file that no case knows and a saved tensor that no case uses are
failures.
"""

from __future__ import annotations

import re

_UNUSED = "no pipeline of this version uses it"

# Paths below the golden folder.
_FILES: tuple[tuple[str, str], ...] = ()

# Tensors of files that are compared otherwise; of a JSON file, its entries.
_RESULTS = (
    (
        r"pipelines/(?!14_)\w+_ti2vid_two_stages(?!_hq).*",
        r"(noise_scale|noised_latent|denoise_mask|clean_latent|positions|initial_latent)\.03|step\.latent\.\d+"
        r"|vae_decode\..*|video_.*",
        "superseded by release 1.4, whose second stage keeps the sound of the first",
    ),
    (r"components/sigmas.*", r"(beta|linear_quadratic)\..*", f"schedule of the official library; {_UNUSED}"),
    (r"components/guiders.*", r"cfg_star\..*", f"guidance of the official library; {_UNUSED}"),
    (r"components/media.*", r"aspect_long\d+", f"the prompt enhancer's copy of an image; {_UNUSED}"),
    (r"components/vae_tile_plans.*", r"video_chunks_number_default", f"an estimate for a progress bar; {_UNUSED}"),
)


def file_not_covered(path: str) -> str | None:
    """Why the golden file ``path`` (below the golden folder, with slashes) is not compared; None: it must be."""
    return next((reason for pattern, reason in _FILES if re.fullmatch(pattern, path)), None)


def result_not_covered(path: str, key: str) -> str | None:
    """Why the tensor or entry ``key`` of the golden file ``path`` is not compared; None: it must be."""
    return next(
        (reason for file, pattern, reason in _RESULTS if re.fullmatch(file, path) and re.fullmatch(pattern, key)), None
    )
