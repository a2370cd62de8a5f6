"""Two processes over loopback with plain environment variables: the same bits, and how it ends when one fails.

Each test that ends badly has a time limit, the exit codes of both, what they say, and what they leave.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil
import pytest

from ltx2rt import embedded
from ltx2rt.cli.main import _terminate, run
from ltx2rt.graph.diffusion.denoising import PredictRequest
from ltx2rt.graph.diffusion.predictions import Denoised
from ltx2rt.graph.stages.denoise.team_passes import TeamPasses

SMALL = ["--prompt", "a red circle", "--height", "64", "--width", "64", "--num-frames", "9"]
GUIDED = ["--pipeline", "one-stage", *SMALL, "--steps", "2"]
LONG = ["--pipeline", "one-stage", *SMALL, "--steps", "8"]
SOME = 3  # evaluations after which something happens
DEADLINE = 300.0  # of what nobody waits for


def machine(rank: int, hosts: str, folder: str, words: list[str], number: int | None) -> None:
    """Body of a child process; ``number``: the signal that it gets at its first evaluation after `SOME`."""
    os.environ |= {"MLX_RANK": str(rank), "MLX_HOSTFILE": hosts, "LTX2RT_NUM_THREADS": "1"}
    os.chdir(folder)
    signal.signal(signal.SIGTERM, _terminate)
    if number is not None:
        compute, counted = TeamPasses._compute, itertools.count()

        def computed(self: TeamPasses, request: PredictRequest) -> Sequence[Denoised]:
            if next(counted) == SOME:
                os.kill(os.getpid(), number)
            return compute(self, request)

        TeamPasses._compute = computed  # type: ignore[method-assign]
    for stream, name in ((sys.stdout, "stdout"), (sys.stderr, "stderr")):
        with open(f"../{rank}.{name}", "wb") as file:
            os.dup2(file.fileno(), stream.fileno())
    code = run(["generate", *words])
    sys.stdout.flush()
    raise SystemExit(code)


class Machines:
    """Two machines or more, each with a folder of its own."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder = folder
        self.processes: list[BaseProcess] = []
        self.hosts = folder / "hosts.json"
        self.hosts.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in free_ports(count)]))
        for rank in range(count):
            self.place(rank).mkdir()

    def place(self, rank: int) -> Path:
        return self.folder / f"machine {rank}"

    def start(self, rank: int, *words: str, signal_at: int | None = None) -> BaseProcess:
        """Run ``ltx2rt generate`` there, in a process that a server forks which has imported everything."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["ltx2rt.cli.main"])
        arguments = (rank, str(self.hosts), str(self.place(rank)), list(words), signal_at)
        process = context.Process(target=machine, args=arguments)
        process.start()
        self.processes.append(process)
        return process

    def said(self, rank: int, stream: str = "stderr") -> str:
        path = self.folder / f"{rank}.{stream}"
        return path.read_text() if path.exists() else ""

    def left(self, rank: int) -> list[str]:
        """Files of a machine besides hidden ones, such as its state."""
        return sorted(path.name for path in self.place(rank).iterdir() if not path.name.startswith("."))


@pytest.fixture
def machines(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Machines]:
    """Two, or as many as the test says."""
    found = Machines(tmp_path, getattr(request, "param", 2))
    yield found
    for process in found.processes:
        if process.is_alive():
            process.kill()
        process.join()


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [own.getsockname()[1] for own in sockets]
    for own in sockets:
        own.close()
    return ports


def code_of(process: BaseProcess, seconds: float = DEADLINE) -> int | None:
    """The exit code of a process that must end in time."""
    process.join(seconds)
    assert not process.is_alive(), "it did not end in time"
    return process.exitcode


def latents(folder: Path) -> list[str]:
    """Options for the final latents alone."""
    return ["--skip-vae", "--save-latents", str(folder / "latents.safetensors"), "-o", str(folder / "clip.mp4")]


def alone(folder: Path, words: list[str]) -> bytes:
    """The final latents of one machine."""
    folder.mkdir()
    assert run(["generate", "--quiet", *words, *latents(folder)]) == 0
    return (folder / "latents.safetensors").read_bytes()


@pytest.mark.parametrize("split", ["tokens", pytest.param("passes", marks=pytest.mark.slow)])
def test_the_same_command_on_two_machines_has_the_bits_of_one(split: str, machines: Machines, tmp_path: Path) -> None:
    words = [*GUIDED, "--skip-vae", "--save-latents", "latents.safetensors", "-o", "clip.mp4", "--split", split]
    processes = [machines.start(rank, *words) for rank in range(2)]
    assert [code_of(process) for process in processes] == [0, 0], machines.said(0) + machines.said(1)
    assert (machines.place(0) / "latents.safetensors").read_bytes() == alone(tmp_path / "alone", GUIDED)
    assert machines.left(1) == []
    assert machines.said(0, "stdout") == "latents.safetensors\n"
    assert machines.said(1, "stdout") == ""


BOTH = ["--skip-vae", "--save-latents", "latents.safetensors", "-o", "clip.mp4", "--split", "both"]
# Of two passes four machines make the groups 0, 2 and 1, 3.
TWO_PASSES = [
    *("--video-stg-guidance-scale", "0", "--audio-stg-guidance-scale", "0"),
    *("--a2v-guidance-scale", "1", "--v2a-guidance-scale", "1"),
]


@pytest.mark.slow
@pytest.mark.parametrize("machines", [3, 4], indirect=True)
def test_groups_of_machines_have_rings_of_their_own_and_the_bits_of_one(machines: Machines, tmp_path: Path) -> None:
    ranks = range(len(json.loads(machines.hosts.read_text())))
    processes = [machines.start(rank, *GUIDED, *TWO_PASSES, *BOTH) for rank in ranks]
    assert [code_of(process) for process in processes] == [0] * len(ranks), machines.said(0)
    assert (machines.place(0) / "latents.safetensors").read_bytes() == alone(tmp_path / "alone", [*GUIDED, *TWO_PASSES])
    assert [machines.left(rank) for rank in ranks[1:]] == [[]] * len(ranks[1:])


@pytest.mark.slow
@pytest.mark.parametrize(("machines", "shares"), [(2, "1,2"), (3, "1,7,1")], indirect=["machines"])
def test_machines_of_unequal_speed_have_the_bits_of_one(shares: str, machines: Machines, tmp_path: Path) -> None:
    """Pieces that are put in their places, and pieces that are added up."""
    words = [*GUIDED, "--skip-vae", "--save-latents", "latents.safetensors", "-o", "clip.mp4", "--split", "tokens"]
    processes = [machines.start(rank, *words, "--shares", shares) for rank in range(len(shares.split(",")))]
    assert {code_of(process) for process in processes} == {0}, machines.said(0) + machines.said(1)
    assert (machines.place(0) / "latents.safetensors").read_bytes() == alone(tmp_path / "alone", GUIDED)


@pytest.mark.slow
@pytest.mark.parametrize("machines", [4], indirect=True)
@pytest.mark.parametrize("killed", [1, 2])
def test_when_one_of_a_group_is_killed_the_leader_goes_on(killed: int, machines: Machines, tmp_path: Path) -> None:
    """One that shares tokens with the leader, and one of the others."""
    words = [*LONG, *TWO_PASSES]
    processes = [
        machines.start(rank, *words, *BOTH, signal_at=signal.SIGKILL if rank == killed else None) for rank in range(4)
    ]
    expected = [0, *(-signal.SIGKILL if rank == killed else 75 for rank in range(1, 4))]
    assert [code_of(process) for process in processes] == expected, machines.said(0)
    assert machines.said(0).count("this machine goes on alone") == 1
    assert (machines.place(0) / "latents.safetensors").read_bytes() == alone(tmp_path / "alone", words)


@pytest.mark.slow
@pytest.mark.parametrize("machines", [4], indirect=True)
def test_a_stopped_machine_of_a_group_ends_the_run(machines: Machines) -> None:
    words = [*LONG, *TWO_PASSES, *BOTH, "--patience", "20"]
    processes = [machines.start(rank, *words, signal_at=signal.SIGSTOP if rank == 3 else None) for rank in range(4)]
    assert [code_of(process) for process in processes[:3]] == [75] * 3, machines.said(0)
    assert "no word from another machine for 20 s" in machines.said(0)
    assert machines.left(0) == []


def test_a_machine_that_never_comes_is_waited_for_as_long_as_the_patience(machines: Machines) -> None:
    for rank, other in ((0, 1), (1, 0)):
        begun = time.monotonic()
        assert code_of(machines.start(rank, *GUIDED, "-o", "clip.mp4", "--patience", "1"), 60) == 75
        assert time.monotonic() - begun > 1
        assert "not all 2 machines of the group came within 1 s" in machines.said(rank)
        assert machines.left(rank) == []
        assert machines.said(other) == "" or other == 0


def test_a_killed_machine_is_done_without(machines: Machines, tmp_path: Path) -> None:
    words = [*LONG, "--skip-vae", "--save-latents", "latents.safetensors", "-o", "clip.mp4"]
    leader, other = machines.start(0, *words), machines.start(1, *words, signal_at=signal.SIGKILL)
    assert [code_of(leader), code_of(other)] == [0, -signal.SIGKILL], machines.said(0)
    assert "the connection to another machine is lost" in machines.said(0)
    assert machines.said(0).count("this machine goes on alone") == 1
    assert (machines.place(0) / "latents.safetensors").read_bytes() == alone(tmp_path / "alone", LONG)


@pytest.mark.slow
@pytest.mark.parametrize("machines", [3], indirect=True)
@pytest.mark.parametrize("killed", [1, 2])
def test_when_one_of_three_is_killed_the_third_ends_and_the_leader_goes_on(
    killed: int, machines: Machines, tmp_path: Path
) -> None:
    words = [*LONG, "--skip-vae", "--save-latents", "latents.safetensors", "-o", "clip.mp4", "--split", "tokens"]
    processes = [
        machines.start(rank, *words, signal_at=signal.SIGKILL if rank == killed else None) for rank in range(3)
    ]
    expected = [0, -signal.SIGKILL, 75] if killed == 1 else [0, 75, -signal.SIGKILL]
    assert [code_of(process) for process in processes] == expected, machines.said(0)
    assert machines.said(0).count("this machine goes on alone") == 1
    assert (machines.place(0) / "latents.safetensors").read_bytes() == alone(tmp_path / "alone", LONG)


@pytest.mark.slow
@pytest.mark.parametrize("split", ["passes", "tokens"])
def test_a_stopped_machine_ends_the_run_which_continues_alone_with_the_same_bits(
    split: str, machines: Machines, tmp_path: Path
) -> None:
    patience = 20
    words = [*LONG, "-o", "clip.mp4", "--patience", str(patience), "--split", split]
    leader, other = machines.start(0, *words), machines.start(1, *words, signal_at=signal.SIGSTOP)
    assert other.pid is not None
    until_stopped(other.pid)
    begun = time.monotonic()
    assert code_of(leader) == 75, machines.said(0)
    assert time.monotonic() - begun < 2 * patience
    assert f"no word from another machine for {patience} s" in machines.said(0)
    assert "--resume continues" in machines.said(0)
    assert machines.left(0) == []
    os.kill(other.pid, signal.SIGCONT)
    assert code_of(other) == 75, machines.said(1)
    place = machines.place(0)
    assert run(["generate", *LONG, "--quiet", "--resume", "-o", str(place / "clip.mp4")]) == 0
    whole = tmp_path / "whole.mp4"
    assert run(["generate", *LONG, "--quiet", "-o", str(whole)]) == 0
    assert (place / "clip.mp4").read_bytes() == whole.read_bytes()


def until_stopped(pid: int) -> None:
    deadline = time.monotonic() + DEADLINE
    while psutil.Process(pid).status() != psutil.STATUS_STOPPED:
        assert time.monotonic() < deadline, "it was not stopped in time"
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("again", [[*LONG, "-o", "clip.mp4"], ["-o", "clip.mp4"]], ids=["the same", "the name"])
def test_an_ended_leader_ends_the_others_and_two_machines_continue(
    again: list[str], machines: Machines, tmp_path: Path
) -> None:
    """With the same command, or with one that leaves it to the state of the leader what is made."""
    words = [*LONG, "-o", "clip.mp4"]
    processes = [machines.start(0, *words, signal_at=signal.SIGTERM), machines.start(1, *words)]
    assert [code_of(process) for process in processes] == [75, 75], machines.said(0) + machines.said(1)
    assert "the connection to another machine is lost" in machines.said(1)
    assert machines.left(0) == []
    processes = [machines.start(rank, *again, "--resume") for rank in range(2)]
    assert [code_of(process) for process in processes] == [0, 0], machines.said(0) + machines.said(1)
    whole = tmp_path / "whole.mp4"
    assert run(["generate", *LONG, "--quiet", "-o", str(whole)]) == 0
    assert (machines.place(0) / "clip.mp4").read_bytes() == whole.read_bytes()
    assert machines.left(0) == ["clip.mp4", "clip.mp4.json"]


def changed_checkpoint(path: Path) -> Path:
    """The embedded model with one bit of its weights changed."""
    content = bytearray(embedded.CHECKPOINT.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)
    return path


@pytest.mark.slow
def test_other_weights_end_both_machines_with_2(machines: Machines, tmp_path: Path) -> None:
    files = ["--gemma-root", str(embedded.TEXT_ENCODER), "--model-variant", "dev"]
    checkpoints = [str(embedded.CHECKPOINT), str(changed_checkpoint(tmp_path / "other.safetensors"))]
    processes = [
        machines.start(rank, *GUIDED, *files, "--checkpoint-path", checkpoints[rank], "-o", "clip.mp4")
        for rank in range(2)
    ]
    assert [code_of(process) for process in processes] == [2, 2], machines.said(0) + machines.said(1)
    for rank in range(2):
        assert "the machines differ (weights of the transformer: machine 0 has sampled-sha256:" in machines.said(rank)
        assert machines.left(rank) == []


@pytest.mark.slow
def test_too_little_memory_ends_both_machines_with_75(machines: Machines) -> None:
    budgets = (["--memory", "1GB"], ["--memory", "1MB"])
    processes = [machines.start(rank, *GUIDED, "-o", "clip.mp4", *budgets[rank]) for rank in range(2)]
    assert [code_of(process) for process in processes] == [75, 75], machines.said(0) + machines.said(1)
    assert "machine 1 has too little memory for its part of stage 'denoise'" in machines.said(0)
    for rank in range(2):
        assert machines.left(rank) == []


@pytest.mark.slow
def test_a_taken_port_is_said(machines: Machines) -> None:
    port = int(json.loads(machines.hosts.read_text())[0][0].rpartition(":")[2])
    with socket.create_server(("127.0.0.1", port)):
        assert code_of(machines.start(0, *GUIDED, "-o", "clip.mp4")) == 2
    assert "this machine cannot join the group" in machines.said(0)
