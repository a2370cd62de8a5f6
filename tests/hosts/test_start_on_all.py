"""One command on every machine: its exit code, what it says, and that nothing is left behind however it ends.

The machines are places of this one: two without ssh, or with a stand-in for ssh in the PATH.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

# ssh without a network: options away, then the name of the machine, then a command for a shell.
STAND_IN = """#!/bin/sh
while [ "${1#-}" != "$1" ]; do
  [ "$1" = -o ] && shift
  shift
done
[ "$1" = unknown ] && { echo "ssh: Could not resolve hostname unknown" >&2; exit 255; }
echo "Welcome to $1"
shift
exec /bin/sh -c "$*"
"""

# What stands for the command: it says who it is, and does what the variable of its rank says.
PROGRAM = """
import os, pathlib, sys, time
from ltx2rt.team.environment import read_absence
rank = os.environ["MLX_RANK"]
hosts = pathlib.Path(os.environ["MLX_HOSTFILE"])
print("out", rank, sys.argv[1:], flush=True)
sys.stderr.write(" ".join(["err", rank, os.environ["COLOUR"], hosts.read_text()]) + "\\n")  # at once
pathlib.Path(f"{rank}.started").write_text(f"{os.getpid()} {hosts}")
what, number = os.environ.get(f"DO_{rank}", "exit 0").split()
if what == "sleep":
    time.sleep(float(number))
elif what == "hear":
    told = pathlib.Path(os.environ["LTX2RT_ABSENT"])
    while not told.read_text().endswith("\\n"):
        time.sleep(0.02)
    print("heard", read_absence(told))
elif what == "kill":
    os.kill(os.getpid(), int(number))
else:
    sys.exit(int(number))
"""

# A process that starts the command on the machines that it is told.
STARTER = """
import signal, sys
from ltx2rt.errors import Ltx2rtError
from ltx2rt.hosts.hosts_file import Hosts, Machine
from ltx2rt.hosts.start import run_on_all
def terminate(number, frame):
    raise KeyboardInterrupt
signal.signal(signal.SIGTERM, terminate)
machines = tuple(Machine(name, ("127.0.0.1",)) for name in sys.argv[1].split(","))
try:
    sys.exit(run_on_all(Hosts("ring", machines, {"COLOUR": "deep blue"}), sys.argv[2:]))
except Ltx2rtError as error:
    sys.exit(f"{type(error).__name__}: {error}")
except KeyboardInterrupt:
    sys.exit(75)
"""

HERE, FAR = "127.0.0.1,localhost", "127.0.0.1,mac2"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder to run in, with a stand-in for ssh."""
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "bin").mkdir()
    ssh = tmp_path / "bin" / "ssh"
    ssh.write_text(STAND_IN)
    ssh.chmod(0o755)
    return tmp_path


def starter(place: Path, machines: str, program: str = sys.executable, **variables: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PATH": f"{place / 'bin'}:{os.environ['PATH']}", "TMPDIR": str(place), **variables}
    command = [sys.executable, "-c", STARTER, machines, program, "program.py", "a b", "it's"]
    return subprocess.Popen(
        command, cwd=place, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def ran(place: Path, machines: str, program: str = sys.executable, **variables: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    with starter(place, machines, program, **variables) as process:
        out, err = process.communicate(timeout=30)
    return process.returncode, out, err


def left(place: Path) -> list[str]:
    """What is left of the places: processes that live and files of theirs."""
    found = []
    for started in place.glob("*.started"):
        pid, hosts = started.read_text().split()
        found += [name for name, there in ((pid, Path("/proc", pid).exists()), (hosts, Path(hosts).exists())) if there]
    return found


@pytest.mark.parametrize("machines", [HERE, FAR, pytest.param("mac1,mac2", marks=pytest.mark.slow)])
def test_the_output_of_the_first_machine_is_ours_and_others_have_their_names(machines: str, place: Path) -> None:
    code, out, err = ran(place, machines)
    assert code == 0
    assert out == "out 0 ['a b', \"it's\"]\n"
    worker = machines.partition(",")[2]
    addresses = '[["127.0.0.1:32323"], ["127.0.0.1:32324"]]'
    assert set(err.splitlines()) == {
        f"err 0 deep blue {addresses}",
        f"{worker}: out 1 ['a b', \"it's\"]",
        f"{worker}: err 1 deep blue {addresses}",
    }
    assert left(place) == []


@pytest.mark.parametrize(
    ("does", "code", "machines"),
    [
        ("exit 75", 75, "mac1,mac2"),
        ("kill 9", 128 + 9, HERE),
        pytest.param("exit 7", 7, HERE, marks=pytest.mark.slow),
        pytest.param("kill 9", 128 + 9, "mac1,mac2", marks=pytest.mark.slow),
    ],
)
def test_the_exit_code_is_that_of_the_first_machine(machines: str, does: str, code: int, place: Path) -> None:
    assert ran(place, machines, DO_0=does)[0] == code


def test_a_leader_that_fails_ends_workers_that_wait_for_it(place: Path) -> None:
    begun = time.monotonic()
    assert ran(place, FAR, DO_0="exit 2", DO_1="sleep 60")[0] == 2
    assert time.monotonic() - begun < 10
    assert left(place) == []


def test_a_worker_that_fails_is_told_and_the_leader_goes_on(place: Path) -> None:
    code, _, err = ran(place, FAR, DO_0="sleep 1", DO_1="exit 3")
    assert code == 0
    assert "ltx2rt: mac2 has ended with exit code 3" in err.splitlines()


@pytest.mark.parametrize("machines", [FAR, *(pytest.param(two, marks=pytest.mark.slow) for two in (HERE, "mac1,mac2"))])
def test_the_leader_hears_of_a_worker_that_fails(machines: str, place: Path) -> None:
    code, out, _ = ran(place, machines, DO_0="hear 0", DO_1="exit 3")
    assert code == 0
    worker = machines.partition(",")[2]
    assert out.splitlines()[-1] == f"heard Absence(machine={worker!r}, code=3)"
    assert left(place) == []


@pytest.mark.parametrize(
    "number", [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGINT, signal.SIGKILL]
)
def test_nothing_goes_on_when_the_starter_ends(number: int, place: Path) -> None:
    with starter(place, FAR, DO_0="sleep 60", DO_1="sleep 60") as process:
        deadline = time.monotonic() + 20
        while len(list(place.glob("*.started"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(number)
        process.communicate(timeout=20)
    assert process.returncode == (-number if number == signal.SIGKILL else 75)
    while left(place) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert left(place) == []


def test_a_machine_that_cannot_be_reached_is_said_before_anything_runs(place: Path) -> None:
    code, out, err = ran(place, "127.0.0.1,unknown")
    assert (code, out) == (1, "")
    assert err == (
        "MachineLost: unknown does not answer by ssh (ssh: Could not resolve hostname unknown); try: ssh -o "
        "BatchMode=yes unknown true\n"
    )
    assert list(place.glob("*.started")) == []


def test_a_machine_without_the_program_is_said(place: Path) -> None:
    code, out, err = ran(place, "mac1,127.0.0.1", "/nowhere/python")
    assert (code, out) == (1, "")
    assert err.splitlines()[-1] == (
        "UsageError: ltx2rt cannot start on mac1: no /nowhere/python there; install ltx2rt at the same path on every "
        "machine."
    )


@pytest.mark.parametrize(
    ("says", "reason"),
    [
        ("echo no route >&2; sleep 0.2; echo Goodbye", "no route"),
        ("echo This account is currently not available.", "This account is currently not available"),
    ],
)
def test_the_reason_is_what_stderr_says_else_what_stdout_does(says: str, reason: str, place: Path) -> None:
    (place / "bin" / "ssh").write_text(f"#!/bin/sh\n{says}\nexit 255\n")
    _, _, err = ran(place, "127.0.0.1,mac1")
    assert err.startswith(f"MachineLost: mac1 does not answer by ssh ({reason}); try: ")


def test_a_machine_without_the_folder_says_where_relative_paths_begin(place: Path) -> None:
    elsewhere = f"{place}-elsewhere"
    move = f"mv '{place}' '{elsewhere}'; cd '{elsewhere}'; exec"
    (place / "bin" / "ssh").write_text(STAND_IN.replace("exec", move))
    code, out, err = ran(place, "mac1", TMPDIR=str(place.parent))
    assert (code, out[:5]) == (0, "out 0")
    assert f"no folder {place} on mac1; relative paths begin there in {elsewhere}" in err.splitlines()


def test_a_connection_to_the_leader_that_breaks_is_not_an_exit_code(place: Path) -> None:
    code, _, err = ran(place, "mac1,mac2", DO_0="exit 255")
    assert code == 1
    assert err.splitlines()[-1].startswith("MachineLost: the connection to mac1, which leads, broke off (")
