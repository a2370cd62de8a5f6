"""The options of a run on several machines, and what a machine does that does not lead."""

from __future__ import annotations

import argparse
import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ltx2rt import api
from ltx2rt.cli.arguments import command_of
from ltx2rt.cli.flags import FLAGS
from ltx2rt.cli.progress import Progress
from ltx2rt.team.environment import asked_for
from ltx2rt.team.team import DEFAULT_PATIENCE, Rules, Team

_OPTIONS = ("split", "patience", "allow_mixed")


def assists() -> bool:
    """Whether the environment makes this process a helper of another machine.

    Raises:
        UsageError: variables that cannot work.
    """
    asked = asked_for(os.environ)
    return asked is not None and asked.rank > 0


def terms_of(arguments: argparse.Namespace) -> dict[str, str]:
    """What every machine must have been asked for: option -> value. Files are compared by what is in them."""
    return {
        flag.names[0]: str(getattr(arguments, flag.dest))
        for flag in FLAGS
        if (flag.target in ("settings", "shorthand") or flag.name in ("dtype", "model_variant"))
        and getattr(arguments, flag.dest) is not None
    }


@contextmanager
def joined_team(arguments: argparse.Namespace, progress: Progress) -> Iterator[Team | None]:
    """The team that the environment asks for, until the clip is made; None: an ordinary run."""
    rules = Rules(
        arguments.split or "auto",
        bool(arguments.allow_mixed),
        arguments.shares or (),
        one_clip=True,
        terms=arguments.terms,
        request=arguments.continued,
    )
    team = Team.connect(DEFAULT_PATIENCE if arguments.patience is None else arguments.patience, rules)
    if team is None:
        for name in _OPTIONS:
            if getattr(arguments, name) is not None:
                flag = next(flag for flag in FLAGS if flag.dest == name)
                progress.message(f"{flag.names[0]} has no effect: this is one machine alone")
        yield None
        return
    with team:
        progress.message(f"machine {team.rank} of {team.size}{', which leads' if team.leads else ''}")
        yield team


def assist(arguments: argparse.Namespace, progress: Progress, fill: Callable[[Mapping[str, Any]], None]) -> None:
    """Take part in the clip of the machine that leads; nothing is written.

    Args:
        arguments: of the command line and its files.
        progress: says what happens.
        fill: adds the options of a run that is continued to the arguments.
    """
    # The state of a run lies with the leader alone: what is continued there is known once it says so.
    waits = bool(arguments.resume) and arguments.continued is None
    pipeline = None if waits else _loaded(arguments)
    with joined_team(arguments, progress) as team:
        assert team is not None
        messages = team.messages()
        for first in messages:
            if pipeline is None:
                request = first[0]["request"]
                if request is not None:
                    fill(request)
                pipeline = _loaded(arguments)
            pipeline.assist(team, memory=arguments.memory, messages=itertools.chain([first], messages))


def _loaded(arguments: argparse.Namespace) -> Any:
    return api.load(**command_of(arguments).files, keep_loaded=False)
