"""What several machines share of a denoising stage, and by which model of time that is chosen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from ltx2rt.graph.models.transformer.config import TransformerConfig
from ltx2rt.graph.stages.clip_team import Machines, Pace
from ltx2rt.graph.stages.denoise.machine_part import InStep, MachinePart
from ltx2rt.graph.stages.denoise.needs import arithmetic, batch_sizes
from ltx2rt.graph.stages.denoise.task import DenoiseTask
from ltx2rt.graph.stages.denoise.team_traffic import stage_traffic
from ltx2rt.team.team import Groups


def part_of(machines: Machines | None, task: DenoiseTask, config: TransformerConfig) -> MachinePart | None:
    """What of a stage a machine does; None: the one that leads does all of it.

    Passes cost next to nothing to share, and are what is shared where there are as many as machines. Where there are
    fewer, what takes least time by the pace of the machines: the tokens of the video in each pass, groups of machines
    for the passes, or passes on some of the machines; without a pace the tokens. Those of sound alone are too few.

    Args:
        machines: that make the clip.
        task: what the stage does.
        config: of the transformer.
    """
    if machines is None or machines.size == 1:
        return None
    shares = machines.shares or (1.0,) * machines.size
    ways = [MachinePart(machines.rank, groups, shares, config.num_layers) for groups in _ways(machines, task, shares)]
    part = ways[0]
    if len(ways) > 1 and machines.pace is not None:
        part = min(ways, key=partial(stage_seconds, config, task, machines.pace))
    return None if len(task.all_passes) == 1 and max(map(len, part.groups)) == 1 else part


def _ways(machines: Machines, task: DenoiseTask, shares: tuple[float, ...]) -> Iterator[Groups]:
    """What the machines may share, what is taken where nothing is known of their pace first."""
    passes = len(task.all_passes)
    apart: Groups = tuple((machine,) for machine in range(machines.size))
    together: Groups = (tuple(range(machines.size)),)
    if not task.video or machines.split == "passes" or (machines.split == "auto" and passes >= machines.size):
        yield apart
        return
    counts = range(min(passes, machines.size - 1), 1, -1) if machines.grouping and machines.split != "tokens" else ()
    if machines.split != "both" or not counts:
        yield together
    for count in counts:
        yield grouped(shares, count)
    if machines.split == "auto" and passes > 1:
        yield apart


def grouped(shares: tuple[float, ...], count: int) -> Groups:
    """So many groups of machines, as equally fast as can be: the fastest machine first, each joins the slowest group.

    Args:
        shares: how fast each machine is beside the others.
        count: of groups, no more than machines.
    """
    groups: list[list[int]] = [[] for _ in range(count)]
    for machine in sorted(range(len(shares)), key=lambda machine: -shares[machine]):
        min(groups, key=lambda members: sum(shares[member] for member in members)).append(machine)
    return tuple(sorted(tuple(sorted(members)) for members in groups))


def stage_seconds(config: TransformerConfig, task: DenoiseTask, pace: Pace, part: MachinePart) -> float:
    """Of the machine that takes longest, as plans of several machines count: what it computes, and what it receives as
    if nothing went on beside it.

    Args:
        config: of the transformer.
        task: what the stage does.
        pace: of the machines.
        part: of any of them.
    """
    in_step = InStep("together", batch_sizes(task, config.num_layers, "together")[0])

    def seconds(rank: int) -> float:
        own = replace(task, part=replace(part, rank=rank))
        flops = arithmetic(config, own, "together", keeps=not config.text_modulation)
        traffic = stage_traffic(config, own, in_step)
        speed = pace.flops * part.shares[rank] / part.shares[0]
        return flops / speed + pace.links.seconds(traffic.nbytes, traffic.calls)

    return max(map(seconds, range(part.size)))
