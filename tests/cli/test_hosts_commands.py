"""``--hosts``: clips, plans and reports of all machines of a file; here they are two places of this machine."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest
from command_inputs import one_file

from ltx2rt.cli import doctor, team_plan
from ltx2rt.cli.machines import _without_hosts
from ltx2rt.cli.main import run
from ltx2rt.team.links import Links
from ltx2rt.weights.safetensors import SafetensorsFile

SMALL = ["--prompt", "a red circle", "--height", "64", "--width", "64", "--num-frames", "9", "--no-gemma"]
ANY = [*SMALL, "--pipeline", "one-stage", "--steps", "2"]


def free_ports(count: int = 2) -> int:
    """The first of some neighbouring ports that nobody has."""
    for _ in range(100):
        with ExitStack() as stack:
            first = stack.enter_context(socket.socket())
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
            try:
                for place in range(1, count):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port + place))
            except OSError:
                continue
            return port
    raise AssertionError(f"no {count} neighbouring ports are free")


@pytest.fixture
def hosts(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Two machines, or those that the test names."""
    machines = [{"ssh": name, "ips": ["127.0.0.1"]} for name in getattr(request, "param", ("127.0.0.1", "localhost"))]
    content = {"hosts": machines, "port": free_ports(len(machines)), "envs": ["LTX2RT_NUM_THREADS=1"]}
    path = tmp_path / "hosts.json"
    path.write_text(json.dumps(content))
    return path


def command(*words: object, limit: float = 300) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, as its children write to the real stdout."""
    line = [sys.executable, "-m", "ltx2rt.cli", *map(str, words)]
    return subprocess.run(line, capture_output=True, text=True, timeout=limit)


def bits(path: Path) -> dict[str, bytes]:
    file = SafetensorsFile(path)
    try:
        return {name: file.numpy(name).tobytes() for name in file.tensors}
    finally:
        file.close()


@pytest.mark.slow
def test_a_clip_of_two_machines_has_the_bits_of_one(hosts: Path, tmp_path: Path) -> None:
    latents = ["--skip-vae", "--no-state", "--save-latents"]
    done = command("generate", *ANY, "--hosts", hosts, *latents, tmp_path / "two.safetensors")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path / 'two.safetensors'}\n"
    said = done.stderr.splitlines()
    assert "ltx2rt: machine 0 of 2, which leads" in said
    assert "localhost: ltx2rt: machine 1 of 2" in said
    assert run(["generate", *ANY, *latents, str(tmp_path / "one.safetensors"), "--quiet"]) == 0
    assert bits(tmp_path / "two.safetensors") == bits(tmp_path / "one.safetensors")


@pytest.mark.slow
def test_a_usage_error_of_the_leader_is_the_exit_code(hosts: Path, tmp_path: Path) -> None:
    done = command("generate", *SMALL, "--num-frames", "10", "--hosts", hosts, "-o", tmp_path / "clip.mp4")
    assert done.returncode == 2
    assert "must be 8*k + 1, got 10" in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"hosts.json"}


@pytest.mark.slow
def test_a_worker_that_is_killed_leaves_a_clip_with_the_same_bits(hosts: Path, tmp_path: Path) -> None:
    many = [*SMALL, "--pipeline", "one-stage", "--steps", "40", "--height", "128", "--width", "128", "--no-sidecar"]
    words = ["generate", *many, "--split", "tokens", "--hosts", str(hosts), "-o", str(tmp_path / "two.mp4")]
    with subprocess.Popen(
        [sys.executable, "-m", "ltx2rt.cli", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        state, deadline = tmp_path / ".two.mp4.state", time.monotonic() + 120
        while len(list(state.glob("denoise*.safetensors"))) < 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        for worker in _processes_with("MLX_RANK", "1"):
            os.kill(worker, signal.SIGKILL)
        out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert out == f"{tmp_path / 'two.mp4'}\n"
    assert "alone" in err
    assert "ltx2rt: localhost has ended with exit code 137" in err.splitlines()
    assert run(["generate", *many, "-o", str(tmp_path / "one.mp4"), "--quiet"]) == 0
    assert (tmp_path / "two.mp4").read_bytes() == (tmp_path / "one.mp4").read_bytes()


def _processes_with(name: str, value: str) -> list[int]:
    """Pythons among our descendants with a variable in their environment."""
    found = []
    for process in psutil.Process().children(recursive=True):
        if "python" in process.name() and process.environ().get(name) == value:
            found.append(process.pid)
    return found


@pytest.mark.slow
def test_a_worker_that_fails_before_it_has_joined_ends_the_leader_with_its_code(hosts: Path, tmp_path: Path) -> None:
    content = json.loads(hosts.read_text())
    with socket.socket() as own:
        own.bind(("127.0.0.1", content["port"] + 1))  # the worker's, which it cannot have
        done = command("generate", *ANY, "--hosts", hosts, "-o", tmp_path / "clip.mp4", limit=60)
    assert done.returncode == 2
    said = done.stderr.splitlines()
    assert "ltx2rt: localhost has ended with exit code 2" in said
    assert any(line.startswith("localhost: error: this machine cannot join the group") for line in said)
    assert said[-1].startswith("error: localhost has ended with exit code 2 before all machines had met")
    assert {path.name for path in tmp_path.iterdir()} == {"hosts.json"}


@pytest.mark.slow
def test_mlx_launch_starts_the_same_command(tmp_path: Path) -> None:
    latents = ["--skip-vae", "--no-state", "--save-latents"]
    launch = shutil.which("mlx.launch", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert launch is not None
    line = [launch, "-n", "2", "--starting-port", str(free_ports()), "--", sys.executable, "-m", "ltx2rt.cli"]
    words = ["generate", *ANY, *latents, str(tmp_path / "two.safetensors"), "--quiet"]
    # Its input stays open: mlx.launch fails where it ends.
    with subprocess.Popen([*line, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"{tmp_path / 'two.safetensors'}\n"
        process.wait(60)
    assert run(["generate", *ANY, *latents, str(tmp_path / "one.safetensors"), "--quiet"]) == 0
    assert bits(tmp_path / "two.safetensors") == bits(tmp_path / "one.safetensors")


@pytest.mark.slow
def test_a_plan_of_all_machines(hosts: Path, tmp_path: Path, weights: Path) -> None:
    words = ["plan", *SMALL, *one_file(weights, "dev"), "--pipeline", "one-stage", "--steps", "3"]
    done = command(*words, "--split", "tokens", "--memory", "6GB", "--hosts", hosts, "--json")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert [machine["error"] for machine in plan["machines"]] == [None, None]
    assert all(0 < machine["peak_bytes"] < 6e9 for machine in plan["machines"])
    (stage,) = plan["shared"]
    assert (stage["name"], stage["steps"]) == ("denoise", 3)
    assert stage["received_bytes_per_step"] * 3 == pytest.approx(stage["received_bytes"], abs=3)
    assert stage["received_bytes"] > 0
    assert plan["bandwidth_bytes"] > 0
    assert plan["seconds"] > stage["computing_seconds"] + stage["exchanging_seconds"]
    text = command(*words, "--hosts", hosts)
    assert text.returncode == 0, text.stderr
    assert re.search(r"^machine 1 \(", text.stdout, re.M)
    assert re.search(r"on 2 machines, \d+ s on machine 0 alone: \d+\.\d\d times as fast", text.stdout)
    refused = command(*words, "--memory", "1MB", "--hosts", hosts)
    assert refused.returncode == 1
    assert refused.stdout.count("error: ") == 2


@pytest.mark.slow
@pytest.mark.parametrize("hosts", [("127.0.0.1", "localhost", "localhost")], indirect=True)
def test_groups_are_planned_and_reported(hosts: Path) -> None:
    """Of machines that reach each other; the file says that the second one is slower."""
    content = json.loads(hosts.read_text())
    content["hosts"][1]["share"] = 0.5
    hosts.write_text(json.dumps(content))
    done = command("plan", *ANY, "--split", "both", "--hosts", hosts, "--json")
    assert done.returncode == 0, done.stderr
    (stage,) = json.loads(done.stdout)["shared"]
    assert stage["shares"] == "3 share 4 passes in groups of 2, 1, those of a group the tokens"
    parts = stage["parts"]
    assert [part["share"] for part in parts] == [
        "2 of 4 passes, 5 of 8 tokens",
        "2 of 4 passes, 3 of 8 tokens",
        "2 of 4 passes",
    ]
    assert all(part["seconds"] > 0 and part["peak_bytes"] > 0 for part in parts)
    report = command("doctor", "--hosts", hosts, "--pipeline", "one-stage")
    assert report.returncode == 0, report.stderr
    for split in ("passes", "tokens", "both"):
        assert re.search(rf"^sharing {split}: a clip of the usual size takes about", report.stdout, re.M)


@pytest.mark.slow
def test_a_report_of_all_machines(hosts: Path, weights: Path) -> None:
    files = [*one_file(weights, "dev"), "--pipeline", "one-stage"]
    done = command("doctor", "--hosts", hosts, *files)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("sampled-sha256:") >= 2
    for line in (r"machine 0 \(.+\)", r"machine 1 \(.+\)", r"between the machines: [\d.]+ ms .*, [\d.]+ GB/s received"):
        assert re.search(f"^{line}$", done.stdout, re.M), line
    assert re.search(r"^sharing passes: .* times as fast", done.stdout, re.M)
    assert re.search(r"^sharing tokens: .* times as fast", done.stdout, re.M)
    assert "differs" not in done.stdout


def test_a_report_of_one_machine_names_its_weights(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = weights / "ltx-2-19b-dev.safetensors"
    assert run(["doctor", "--checkpoint-path", str(checkpoint)]) == 0
    assert f"weights         {checkpoint}: sampled-sha256:" in capsys.readouterr().out


def machine(name: str, **facts: str) -> dict[str, Any]:
    return {"name": name, "rows": [("mlx", "1")], "facts": {"mlx": "1", "instructions": "avx2", **facts}, "error": ""}


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({}, "give the options of the weights"),
        ({"mlx": "2"}, "cannot make a clip together"),
        ({"instructions": "neon"}, "need --allow-mixed to make a clip together"),
    ],
)
def test_what_machines_differ_in_is_said(facts: dict[str, str], says: str) -> None:
    machines = [machine("a"), machine("b", **facts)]
    differing = doctor.differences([own["facts"] for own in machines])
    text = "\n".join(doctor._team_lines(machines, Links(1e-4, 1e9), differing, {}))
    assert says in text
    for name, value in facts.items():
        assert f"differs: {name}: machine 0 has {machines[0]['facts'][name]}, machine 1 {value}" in text


def stage(name: str, seconds: float, received: int = 0, exchanges: int = 0, steps: int = 0) -> dict[str, Any]:
    more = {
        "received": received,
        "exchanges": exchanges,
        "steps": steps,
        "how": "2 share",
        "share": "half",
        "peak": 5 * 10**9,
    }
    return {"key": [0, name], "seconds": seconds, **more}


def planned(name: str, *stages: dict[str, Any], alone: float = 0.0, error: str = "") -> dict[str, Any]:
    return {"name": name, "plan": "a plan", "peak": 5, "error": error, "stages": stages, "alone": alone}


def test_a_shared_stage_takes_the_slowest_machine_and_the_cable() -> None:
    own = (stage("text", 1.0), stage("denoise", 4.0, 2 * 10**9, 1000, 2), stage("video", 3.0))
    leader = planned("a", *own, alone=13.0)
    worker = planned("b", stage("denoise", 5.0, 2 * 10**9, 1000, 2))
    found = team_plan._together([leader, worker], Links(1e-3, 1e9))
    assert found.seconds == 1.0 + (5.0 + 2.0 + 1.0) + 3.0
    assert found.times == pytest.approx(13 / 12)
    assert found.as_dict()["shared"][0]["received_bytes_per_step"] == 10**9
    text = found.text()
    assert "  machine 1: half, 5.0 s, 5.00 GB" in text
    assert found.as_dict()["shared"][0]["parts"][1] == {
        "machine": 1,
        "share": "half",
        "seconds": 5.0,
        "peak_bytes": 5 * 10**9,
    }
    assert "denoise: 2 share; each machine receives 2.00 GB, 1.00 GB a step: 3.0 s beside 5.0 s of computing" in text
    assert "about 12 s on 2 machines, 13 s on machine 0 alone: 1.08 times as fast" in text


def test_a_machine_that_cannot_take_part_is_said() -> None:
    found = team_plan._together([planned("a"), planned("b", error="no such file.")], Links(1e-3, 1e9))
    assert not found.works
    assert "machine 1 (b)\nerror: no such file." in found.text()
    assert "times as fast" not in found.text()


@pytest.mark.parametrize(
    ("words", "started"),
    [
        (["plan", "a b"], ["plan", "--shares", "2,0.5", "a b"]),
        (["plan", "a b", "--shares", "1,3"], ["plan", "a b", "--shares", "1,3"]),
    ],
)
def test_shares_of_the_file_are_those_of_the_command_unless_it_has_some(
    words: list[str], started: list[str], hosts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = json.loads(hosts.read_text())
    for own, share in zip(content["hosts"], (2, 0.5), strict=True):
        own["share"] = share
    hosts.write_text(json.dumps(content))
    lines: list[list[str]] = []
    monkeypatch.setattr("ltx2rt.cli.machines.run_on_all", lambda hosts, line: len(lines.append(line) or []))
    assert run([*words, "--hosts", str(hosts)]) == 0
    (line,) = lines
    assert line[line.index("ltx2rt.cli") + 1 :] == started


def test_shares_that_do_not_fit_the_file_are_refused_before_anything_is_started(
    hosts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["generate", *ANY, "--hosts", str(hosts), "--shares", "2,1,1"]) == 2
    assert "--shares has 3 numbers, but there are 2 machines" in capsys.readouterr().err


def test_the_option_is_left_out_of_what_machines_are_told() -> None:
    assert _without_hosts(["generate", "--hosts", "h.json", "a b", "--hosts=x", "--seed", "1"]) == [
        "generate",
        "a b",
        "--seed",
        "1",
    ]


REFUSED: dict[str, tuple[Callable[[Path], list[str]], str]] = {
    "no file": (lambda hosts: ["generate", *ANY, "--hosts", "none.json"], "the hosts file none.json cannot be read"),
    "a plan": (lambda hosts: ["generate", *ANY, "--plan", "--hosts", str(hosts)], "ltx2rt plan --hosts plans one"),
    "options": (lambda hosts: ["generate", *ANY, "--print-config", "--hosts", str(hosts)], "needs no hosts"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_work_is_said_before_anything_is_started(
    name: str, hosts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, message = REFUSED[name]
    assert run(words(hosts)) == 2
    assert message in capsys.readouterr().err


def test_a_machine_of_a_team_starts_none(
    hosts: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLX_RANK", "0")
    monkeypatch.setenv("MLX_HOSTFILE", str(hosts.with_name("ring.json")))
    hosts.with_name("ring.json").write_text('[["127.0.0.1:5000"], ["127.0.0.1:5001"]]')
    assert run(["plan", *ANY, "--hosts", str(hosts)]) == 2
    assert "MLX_RANK makes this process one of a team already" in capsys.readouterr().err


def test_a_file_of_options_names_no_hosts(hosts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "job.toml"
    config.write_text(f'hosts = "{hosts}"\n')
    assert run(["generate", *ANY, "--config", str(config), "-o", str(tmp_path / "clip.mp4")]) == 2
    assert "unknown option 'hosts'" in capsys.readouterr().err
