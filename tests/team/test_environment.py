"""What variables ask for a group of machines, and which cannot work. Nothing here touches MLX's distributed engine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ltx2rt.errors import UsageError
from ltx2rt.team.environment import Asked, asked_for


def hosts(folder: Path, *rows: object) -> str:
    path = folder / "hosts.json"
    path.write_text(json.dumps(list(rows)))
    return str(path)


def test_each_backend_has_its_variables(tmp_path: Path) -> None:
    two = hosts(tmp_path, ["10.0.0.1:5000"], ["mac2.local:5000", "10.0.1.2:5001"])
    assert asked_for({}) is None
    assert asked_for({"MLX_RANK": "1", "MLX_HOSTFILE": two}) == Asked("ring", 1, 2, None, ("mac2.local", "10.0.1.2"))
    assert asked_for({"MLX_RANK": "0", "MLX_IBV_DEVICES": two}) == Asked("jaccl", 0, 2)
    assert asked_for({"MLX_RANK": "2", "NCCL_HOST_IP": "10.0.0.1", "MLX_WORLD_SIZE": "4"}) == Asked("nccl", 2, 4)
    assert asked_for({"OMPI_COMM_WORLD_SIZE": "3", "OMPI_COMM_WORLD_RANK": "1"}) == Asked("mpi", 1, 3)


def test_a_group_of_one_machine_is_an_ordinary_run(tmp_path: Path) -> None:
    assert asked_for({"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"}) is None
    assert asked_for({"MLX_RANK": "0", "MLX_HOSTFILE": hosts(tmp_path, ["10.0.0.1:5000"])}) is None
    # mlx.launch -n 1 writes an empty file.
    assert asked_for({"MLX_RANK": "0", "MLX_HOSTFILE": hosts(tmp_path)}) is None


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"MLX_RANK": "0"}, "neither MLX_HOSTFILE"),
        ({"MLX_RANK": "x", "MLX_HOSTFILE": "two"}, "MLX_RANK must be a whole number, got 'x'"),
        ({"MLX_RANK": "2", "MLX_HOSTFILE": "two"}, "ranks are 0 to 1"),
        ({"MLX_RANK": "0", "MLX_HOSTFILE": "missing"}, "cannot be read as JSON"),
        ({"MLX_RANK": "0", "MLX_HOSTFILE": "no list"}, "holds no list"),
        ({"MLX_RANK": "0", "MLX_HOSTFILE": "no port"}, "HOST:PORT"),
        ({"MLX_RANK": "0", "MLX_HOSTFILE": "IPv6"}, "IPv4"),
        ({"MLX_RANK": "0", "MLX_HOSTFILE": "no address"}, "a list of"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "OMPI_COMM_WORLD_RANK must be a whole number"),
    ],
)
def test_what_cannot_work_is_refused(environ: dict[str, str], message: str, tmp_path: Path) -> None:
    contents = {
        "two": '[["a:1"], ["b:1"]]',
        "no list": "{}",
        "no port": '[["a"], ["b:1"]]',
        "IPv6": '[["fe80::1:5000"], ["b:1"]]',
        "no address": "[[], []]",
    }
    for name, text in contents.items():
        (tmp_path / name).write_text(text)
    given = {key: str(tmp_path / value) if key == "MLX_HOSTFILE" else value for key, value in environ.items()}
    with pytest.raises(UsageError, match=message):
        asked_for(given)


@pytest.mark.slow
def test_an_ordinary_run_never_touches_the_distributed_engine() -> None:
    """Merely asking it about MPI ends the process where MPICH is installed."""
    program = (
        "import sys, mlx.core as mx\n"
        "class Touched:\n"
        "    def __getattr__(self, name):\n"
        "        raise AssertionError('mx.distributed.' + name + ' was touched')\n"
        "mx.distributed = sys.modules['mlx.core.distributed'] = Touched()\n"
        "import ltx2rt\n"
        "from ltx2rt import _ext\n"
        "_ext.join_group = lambda backend: sys.exit('a group was joined')\n"
        "clip = ltx2rt.load('distilled')('a red circle', height=64, width=64, num_frames=9, latents_only=True)\n"
        "assert ltx2rt.team() is None\n"
        "print(clip.video_latent.shape)\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "(1, 2, 2, 2, 128)\n"
