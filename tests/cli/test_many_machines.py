"""The recipes of docs/many-machines.md: queues in which a clip is killed, goes on, and comes out as if nothing was."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from ltx2rt.cli.main import build_parser, run

PAGE = Path(__file__).parents[2] / "docs" / "many-machines.md"
OPTIONS = 'height = 64\nwidth = 64\nnum-frames = 9\nno-gemma = true\npipeline = "one-stage"\nsteps = 4\n'

# The command, but where a file KILL-JOB is, the run of that job is killed once it has kept something.
STAND_IN = """
import os, pathlib, signal, subprocess, sys, time
verb = ["generate"] if sys.argv[0].endswith("-generate") else []
words = [sys.executable, "-m", "ltx2rt.cli", *verb, *sys.argv[1:]]
state = pathlib.Path(sys.argv[sys.argv.index("--state-folder") + 1]) if "--state-folder" in sys.argv else None
mark = pathlib.Path(os.environ["KILLS"], state.name) if state is not None else None
process = subprocess.Popen(words)
if mark is not None and mark.exists():
    mark.unlink()
    while process.poll() is None and not list(state.glob("denoise*.safetensors")):
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert process.returncode == -signal.SIGKILL
    os.kill(os.getpid(), signal.SIGKILL)
sys.exit(process.wait())
"""


def recipe(name: str) -> str:
    found = re.search(rf"<!-- recipe: {re.escape(name)} -->\n```\w+\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    assert found is not None
    return found[1]


def program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A shared folder with four jobs, the second of which is killed once; the third cannot work."""
    for folder in ("jobs", "bin", "kills"):
        (tmp_path / folder).mkdir()
    for name in ("ltx2rt", "ltx2rt-generate"):
        program(tmp_path / "bin" / name, f"#!{sys.executable}\n{STAND_IN}")
    for number in range(4):
        more = "num-frames = 10\n" if number == 2 else ""
        options = OPTIONS.replace("num-frames = 9\n", more) if more else OPTIONS
        (tmp_path / "jobs" / f"{number}.toml").write_text(f'prompt = "a red circle"\nseed = {number}\n{options}')
    (tmp_path / "kills" / "1").touch()
    program(tmp_path / "one-job.sh", recipe("one-job.sh"))
    return tmp_path


def environment(place: Path) -> dict[str, str]:
    return {**os.environ, "PATH": f"{place / 'bin'}:{os.environ['PATH']}", "KILLS": str(place / "kills")}


def ran(place: Path, words: list[str], variables: Mapping[str, str] = os.environ) -> subprocess.CompletedProcess[str]:
    done = {**environment(place), **variables} if variables is not os.environ else environment(place)
    return subprocess.run(words, cwd=place, env=done, capture_output=True, text=True, timeout=600)


def require_clips(place: Path, *numbers: int) -> None:
    """The clips of these jobs are there, as one run makes them, and nothing else is left."""
    names = {f"{number}.mp4" for number in numbers}
    assert {path.name for path in (place / "clips").iterdir()} == names | {f"{name}.json" for name in names}
    assert list((place / "states").iterdir()) == []
    assert list((place / "kills").iterdir()) == []
    whole = place / "whole.mp4"
    assert run(["generate", "--config", str(place / "jobs" / "1.toml"), "-o", str(whole), "--quiet"]) == 0
    assert (place / "clips" / "1.mp4").read_bytes() == whole.read_bytes()


@pytest.mark.slow
def test_xargs_makes_the_clips(place: Path) -> None:
    done = ran(place, ["sh", "-c", recipe("xargs.sh")])
    assert done.returncode == 123, done.stderr
    require_clips(place, 0, 1, 3)
    lines = (place / "logs" / "1.jsonl").read_text().splitlines()
    said = [json.loads(line) for line in lines if line.startswith("{")]  # the shell says there that it was killed
    assert [line["path"] for line in said if line["event"] == "written"] == ["clips/1.mp4"]
    assert sum(line["event"] == "settings" for line in said) == 2  # it began twice
    steps = [line["step"] for line in said if line["event"] == "stage" and line["stage"] == "denoise"]
    assert max(steps) == 4
    lines = (place / "logs" / "2.jsonl").read_text().splitlines()
    (error,) = (line for line in lines if not line.startswith("{"))  # which another try cannot help: there was one
    assert error.startswith("error: --num-frames must be 8*k + 1, got 10")
    again = ran(place, ["sh", "-c", recipe("xargs.sh")])
    assert again.returncode == 123  # clips that are there are not made again
    assert sum('"settings"' in line for line in (place / "logs" / "1.jsonl").read_text().splitlines()) == 2


@pytest.mark.slow
def test_a_job_of_slurm_that_may_not_go_on_here_is_queued_again(place: Path) -> None:
    """With stand-ins for Slurm's commands; the machine is lost in every one of three tries."""
    program(place / "bin" / "srun", '#!/bin/sh\nexec "$@"\n')
    program(place / "bin" / "scontrol", '#!/bin/sh\necho "$@" >> requeued\n')
    program(place / "job", recipe("clips.sbatch"))
    real = (place / "bin" / "ltx2rt-generate").read_text()
    program(place / "bin" / "ltx2rt-generate", "#!/bin/sh\nexit 75\n")
    variables = {"SLURM_ARRAY_TASK_ID": "1", "SLURM_JOB_ID": "417"}
    assert ran(place, ["./job"], variables).returncode == 75
    assert (place / "requeued").read_text() == "requeue 417\n"
    program(place / "bin" / "ltx2rt-generate", real)
    assert ran(place, ["./job"], variables).returncode == 0
    require_clips(place, 1)
    assert ran(place, ["./job"], {**variables, "SLURM_ARRAY_TASK_ID": "2"}).returncode == 2
    assert (place / "requeued").read_text() == "requeue 417\n"


def ray_python() -> str | None:
    """An interpreter with Ray: this one, or the one that the variable names."""
    named = os.environ.get("LTX2RT_RAY_PYTHON")
    return named or (sys.executable if importlib.util.find_spec("ray") is not None else None)


@contextmanager
def ray_node(place: Path, python: str) -> Iterator[dict[str, str]]:
    """A cluster of one node; variables with which a program finds it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    variables = {
        "HOME": str(place),  # Ray writes there
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ADDRESS": f"127.0.0.1:{port}",
    }
    words = ["start", "--head", "--block", "--num-cpus=2", "--include-dashboard=False", f"--port={port}"]
    line = [python, "-m", "ray.scripts.scripts", *words, "--node-ip-address=127.0.0.1"]
    # Ray gives a node 30 s to start, which a busy computer may need more than once.
    for _ in range(4):
        with subprocess.Popen(
            line,
            cwd=place,
            env=environment(place) | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as node:
            assert node.stdout is not None
            said = next((text for text in node.stdout if "Ray runtime started" in text), None)
            if said is None:
                continue
            # Its output goes on, and nobody reads it.
            threading.Thread(target=node.stdout.read, daemon=True).start()
            try:
                yield variables
            finally:
                node.terminate()
                node.wait(60)
            return
    raise AssertionError("Ray does not start")


@pytest.mark.slow
@pytest.mark.skipif(ray_python() is None, reason="needs Ray: pip install ray, or LTX2RT_RAY_PYTHON=its/python")
def test_ray_makes_the_clips(place: Path) -> None:
    python = ray_python()
    assert python is not None
    (place / "clips_on_ray.py").write_text(recipe("clips_on_ray.py"))
    for name in ("0.toml", "3.toml"):
        (place / "jobs" / name).unlink()
    (place / "jobs" / "0.toml").write_text((place / "jobs" / "1.toml").read_text().replace("seed = 1", "seed = 0"))
    with ray_node(place, python) as variables:
        done = ran(place, [python, "clips_on_ray.py", "jobs", "1"], variables)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if re.match(r"\d \d", line)]
    assert sorted(line[:3] for line in lines) == ["0 0", "1 0", "2 2"]
    require_clips(place, 0, 1)


def test_the_page_names_options_that_there_are() -> None:
    verbs = next(action.choices for action in build_parser()._actions if hasattr(action.choices, "keys"))
    known = {name for verb in verbs.values() for action in verb._actions for name in action.option_strings}
    others = {"--sshlogin", "--workdir", "--joblog", "--resume-failed"}  # of parallel
    others |= {"--hostfile", "--over", "--backend"}  # of mlx.launch and mlx.distributed_config
    slurm = {"--array", "--mem", "--cpus-per-task", "--requeue", "--open-mode", "--signal"}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", PAGE.read_text()))
    assert {"--state-folder", "--resume", "--progress", "--json"} <= named
    assert named - known - others - slurm == set()


def test_a_plan_takes_options_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "job.toml"
    config.write_text(f'prompt = "a red circle"\nmemory = "5GB"\n{OPTIONS}')
    assert run(["plan", "--config", str(config), "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["steps"] == 4
    assert 0 < plan["peak_bytes"] < 5e9
    config.write_text(config.read_text().replace("frames = 9", "frames = 10"))
    assert run(["plan", "--config", str(config)]) == 2
    assert "got 10" in capsys.readouterr().err
