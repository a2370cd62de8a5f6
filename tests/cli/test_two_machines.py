"""Two processes over loopback with plain environment variables: the same bits, and how it ends when one fails.

Each test that ends badly has a time limit, the exit codes of both, what they say, and what they leave.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest

from ltx2rt import embedded
from ltx2rt.cli.main import run
from ltx2rt.weights.safetensors import SafetensorsFile, write_safetensors

SMALL = ["--prompt", "a red circle", "--height", "64", "--width", "64", "--num-frames", "9"]
GUIDED = ["--pipeline", "one-stage", *SMALL, "--steps", "2"]
LONG = ["--pipeline", "one-stage", *SMALL, "--steps", "60"]
DEADLINE = 120.0  # of what nobody waits for; a test that waits says for how long


def machine(rank: int, hosts: str, folder: str, words: list[str]) -> None:
    """Body of a child process."""
    os.environ |= {"MLX_RANK": str(rank), "MLX_HOSTFILE": hosts, "LTX2RT_NUM_THREADS": "1"}
    os.chdir(folder)
    for stream, name in ((sys.stdout, "stdout"), (sys.stderr, "stderr")):
        with open(f"../{rank}.{name}", "wb") as file:
            os.dup2(file.fileno(), stream.fileno())
    code = run(["generate", *words])
    sys.stdout.flush()
    raise SystemExit(code)


class Machines:
    """Two machines, each with a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[BaseProcess] = []
        self.hosts = folder / "hosts.json"
        self.hosts.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in free_ports(2)]))
        for rank in range(2):
            self.place(rank).mkdir()

    def place(self, rank: int) -> Path:
        return self.folder / f"machine {rank}"

    def start(self, rank: int, *words: str) -> BaseProcess:
        """Run ``ltx2rt generate`` there, in a process that a server forks which has imported everything."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["ltx2rt.cli.main"])
        arguments = (rank, str(self.hosts), str(self.place(rank)), list(words))
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

    def wait_until_said(self, rank: int, text: str) -> None:
        until(lambda: text in self.said(rank))


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    found = Machines(tmp_path)
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


def until(happened: Callable[[], bool], seconds: float = DEADLINE) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


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


def test_the_same_command_on_two_machines_has_the_bits_of_one(machines: Machines, tmp_path: Path) -> None:
    words = [*GUIDED, "--skip-vae", "--save-latents", "latents.safetensors", "-o", "clip.mp4"]
    for split in ("passes", "tokens"):
        processes = [machines.start(rank, *words, "--overwrite", "--split", split) for rank in range(2)]
        assert [code_of(process) for process in processes] == [0, 0], machines.said(0) + machines.said(1)
        expected = alone(tmp_path / f"alone {split}", GUIDED)
        assert (machines.place(0) / "latents.safetensors").read_bytes() == expected
    assert machines.left(1) == []
    assert machines.said(0, "stdout") == "latents.safetensors\n"
    assert machines.said(1, "stdout") == ""


def test_a_machine_that_never_comes_is_waited_for_as_long_as_the_patience(machines: Machines) -> None:
    for rank, other in ((0, 1), (1, 0)):
        begun = time.monotonic()
        assert code_of(machines.start(rank, *GUIDED, "-o", "clip.mp4", "--patience", "2"), 60) == 75
        assert time.monotonic() - begun > 2
        assert "not all 2 machines of the group came within 2 s" in machines.said(rank)
        assert machines.left(rank) == []
        assert machines.said(other) == "" or other == 0


def test_a_killed_machine_is_done_without(machines: Machines, tmp_path: Path) -> None:
    words = [*LONG, "--skip-vae", "--save-latents", "latents.safetensors", "-o", "clip.mp4"]
    leader, other = (machines.start(rank, *words, "--progress", "json") for rank in range(2))
    machines.wait_until_said(0, '"step": 3')
    other.kill()
    assert code_of(leader) == 0
    assert "the connection to another machine is lost" in machines.said(0)
    assert machines.said(0).count("this machine goes on alone") == 1
    assert (machines.place(0) / "latents.safetensors").read_bytes() == alone(tmp_path / "alone", LONG)


@pytest.mark.slow
@pytest.mark.parametrize("split", ["passes", "tokens"])
def test_a_stopped_machine_ends_the_run_which_continues_alone_with_the_same_bits(
    split: str, machines: Machines, tmp_path: Path
) -> None:
    words = [*LONG, "-o", "clip.mp4", "--progress", "json", "--patience", "3", "--split", split]
    leader, other = (machines.start(rank, *words) for rank in range(2))
    machines.wait_until_said(0, '"step": 3')
    assert other.pid is not None
    os.kill(other.pid, signal.SIGSTOP)
    begun = time.monotonic()
    assert code_of(leader, 30) == 75
    assert time.monotonic() - begun < 20
    assert "no word from another machine for 3 s" in machines.said(0)
    assert "--resume continues" in machines.said(0)
    assert machines.left(0) == []
    os.kill(other.pid, signal.SIGCONT)
    assert code_of(other) == 75
    place = machines.place(0)
    assert run(["generate", *LONG, "--quiet", "--resume", "-o", str(place / "clip.mp4")]) == 0
    whole = tmp_path / "whole.mp4"
    assert run(["generate", *LONG, "--quiet", "-o", str(whole)]) == 0
    assert (place / "clip.mp4").read_bytes() == whole.read_bytes()


@pytest.mark.slow
def test_a_run_of_two_machines_is_continued_by_two_others(machines: Machines, tmp_path: Path) -> None:
    words = [*LONG, "-o", "clip.mp4", "--progress", "json"]
    leader, other = (machines.start(rank, *words) for rank in range(2))
    machines.wait_until_said(0, '"step": 3')
    assert leader.pid is not None
    os.kill(leader.pid, signal.SIGTERM)
    assert code_of(leader) == 75
    assert code_of(other) == 75
    assert "the connection to another machine is lost" in machines.said(1)
    again = [machines.start(rank, *words, "--resume") for rank in range(2)]
    assert [code_of(process) for process in again] == [0, 0]
    whole = tmp_path / "whole.mp4"
    assert run(["generate", *LONG, "--quiet", "-o", str(whole)]) == 0
    assert (machines.place(0) / "clip.mp4").read_bytes() == whole.read_bytes()
    assert machines.left(0) == ["clip.mp4", "clip.mp4.json"]


def changed_checkpoint(path: Path) -> Path:
    """The embedded model with one other value."""
    file = SafetensorsFile(embedded.CHECKPOINT)
    shutil.copyfile(embedded.CHECKPOINT, path)
    name = next(name for name in file.tensors if name.endswith("proj_out.weight"))
    tensors = {each: file.raw(each) for each in file.tensors}
    tensors[name] = np.array(tensors[name])
    tensors[name].ravel()[:1] = 0
    write_safetensors(path, tensors, dict(file.metadata))
    return path


@pytest.mark.slow
def test_other_weights_end_both_machines_with_2(machines: Machines, tmp_path: Path) -> None:
    files = ["--gemma-root", str(embedded.TEXT_ENCODER), "--model-variant", "dev"]
    checkpoints = [str(embedded.CHECKPOINT), str(changed_checkpoint(tmp_path / "other.safetensors"))]
    processes = [
        machines.start(rank, *GUIDED, *files, "--checkpoint-path", checkpoints[rank], "-o", "clip.mp4")
        for rank in range(2)
    ]
    assert [code_of(process) for process in processes] == [2, 2]
    for rank in range(2):
        assert "the machines differ (weights of the transformer: machine 0 has sampled-sha256:" in machines.said(rank)
        assert machines.left(rank) == []


@pytest.mark.slow
def test_too_little_memory_ends_both_machines_with_75(machines: Machines) -> None:
    budgets = (["--memory", "1GB"], ["--memory", "1MB"])
    processes = [machines.start(rank, *GUIDED, "-o", "clip.mp4", *budgets[rank]) for rank in range(2)]
    assert [code_of(process) for process in processes] == [75, 75]
    assert "machine 1 has too little memory for its part of stage 'denoise'" in machines.said(0)
    for rank in range(2):
        assert machines.left(rank) == []


@pytest.mark.slow
def test_a_taken_port_is_said(machines: Machines) -> None:
    port = int(json.loads(machines.hosts.read_text())[0][0].rpartition(":")[2])
    with socket.create_server(("127.0.0.1", port)):
        assert code_of(machines.start(0, *GUIDED, "-o", "clip.mp4")) == 2
    assert "this machine cannot join the group" in machines.said(0)
