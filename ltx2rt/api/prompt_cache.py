"""Where encoded prompts are kept for later runs."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping

from ltx2rt.errors import UsageError
from ltx2rt.graph.settings.settings import Settings
from ltx2rt.kernels.proof_store import cache_folder
from ltx2rt.memory.limits import parse_bytes
from ltx2rt.weights.kept_prompts import MOST_BYTES, KeptPrompts

log = logging.getLogger(__name__)

VARIABLE = "LTX2RT_PROMPT_CACHE"


def prompt_cache(settings: Settings, environ: Mapping[str, str] = os.environ) -> KeptPrompts | None:
    """The prompts that runs keep; None: this one keeps and takes none.

    Args:
        settings: may say so for this run.
        environ: ``LTX2RT_PROMPT_CACHE`` is the size of the folder, ``0`` for none.

    Raises:
        UsageError: the variable is not a size.
    """
    asked = environ.get(VARIABLE) or str(MOST_BYTES)
    if not settings.prompt_cache or asked == "0":
        return None
    try:
        most = parse_bytes(asked)
    except UsageError as error:
        raise UsageError(f"{VARIABLE}: {error}") from error
    try:
        folder = cache_folder(environ) / "prompts"
    except RuntimeError:
        log.warning("the encoded prompt is not kept: this user has no home folder; LTX2RT_CACHE names another one")
        return None
    return KeptPrompts(folder, most)
