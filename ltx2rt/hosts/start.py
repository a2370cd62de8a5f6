"""Starts one command on every machine of a hosts file, this one included, and ends it everywhere.

MLX has a starter of its own, ``mlx.launch``, which works with ltx2rt, too. But its exit code is 0 whatever happened; it
ends all machines a second after one of them is lost, so that the leader cannot go on alone; and it mixes stderr into
the stdout of machines that it reaches by ssh.

A machine is reached by one ssh connection whose input stays open: where that ends, because this process does or the
connection breaks, the command there is ended, too. Nothing is left behind.
"""

from __future__ import annotations

import contextlib
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from ltx2rt.errors import MachineLost, UsageError
from ltx2rt.hosts.hosts_file import Hosts, Machine
from ltx2rt.team.environment import ABSENT, Absence, written_absence

# Without a question for a password, and with an end when the other machine says nothing any more.
_SSH_OPTIONS = ("BatchMode=yes", "ConnectTimeout=10", "ServerAliveInterval=15", "ServerAliveCountMax=4")
SSH = ["ssh", "-T", *(word for option in _SSH_OPTIONS for word in ("-o", option))]
# Seconds in which a machine must answer by ssh, and in which workers end by themselves when the leader is done.
ANSWER_SECONDS, WORKER_SECONDS = 60, 15
# Seconds to clean up in after a command was asked to end: the leader writes files, workers do not.
LEADER_CLEAN_UP_SECONDS, WORKER_CLEAN_UP_SECONDS = 20, 2

_READY = "ltx2rt: ready"
_NOT_INSTALLED = 127
_SSH_FAILED = 255
_POLL_SECONDS = 0.05


def script(
    words: Sequence[str],
    folder: Path,
    machine: str,
    variables: Mapping[str, str],
    files: Mapping[str, str],
    *,
    answers: bool,
    clean_up: int = LEADER_CLEAN_UP_SECONDS,
) -> str:
    """The lines for ``sh`` that run a command in the place of a machine.

    They wait for a line on their input, go to the folder, run the command, append further lines to the file that
    ``LTX2RT_ABSENT`` names, and end the command when the input ends. Their exit code is the command's.

    Args:
        words: of the command.
        folder: to begin in, if it exists there.
        machine: its name.
        variables: of its environment.
        files: variables that name a file: what is in it. It is removed afterwards.
        answers: say on stdout that they are there.
        clean_up: seconds between asking the command to end and ending it.
    """
    quoted = shlex.quote
    missing = f"no {words[0]} there; install ltx2rt at the same path on every machine"
    elsewhere = f"no folder {folder} on {machine}; relative paths begin there in"
    removal = " ".join(["rm -f", *(f'"${name}"' for name in files)])
    return "\n".join(
        [
            f"command -v {quoted(words[0])} >/dev/null || {{ echo {quoted(missing)} >&2; exit {_NOT_INSTALLED}; }}",
            *([f"echo {quoted(_READY)}"] if answers else []),
            "read -r _ || exit 0",
            f'cd {quoted(str(folder))} 2>/dev/null || echo {quoted(elsewhere)} "$PWD" >&2',
            *(f"export {name}={quoted(value)}" for name, value in variables.items()),
            *(
                f'{name}=$(mktemp) && printf %s {quoted(content)} > "${name}" && export {name}'
                for name, content in files.items()
            ),
            "exec 3<&0",
            f"{' '.join(map(quoted, words))} </dev/null 3<&- & pid=$!",
            f'( while read -r line <&3; do printf "%s\\n" "$line" >>"${ABSENT}"; done',
            f"  kill -TERM $pid; sleep {clean_up}; kill -KILL $pid ) >/dev/null 2>&1 & watch=$!",
            "exec 3<&-",
            "{ wait $pid; } 2>/dev/null; code=$?",
            f"kill $watch 2>/dev/null; {removal}; exit $code",
        ]
    )


def run_on_all(hosts: Hosts, command: Sequence[str]) -> int:
    """Run a command on every machine, each of which is told of the others.

    The first machine's stdout and stderr are ours. What the others say goes to stderr, with their names.

    Args:
        hosts: the machines.
        command: its words, the path of the program first.

    Returns:
        The exit code of the first machine.

    Raises:
        MachineLost: a machine cannot be reached, or the connection to the first one broke off.
        UsageError: the program is missing on a machine.
        KeyboardInterrupt: after every machine was asked to end and the first one did.
    """
    places: list[_Place] = []
    try:
        for rank, machine in enumerate(hosts.machines):
            variables, files = hosts.settings_of(rank)
            if rank == 0:
                files = {**files, ABSENT: ""}
            seconds = WORKER_CLEAN_UP_SECONDS if rank else LEADER_CLEAN_UP_SECONDS
            lines = script(
                command, Path.cwd(), machine.name, variables, files, answers=not machine.is_here, clean_up=seconds
            )
            places.append(_Place(machine, lines, leads=rank == 0))
        deadline = time.monotonic() + ANSWER_SECONDS
        for place in places:
            place.require_answer(deadline)
        for place in places:
            place.begin()
        return _led(places)
    finally:
        for place in places:
            place.ask_to_end()
        for place in places:
            place.end()


def _led(places: Sequence[_Place]) -> int:
    """The exit code of the first machine when it has ended; it and the user are told of workers that end badly before:
    it goes on alone, unless it still waits for them to come."""
    leader, workers = places[0], places[1:]
    while leader.code is None:
        for worker in workers:
            if worker.tell_end():
                assert worker.code is not None
                leader.write(written_absence(Absence(worker.machine.name, worker.code)))
        time.sleep(_POLL_SECONDS)
    deadline = time.monotonic() + (0 if leader.code else WORKER_SECONDS)
    while any(worker.code is None for worker in workers) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    leader.drain()
    if leader.code == _SSH_FAILED and not leader.machine.is_here:
        raise MachineLost(
            f"the connection to {leader.machine.name}, which leads, broke off{leader.reason}; the same command with "
            "--resume continues."
        )
    return leader.code


class _Place:
    """A machine while a command runs on it.

    Args:
        machine: that machine.
        lines: for its ``sh``.
        leads: it is the first one, whose output is ours.
    """

    def __init__(self, machine: Machine, lines: str, *, leads: bool) -> None:
        self.machine = machine
        self._leads = leads
        self._told = False
        self._last_line = {"stdout": "", "stderr": ""}
        self._answered = threading.Event()
        here = ["/bin/sh", "-c", lines]
        far = [*SSH, machine.name, f"exec /bin/sh -c {shlex.quote(lines)}"]
        ours = leads and machine.is_here  # a terminal stays one
        # A session of its own: Ctrl-C reaches this process alone, which asks every machine in the same way.
        self._process = subprocess.Popen(
            here if machine.is_here else far,
            stdin=subprocess.PIPE,
            stdout=None if ours else subprocess.PIPE,
            stderr=None if ours else subprocess.PIPE,
            start_new_session=True,
        )
        pipes = ((self._process.stdout, sys.stdout if leads else sys.stderr), (self._process.stderr, sys.stderr))
        self._readers = [threading.Thread(target=self._forward, args=pair, daemon=True) for pair in pipes if pair[0]]
        for reader in self._readers:
            reader.start()

    @property
    def code(self) -> int | None:
        """Its exit code; None: it runs."""
        return self._process.poll()

    @property
    def reason(self) -> str:
        """Why it ended, for the end of a sentence."""
        return f" ({self._said.rstrip('.')})" if self._said else ""

    @property
    def _said(self) -> str:
        """What it said last, on stderr if it said anything there: two threads read the pipes, so that the greeting of a
        login shell on stdout, which came first, may have been read last."""
        return self._last_line["stderr"] or self._last_line["stdout"]

    def require_answer(self, deadline: float) -> None:
        """Wait until it says that it is there.

        Raises:
            MachineLost, UsageError: it does not, or cannot run the command.
        """
        while not self.machine.is_here and not self._answered.wait(_POLL_SECONDS):
            name = self.machine.name
            if self.code == _NOT_INSTALLED:
                self.drain()
                said = self._said.rstrip(".") or f"its shell ended with {_NOT_INSTALLED}"
                raise UsageError(f"ltx2rt cannot start on {name}: {said}.")
            if self.code is not None or time.monotonic() > deadline:
                self.drain()
                silent = self.code is None
                why = f" within {ANSWER_SECONDS} s" if silent else self.reason
                raise MachineLost(f"{name} does not answer by ssh{why}; try: ssh -o BatchMode=yes {name} true")

    def begin(self) -> None:
        """Let the command run."""
        self.write("")

    def write(self, line: str) -> None:
        """A line of its input."""
        with contextlib.suppress(BrokenPipeError):  # it has ended, which its exit code says
            self._input.write(f"{line}\n".encode())
            self._input.flush()

    def tell_end(self) -> bool:
        """Say once that it has ended, unless all was well; whether that was now."""
        if not self.code or self._told:
            return False
        self._told = True
        self.drain()
        print(f"ltx2rt: {self.machine.name} has ended with exit code {self.code}", file=sys.stderr, flush=True)
        return True

    def ask_to_end(self) -> None:
        """Let its input end, upon which it ends the command."""
        with contextlib.suppress(BrokenPipeError):
            self._input.close()

    def end(self) -> None:
        """Wait for its end, and do not wait for ever."""
        try:
            self._process.wait(LEADER_CLEAN_UP_SECONDS + 5)
        except subprocess.TimeoutExpired:  # the machine is lost, ssh waits for it
            self._process.kill()
            self._process.wait()
        self.drain()

    def drain(self) -> None:
        """Forward what it said last."""
        for reader in self._readers:
            reader.join(1)

    @property
    def _input(self) -> IO[bytes]:
        assert self._process.stdin is not None
        return self._process.stdin

    def _forward(self, pipe: IO[bytes], target: IO[str]) -> None:
        for line in pipe:
            text = line.decode("utf-8", "replace").rstrip("\n")
            if text.strip():
                self._last_line["stderr" if pipe is self._process.stderr else "stdout"] = text.strip()
            if not self._answered.is_set() and not self.machine.is_here:
                if text.strip() == _READY:
                    self._answered.set()
                continue
            target.write(f"{text}\n" if self._leads else f"{self.machine.name}: {text}\n")  # at once: two threads write
            target.flush()
        pipe.close()
