"""``ltx2rt doctor``: versions, device and which kernels are active, and why not the others."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import mlx.core as mx

import ltx2rt
from ltx2rt import api
from ltx2rt.cli.arguments import command_of
from ltx2rt.cli.exit_codes import ExitCode
from ltx2rt.cli.flag import add_flags
from ltx2rt.cli.flags import FLAGS, named
from ltx2rt.cli.machines import met_team, run_with_hosts, shares_of
from ltx2rt.cli.plan import SOME_PROMPT
from ltx2rt.cli.team_plan import MakePlan, TeamPlan, links_text, planned_on_all
from ltx2rt.errors import Ltx2rtError
from ltx2rt.graph.stages.clip_team import may_group
from ltx2rt.graph.stages.team_facts import differences, machine_facts
from ltx2rt.kernels.gpu_device import advice, has_launch_code
from ltx2rt.kernels.kernel_choice import KernelChoice, metal_kernels
from ltx2rt.kernels.selection import OUR_KERNELS, ext, use_reference
from ltx2rt.memory.limits import format_bytes
from ltx2rt.team.links import Links, measured_links
from ltx2rt.team.team import Rules, Split, Team
from ltx2rt.weights.fingerprint import fingerprint

# The files of weights, and the machines that shall have the same.
_FLAGS = (*named("--hosts", "--shares"), *(flag for flag in FLAGS if flag.target == "files"))


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "doctor",
        help="show versions, device and active kernels, of several machines with --hosts",
        description="Show what this installation runs on and which kernels are active; with weights their "
        "fingerprints, with --hosts the same of every machine, how fast they reach each other and what it pays to "
        "share.",
    )
    add_flags(parser, _FLAGS)
    parser.set_defaults(run=run_doctor)


def run_doctor(arguments: argparse.Namespace) -> int:
    """Print the report. The exit code is 0, or 1 where machines cannot make a clip together."""
    if arguments.hosts is not None:
        return run_with_hosts(arguments)
    shares_of(arguments)
    with met_team() as team:
        if team is not None:
            return _report_of_team(team, arguments)
    pipeline = _opened(arguments)
    for line in _lines([*facts(), *_weight_facts(pipeline)]):
        print(line)
    return ExitCode.GOOD


def _lines(rows: Iterable[tuple[str, str]]) -> list[str]:
    return [f"{name:<16}{value}" for name, value in rows]


def _opened(arguments: argparse.Namespace) -> api.Pipeline | None:
    """The pipeline of the weights that are named; None: none is."""
    given = {flag.dest: getattr(arguments, flag.dest) for flag in _FLAGS if flag.target == "files"}
    if all(value is None for value in given.values()):
        return None
    # As the command that makes a clip reads them.
    options = {**{flag.dest: None for flag in FLAGS}, **given, "prompt": SOME_PROMPT, "positional_prompt": None}
    return api.load(**command_of(argparse.Namespace(**options)).files, keep_loaded=False)


def _weight_facts(pipeline: api.Pipeline | None) -> list[tuple[str, str]]:
    if pipeline is None:
        return []
    return [("weights", f"{path}: {fingerprint(path)}") for path in pipeline.weights]


def _report_of_team(team: Team, arguments: argparse.Namespace) -> int:
    """What every machine is, and whether and how they should make a clip together; the leader prints it."""
    own: dict[str, Any] = {"name": platform.node(), "rows": facts(), "facts": {}, "error": ""}
    pipeline = None
    try:
        pipeline = _opened(arguments)
        own["facts"] = machine_facts(None) if pipeline is None else pipeline.facts()
        own["rows"] += _weight_facts(pipeline)
    except Ltx2rtError as error:
        own["error"] = str(error)
    machines = [json.loads(text) for text in team.gather_texts(json.dumps(own))]
    links = measured_links(team)
    differing = differences([machine["facts"] for machine in machines])
    broken = any(machine["error"] for machine in machines)
    plans: dict[Split, TeamPlan] = {}
    if pipeline is not None and not broken:
        make, shares = _planner(pipeline), arguments.shares or ()
        splits: list[Split] = ["passes", "tokens"]
        if may_group(team, "auto"):
            splits.append("both")
        plans = {split: planned_on_all(team, links, Rules(split, shares=shares), None, make) for split in splits}
    if team.leads:
        print("\n".join(_team_lines(machines, links, differing, plans)))
    return ExitCode.FAILED if differing or broken else ExitCode.GOOD


def _planner(pipeline: api.Pipeline) -> MakePlan:
    return lambda machines: pipeline.plan(SOME_PROMPT, machines=machines)[0]


def _team_lines(
    machines: Sequence[Mapping[str, Any]], links: Links, differing: Sequence[str], plans: Mapping[Split, TeamPlan]
) -> Iterator[str]:
    for rank, machine in enumerate(machines):
        yield f"machine {rank} ({machine['name']})"
        yield from _lines((name, value) for name, value in machine["rows"])
        if machine["error"]:
            yield f"error: {machine['error']}"
        yield ""
    yield links_text(links)
    for line in differing:
        yield f"differs: {line}"
    if differing:
        mixed = not differences([machine["facts"] for machine in machines], allow_mixed=True)
        yield f"the machines {'need --allow-mixed to' if mixed else 'cannot'} make a clip together"
    if not plans and not any(machine["error"] for machine in machines):
        yield "give the options of the weights to see which way of sharing pays"
    for split, plan in plans.items():
        yield f"sharing {split}: {_worth(plan)}"


def _worth(plan: TeamPlan) -> str:
    """What a way of sharing does for a clip of the usual size, for people."""
    if not plan.works:
        return "; ".join(f"machine {rank}: {error}" for rank, error in enumerate(plan.errors) if error)
    if not plan.shared:
        return "there is nothing to share, a step has one pass"
    pays = "" if plan.times > 1 else ", which does not pay"
    received = format_bytes(sum(stage.received for stage in plan.shared))
    return (
        f"a clip of the usual size takes about {plan.seconds:.0f} s in place of {plan.alone:.0f} s on machine 0 alone, "
        f"{plan.times:.2f} times as fast{pays}; each machine receives {received}"
    )


def facts() -> list[tuple[str, str]]:
    """(name, value) pairs, in the order shown."""
    return [
        ("ltx2rt", ltx2rt.__version__),
        ("mlx", importlib.metadata.version("mlx")),
        ("python", platform.python_version()),
        ("system", f"{platform.system()} {platform.release()} {platform.machine()}"),
        ("device", str(mx.default_device())),
        ("metal", "available" if mx.metal.is_available() else "not available"),
        ("cores", _cores()),
        ("kernels", _kernels()),
        ("instructions", _instruction_sets()),
        *gpu_facts(None if use_reference() else metal_kernels()),
    ]


def gpu_facts(metal: KernelChoice | None) -> list[tuple[str, str]]:
    """The GPU, what a user of it should know, and what the self-proof found so far; nothing is proven here."""
    if metal is None:
        return []
    rows = [*advice(metal.device), ("self-proof", _proof_summary(metal))]
    for key, outcome in metal.store.outcomes().items():
        if outcome.fault:
            rows.append(("replaced", f"{key}: {outcome.fault}; the reference graph is used"))
        elif outcome.choice == "mlx":
            seconds = outcome.seconds or {}
            times = ", ".join(f"{name} {1e3 * value:.2f} ms" for name, value in seconds.items())
            rows.append(("MLX's op", f"{key}: faster here ({times})"))
    return rows


def _proof_summary(metal: KernelChoice) -> str:
    outcomes = metal.store.outcomes().values()
    ours = sum(o.choice in OUR_KERNELS for o in outcomes)
    others = sum(o.choice == "mlx" for o in outcomes)
    replaced = sum(bool(o.fault) for o in outcomes)
    text = f"{ours} variants use our kernel, {others} MLX's own op, {replaced} the reference graph ({metal.store.path})"
    if metal.store.problem:
        text += f"; cannot be kept, so every process checks again: {metal.store.problem}"
    return text if outcomes else f"no variant was used yet; ltx2rt verify checks them all ({metal.store.path})"


def _cores() -> str:
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    quota = None if ext is None else ext.cgroup_cores()
    return f"{cores}" if quota is None else f"{cores}, of which the control group grants the time of {quota}"


def _kernels() -> str:
    if use_reference():
        return "reference graphs (LTX2RT_KERNELS=reference)"
    if mx.default_device().type == mx.DeviceType.gpu:
        if metal_kernels() is not None:
            return "compiled for Metal on first use, each variant checked once"
        reason = "this GPU is not Metal's" if has_launch_code() else "this build has no Metal launch code"
        return f"reference graphs ({reason})"
    from ltx2rt import _ext

    return f"compiled for the CPU: {_ext.isa()} with {_ext.num_threads()} threads"


def _instruction_sets() -> str:
    if use_reference():
        return "not looked at"
    from ltx2rt import _ext

    return "; ".join(f"{name}: {state}" for name, state in _ext.isas())
