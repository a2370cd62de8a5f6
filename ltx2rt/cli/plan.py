"""``ltx2rt plan``: what a request would take, stage by stage; loads nothing."""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Callable
from typing import Any

from ltx2rt import api
from ltx2rt.api.output_files import PICTURE, WrittenFile, check_files
from ltx2rt.api.planning import rates
from ltx2rt.cli.arguments import Command, command_of
from ltx2rt.cli.exit_codes import ExitCode
from ltx2rt.cli.flag import add_flags
from ltx2rt.cli.flags import FLAGS
from ltx2rt.cli.generate import merge_other_sources, taken_files
from ltx2rt.cli.machines import met_team, run_with_hosts, shares_of
from ltx2rt.cli.outputs import free_path
from ltx2rt.cli.plan_picture import write_picture
from ltx2rt.cli.plan_text import plan_text
from ltx2rt.cli.team_plan import planned_on_all
from ltx2rt.errors import UsageError
from ltx2rt.graph.pipelines.plan import Plan, Rates
from ltx2rt.graph.stages.clip_team import Machines
from ltx2rt.memory.limits import parse_bytes
from ltx2rt.paths import expanded
from ltx2rt.team.links import measured_links
from ltx2rt.team.team import Rules, Team

# What a plan without a prompt counts with.
SOME_PROMPT = "a prompt of the usual length, " * 20


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "plan",
        help="what a request would take: bytes, arithmetic, seconds of every stage; loads nothing",
        description="Takes the options of generate. Files that are not given are assumed in their published sizes; "
        "the checkpoint may be a tensor manifest (.json).",
    )
    parser.add_argument("positional_prompt", nargs="?", metavar="PROMPT", help="the same as --prompt")
    group = parser.add_argument_group("Plan")
    group.add_argument("--json", action="store_true", help="print JSON")
    group.add_argument("--plot", type=expanded, metavar="FILE.png", help="also draw the stages as stacked bars")
    group.add_argument("--compute-rate", type=float, metavar="GFLOPS", help="arithmetic that stages reach")
    group.add_argument("--read-rate", metavar="BYTES", help="read from disk in a second, for example 2GB")
    add_flags(parser, FLAGS)
    parser.set_defaults(run=run_plan)


def run_plan(arguments: argparse.Namespace) -> int:
    """Exit code 0 when everything fits."""
    if arguments.hosts is not None:
        return run_with_hosts(arguments)
    merge_other_sources(arguments)
    shares_of(arguments)
    with met_team() as team:
        if team is not None:
            return _plan_on_all(team, arguments)
    if arguments.plot is not None:
        given_files = [arguments.checkpoint_path, arguments.config, arguments.from_sidecar]
        plot = WrittenFile("--plot", arguments.plot, PICTURE)
        check_files([plot], filter(None, given_files), overwrite=True)
        if not arguments.overwrite:
            arguments.plot = free_path(arguments.plot)
    plan, assumed = _planner(arguments, tells=True)(None)
    if arguments.plot is not None:
        write_picture(plan, arguments.plot)
        print(f"ltx2rt: drawn to {arguments.plot}", file=sys.stderr)
    print(json.dumps(plan.as_dict(), indent=2) if arguments.json else plan_text(plan, assumed))
    return ExitCode.GOOD


def _planner(arguments: argparse.Namespace, *, tells: bool) -> Callable[[Machines | None], tuple[Plan, list[str]]]:
    """What makes a plan of this machine: alone, or as one of several. The weights are opened by the first one.

    Args:
        arguments: parsed.
        tells: say which files are read without having been named.
    """

    @functools.cache
    def opened() -> tuple[api.Pipeline, Command, Rates]:
        given = (
            arguments.positional_prompt,
            arguments.prompt,
            arguments.prompt_file,
            arguments.embedding,
            arguments.no_gemma,
        )
        if all(value is None for value in given):
            arguments.prompt = SOME_PROMPT
        command = command_of(arguments)
        pipeline = api.load(**command.files, keep_loaded=False)  # as the command line runs it
        for line in taken_files(pipeline, command) if tells else ():
            print(f"ltx2rt: {line}", file=sys.stderr)
        if arguments.compute_rate is not None and arguments.compute_rate <= 0:
            raise UsageError(f"--compute-rate must be positive, got {arguments.compute_rate}.")
        flops = None if arguments.compute_rate is None else arguments.compute_rate * 1e9
        read = None if arguments.read_rate is None else float(parse_bytes(arguments.read_rate))
        return pipeline, command, rates(flops, read)

    def make(machines: Machines | None) -> tuple[Plan, list[str]]:
        pipeline, command, speeds = opened()
        return pipeline.plan(
            **command.settings,
            memory=arguments.memory,
            rates=speeds,
            preview_decoder=arguments.preview_decoder,
            machines=machines,
        )

    return make


def _plan_on_all(team: Team, arguments: argparse.Namespace) -> int:
    """Every machine plans its part; the leader says what they found."""
    if arguments.plot is not None:
        raise UsageError("--plot draws the plan of one machine; leave --plot or the other machines out.")
    make = _planner(arguments, tells=team.leads)
    rules = Rules(arguments.split or "auto", shares=arguments.shares or ())
    flops = None if arguments.compute_rate is None else arguments.compute_rate * 1e9
    found = planned_on_all(
        team, measured_links(team), rules, arguments.memory, lambda machines: make(machines)[0], flops
    )
    if team.leads:
        print(json.dumps(found.as_dict(), indent=2) if arguments.json else found.text())
    return ExitCode.GOOD if found.works else ExitCode.FAILED
