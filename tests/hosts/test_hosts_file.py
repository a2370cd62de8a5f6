"""The hosts file: what it may say, what MLX is told of it, and one clear sentence for everything that cannot work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ltx2rt.errors import UsageError
from ltx2rt.hosts.hosts_file import read_hosts

HERE = {"ssh": "127.0.0.1", "ips": ["10.0.0.1"]}
THERE = {"ssh": "mac2", "ips": ["10.0.0.2", "10.0.1.2"]}
RDMA = [
    {"ssh": "mac1", "ips": ["10.0.0.1"], "rdma": [None, "rdma_en5"]},
    {"ssh": "mac2", "ips": [], "rdma": ["rdma_en5", None]},
]


def written(folder: Path, content: Any) -> Path:
    path = folder / "hosts.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_a_ring_is_told_every_address_with_a_port(tmp_path: Path) -> None:
    content = {"backend": "ring", "envs": ["LTX2RT_NUM_THREADS=16", "A=b=c"], "hosts": [HERE, THERE], "port": 5000}
    hosts = read_hosts(written(tmp_path, content))
    assert [machine.is_here for machine in hosts.machines] == [True, False]
    variables, files = hosts.settings_of(1)
    assert variables == {"LTX2RT_NUM_THREADS": "16", "A": "b=c", "MLX_RANK": "1"}
    assert {name: json.loads(text) for name, text in files.items()} == {
        "MLX_HOSTFILE": [["10.0.0.1:5000"], ["10.0.0.2:5001", "10.0.1.2:5002"]]
    }


def test_how_fast_the_machines_are_beside_each_other(tmp_path: Path) -> None:
    assert read_hosts(written(tmp_path, [HERE, THERE])).shares == ()
    assert read_hosts(written(tmp_path, [{**HERE, "share": 3}, {**THERE, "share": 3}])).shares == ()
    assert read_hosts(written(tmp_path, [HERE, {**THERE, "share": 0.5}])).shares == (1, 0.5)


def test_the_list_of_hosts_alone_is_a_ring_on_the_usual_ports(tmp_path: Path) -> None:
    hosts = read_hosts(written(tmp_path, [HERE, THERE]))
    assert hosts.backend == "ring"
    assert "10.0.0.1:32323" in hosts.settings_of(0)[1]["MLX_HOSTFILE"]


@pytest.mark.parametrize("backend", ["jaccl", "jaccl-ring"])
def test_rdma_is_told_its_devices_and_who_coordinates(backend: str, tmp_path: Path) -> None:
    hosts = read_hosts(written(tmp_path, {"backend": backend, "hosts": RDMA}))
    variables, files = hosts.settings_of(1)
    ring = {"MLX_JACCL_RING": "1"} if backend == "jaccl-ring" else {}
    assert variables == {"MLX_RANK": "1", "MLX_JACCL_COORDINATOR": "10.0.0.1:32323", **ring}
    assert json.loads(files["MLX_IBV_DEVICES"]) == [[None, "rdma_en5"], ["rdma_en5", None]]


def test_what_mlx_writes_is_read(tmp_path: Path) -> None:
    from mlx._distributed_utils.common import Host, Hostfile

    machines = [Host(0, "mac1", ["10.0.0.1"], []), Host(1, "mac2", ["10.0.0.2"], [])]
    hosts = read_hosts(written(tmp_path, Hostfile(machines, "ring", ["A=1"]).to_json()))
    assert [machine.name for machine in hosts.machines] == ["mac1", "mac2"]


WRONG: dict[str, tuple[Any, str]] = {
    "no JSON": ("{", "is not JSON: Expecting property name"),
    "no list": ({"machines": []}, 'has no list "hosts"; it looks like {"hosts": '),
    "a number": ("3", 'has no list "hosts"'),
    "nobody": ([], "names 0 machine; a team has at least two"),
    "one": ([HERE], "names 1 machine; a team has at least two, one alone needs no hosts file."),
    "no name": ([HERE, {"ips": ["10.0.0.2"]}], "has no usable name of machine 2, got None"),
    "an option": ([HERE, {"ssh": "-oProxyCommand=x"}], "has no usable name of machine 2, got '-oProxyCommand=x'"),
    "no object": ([HERE, "mac2"], "has no usable name of machine 2, got None"),
    "no address": ([HERE, {"ssh": "mac2"}], 'has no address of mac2; give "ips"'),
    "addresses": ([HERE, {"ssh": "mac2", "ips": "10.0.0.2"}], 'has "ips" of mac2 that are no list'),
    "IPv6": ([HERE, {"ssh": "mac2", "ips": ["fe80::1"]}], "gives mac2 the address fe80::1; MLX takes IPv4"),
    "a port": ([HERE, {"ssh": "mac2", "ips": ["10.0.0.2:5"]}], "gives mac2 the address 10.0.0.2:5; MLX takes IPv4"),
    "loopback": ([{**HERE, "ips": ["127.0.0.1"]}, THERE], "the address 127.0.0.1, which no other machine can reach"),
    "backend": ({"backend": "gloo", "hosts": [HERE, THERE]}, "backend 'gloo'; use one of ring, jaccl, jaccl-ring."),
    "mpi": ({"backend": "mpi", "hosts": [HERE, THERE]}, "start the command with mpirun."),
    "no devices": ({"backend": "jaccl", "hosts": [HERE, THERE]}, 'lists 0 devices in "rdma" of 127.0.0.1; give one'),
    "own device": (
        {"backend": "jaccl", "hosts": [{**RDMA[0], "rdma": ["a", "b"]}, RDMA[1]]},
        "has a device from mac1 to itself",
    ),
    "coordinator": ({"backend": "jaccl", "hosts": [{**RDMA[0], "ips": []}, RDMA[1]]}, "has no address of mac1"),
    "devices": ({"backend": "jaccl", "hosts": [{**RDMA[0], "rdma": "x"}, RDMA[1]]}, "that is no list of devices"),
    "variables": ({"envs": "A=1", "hosts": [HERE, THERE]}, 'has "envs" that are no list of NAME=VALUE'),
    "a variable": ({"envs": ["A B=1"], "hosts": [HERE, THERE]}, "has 'A B=1' in \"envs\"; write NAME=VALUE."),
    "no share": ([HERE, {**THERE, "share": 0}], 'has the "share" 0 of mac2; it must be a positive number'),
    "a low port": ({"port": 80, "hosts": [HERE, THERE]}, 'has the port 80; "port" must be a whole number from 1024'),
    "a high port": ({"port": 65534, "hosts": [HERE, THERE]}, "from 1024 to 65532."),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_work_is_one_sentence(name: str, tmp_path: Path) -> None:
    content, message = WRONG[name]
    path = written(tmp_path, content)
    with pytest.raises(UsageError) as caught:
        read_hosts(path)
    text = str(caught.value)
    assert text.startswith(f"the hosts file {path} ")
    assert message in text
    assert "\n" not in text


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot be read: No such file or directory; check the path\."):
        read_hosts(tmp_path / "hosts.json")
