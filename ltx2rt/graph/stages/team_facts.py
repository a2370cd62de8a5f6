"""What machines must have in common to make one clip, and whether they have it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx

from ltx2rt.errors import UsageError
from ltx2rt.graph.components import TRANSFORMER
from ltx2rt.graph.stages.clip_team import Budget
from ltx2rt.graph.stages.weight_set import WeightSet
from ltx2rt.kernels.gpu_device import metal_device
from ltx2rt.kernels.kernel_choice import build_digest
from ltx2rt.kernels.selection import ext, use_reference
from ltx2rt.spelling import spelled
from ltx2rt.team.team import Team
from ltx2rt.weights.fingerprint import fingerprint

# Facts that may differ where machines of other kinds are allowed.
_OF_THE_MACHINE = ("device", "kernels", "instructions")


def machine_facts(files: WeightSet | None, dtype: mx.Dtype | None = None) -> dict[str, str]:
    """What the results of this machine depend on: fact -> value.

    Args:
        files: opened weights; None: those of the machine itself alone.
        dtype: of the activations; None: not known.
    """
    from ltx2rt import __version__  # the package is complete by the time a machine is asked

    device = metal_device()
    facts = {
        "ltx2rt": __version__,
        "mlx": str(mx.__version__),  # type: ignore[attr-defined]  # not in the stubs
        "device": str(mx.default_device().type) if device is None else f"{device.name} {device.architecture}",
        "kernels": "reference" if use_reference() else build_digest(),
        "instructions": "" if ext is None else str(ext.isa()),
    }
    if dtype is not None:
        facts["dtype"] = str(dtype)
    if files is not None:
        facts["weights of the transformer"] = fingerprint(files.source(TRANSFORMER).path)
        for name in ("loras", "distilled_lora", "detailing_lora"):
            for number, (lora, strength) in enumerate(getattr(files, name)):
                facts[f"{name} {number + 1}"] = f"{fingerprint(lora.path)} at {strength}"
    return facts


def differences(facts: Sequence[Mapping[str, str]], *, allow_mixed: bool = False) -> list[str]:
    """In which facts machines differ from the first one, for people.

    Args:
        facts: of every machine, in the order of their numbers.
        allow_mixed: other processors, GPUs and kernels do not count.
    """
    found = []
    for rank, own in enumerate(facts[1:], 1):
        for name in dict.fromkeys((*facts[0], *own)):
            if allow_mixed and name in _OF_THE_MACHINE:
                continue
            first, other = facts[0].get(name, "nothing"), own.get(name, "nothing")
            if first != other:
                found.append(f"{name}: machine 0 has {first}, machine {rank} {other}")
    return found


def agree(team: Team, facts: Mapping[str, str], budget: Budget, *, allow_mixed: bool) -> tuple[Budget, ...]:
    """All machines compare what they have; afterwards each knows what every one may take.

    Args:
        team: the machines.
        facts: of this one.
        budget: of this one.
        allow_mixed: as the leader allows it.

    Returns:
        The budgets of all.

    Raises:
        UsageError: they differ, on every machine.
        MachineLost: another machine has gone or says nothing.
    """
    texts = team.gather_texts(json.dumps([facts, budget]))
    found: list[tuple[dict[str, str], Any]] = [tuple(json.loads(text)) for text in texts]
    differing = differences([of_machine for of_machine, _ in found], allow_mixed=allow_mixed)
    if differing:
        advice = "start the same command with the same version and files on every machine"
        own = [line for line in differing if line.split(":")[0] in _OF_THE_MACHINE]
        if len(own) == len(differing):
            advice = f"results would depend on which machine computes what; {spelled('allow_mixed')} accepts that"
        raise UsageError(f"the machines differ ({'; '.join(differing)}); {advice}.")
    return tuple(Budget(*values) for _, values in found)
