"""``--hosts``: the command that was typed, on every machine of a file."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ltx2rt.errors import UsageError
from ltx2rt.hosts.hosts_file import read_hosts
from ltx2rt.hosts.start import run_on_all
from ltx2rt.team.environment import asked_for
from ltx2rt.team.team import Rules, Team

# For what needs all machines but makes no clip: they have been reached by then, or were started by hand.
_SECONDS_TO_MEET = 60.0

_OPTION = "--hosts"


def run_with_hosts(arguments: argparse.Namespace) -> int:
    """Run the command line without ``--hosts`` on every machine, as a team.

    Args:
        arguments: parsed; ``words`` are those of the command line.

    Returns:
        The exit code of the first machine.

    Raises:
        UsageError: the hosts file cannot work, or this process is one of a team already.
        MachineLost: a machine cannot be reached.
    """
    if asked_for(os.environ) is not None:
        raise UsageError(f"{_OPTION} starts a team, but MLX_RANK makes this process one of a team already; unset it.")
    hosts = read_hosts(arguments.hosts)
    shares_of(arguments, len(hosts.machines))
    verb, *words = _without_hosts(arguments.words)
    if hosts.shares and arguments.shares is None:
        words = ["--shares", ",".join(f"{share:g}" for share in hosts.shares), *words]
    return run_on_all(hosts, [sys.executable, "-m", "ltx2rt.cli", verb, *words])


def shares_of(arguments: argparse.Namespace, size: int | None = None) -> tuple[float, ...]:
    """How fast each machine is, as ``--shares`` says; empty: it is not given.

    Args:
        arguments: parsed.
        size: how many machines there are; None: as many as the environment says.

    Raises:
        UsageError: these are no shares, or not one for each machine; variables that cannot work.
    """
    shares: tuple[float, ...] = arguments.shares or ()
    if size is None:
        asked = asked_for(os.environ)
        size = 1 if asked is None else asked.size
    Rules(getattr(arguments, "split", None) or "auto", shares=shares).shares_of(size)
    return shares


@contextmanager
def met_team() -> Iterator[Team | None]:
    """The team that the environment asks for, to compare what its machines have; None: it asks for none.

    All machines leave it together, when the leader does.

    Raises:
        UsageError: variables that cannot work.
        MachineLost: a machine does not come, has gone or says nothing.
    """
    team = Team.connect(_SECONDS_TO_MEET)
    if team is None:
        yield None
        return
    with team:
        yield team
        if not team.leads:
            for _ in team.messages():  # until the leader lets it go; it asks for nothing before
                pass


def _without_hosts(words: Sequence[str]) -> list[str]:
    kept, words = [], list(words)
    while words:
        word = words.pop(0)
        if word == _OPTION:
            words.pop(0)
        elif not word.startswith(f"{_OPTION}="):
            kept.append(word)
    return kept
