"""Whether an op on a Metal GPU is built as our kernel, MLX's own ops or the reference graph."""

from __future__ import annotations

import functools
import hashlib
import logging
import threading
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx

from ltx2rt.kernels import selection
from ltx2rt.kernels.gpu_device import GpuDevice, metal_device
from ltx2rt.kernels.proof import DeviceRunner, FrontEnd, Runner, prove
from ltx2rt.kernels.proof_store import Outcome, ProofStore, cache_folder
from ltx2rt.kernels.selection import Implementation
from ltx2rt.kernels.variants import Variant

logger = logging.getLogger("ltx2rt")


def built(front_end: FrontEnd, build: Callable[[Implementation], mx.array], variant: Callable[[], Variant]) -> mx.array:
    """An op, built as it is best built now.

    Args:
        front_end: the op's public function, which the self-proof calls.
        build: builds the op in a given way; our kernel checks the arguments as it is built.
        variant: gives the variant of arguments that have been checked.
    """
    forced = selection.forced_implementation()
    if forced is not None:
        return build(forced)
    if selection.use_reference():
        return build("reference")
    if mx.default_device().type != mx.DeviceType.gpu:
        return build("kernel")
    chooser = metal_kernels()
    if chooser is None:
        return build("reference")
    kernel = build("kernel")  # first: what the op says about wrong arguments must not depend on a proof of them
    chosen = chooser.choose(front_end, variant())
    return kernel if chosen == "kernel" else build(chosen)


@functools.cache
def metal_kernels() -> KernelChoice | None:
    """The choice for this machine's GPU; None where our Metal kernels cannot run."""
    device = metal_device()
    return None if device is None else KernelChoice(device, cache_folder(), DeviceRunner())


class KernelChoice:
    """Proves each variant once per device, system, MLX and build, and remembers the outcome on disk."""

    def __init__(self, device: GpuDevice, folder: Path, runner: Runner) -> None:
        self.device = device
        self.store = ProofStore(identity(device), folder)
        self._runner = runner
        self._lock = threading.RLock()
        self._chosen: dict[Variant, Implementation] = {}
        self._warned: set[str] = set()

    def choose(self, front_end: FrontEnd, variant: Variant) -> Implementation:
        known = self._chosen.get(variant)
        if known is None:
            with self._lock:
                known = self._chosen.get(variant) or self.outcome(front_end, variant).choice
                self._chosen[variant] = known
        return known

    def outcome(self, front_end: FrontEnd, variant: Variant, *, again: bool = False) -> Outcome:
        """What is known of a variant, or what proving it now (or ``again``) finds."""
        with self._lock:
            outcome = None if again else self.store.outcome(variant.key)
            if outcome is None:
                outcome = self._prove(front_end, variant, again)
            if outcome.fault and variant.op not in self._warned:
                self._warned.add(variant.op)
                logger.warning(
                    "warning: the Metal kernel %s is replaced by the reference graph, which is slower: %s (%s). "
                    "ltx2rt doctor shows all such kernels, ltx2rt verify checks them again.",
                    variant.op,
                    outcome.fault,
                    variant.key,
                )
            return outcome

    def _prove(self, front_end: FrontEnd, variant: Variant, again: bool) -> Outcome:
        key = variant.key
        if not again and self.store.ended_the_process(key):
            fault = "the process that checked it was ended, perhaps by the GPU watchdog"
            outcome = Outcome("reference", fault=fault)
        else:
            # A choice by time that cannot be kept could differ in the next process, and with it the bits of a clip.
            timed = self.store.start(key)
            try:
                outcome = prove(front_end, variant, self._runner, timed=timed)
            except BaseException as failure:
                self.store.abandon(key)
                if isinstance(failure, Exception):
                    logger.warning(
                        "warning: the check of the Metal kernel %s was ended by: %s. Nothing was noted down; the next "
                        "use checks again.",
                        key,
                        str(failure) or type(failure).__name__,
                    )
                raise
        self.store.finish(key, outcome)
        return outcome


def identity(device: GpuDevice) -> dict[str, str]:
    """What an outcome depends on besides the variant."""
    from ltx2rt import __version__  # the package is complete by the time an op is built

    return {
        "device": f"{device.name} {device.architecture}",
        "macos": device.macos,
        "mlx": device.mlx_version,
        "mlx_wheel": device.wheel,
        "ltx2rt": __version__,
        "build": build_digest(),
    }


@functools.cache
def build_digest() -> str:
    """Of the compiled module and the Metal libraries beside it."""
    module = Path(selection.ext.__file__) if selection.ext is not None else None
    if module is None:
        return ""
    h = hashlib.sha256(module.read_bytes())
    for library in sorted((module.parent / "metal").glob("*.metallib")):
        h.update(library.read_bytes())
    return h.hexdigest()[:16]
