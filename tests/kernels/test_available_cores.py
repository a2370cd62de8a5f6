"""The CPU time that control groups grant: made-up hierarchies of both versions, and a real group where possible."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ltx2rt import _ext

V2 = "31 23 0:27 {root} {point} rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
V1 = "32 31 0:29 {root} {point} rw,relatime shared:9 master:3 - cgroup cgroup rw,{controllers}"


@pytest.fixture
def machine(tmp_path):
    """Writes a made-up /proc/self and the files of control groups; returns what the kernels read from them."""

    def build(groups: str, mounts: list[str], files: dict[str, str]) -> int | None:
        proc = tmp_path / "proc/self"
        proc.mkdir(parents=True)
        (proc / "cgroup").write_text(groups)
        (proc / "mountinfo").write_text(
            "22 1 8:1 / / rw - ext4 /dev/root rw\n" + "".join(f"{line}\n" for line in mounts)
        )
        for name, text in files.items():
            path = tmp_path / name.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return _ext.cgroup_cores(str(tmp_path))

    return build


def v2(point="/sys/fs/cgroup", root="/"):
    return V2.format(point=point, root=root)


def v1(point="/sys/fs/cgroup/cpu,cpuacct", root="/", controllers="cpu,cpuacct"):
    return V1.format(point=point, root=root, controllers=controllers)


def quota(folder, quota, period):
    return {f"{folder}/cpu.cfs_quota_us": f"{quota}\n", f"{folder}/cpu.cfs_period_us": f"{period}\n"}


@pytest.mark.parametrize(
    ("text", "cores"),
    [
        ("200000 100000\n", 2),
        ("150000 100000\n", 2),
        ("200001 100000\n", 3),
        ("1000 100000\n", 1),
        ("50000 10000\n", 5),
        ("max 100000\n", None),
        ("9000000000000000000 1\n", 2**31 - 1),
        ("", None),
        ("200000\n", None),
        ("200000 0\n", None),
        ("-1 100000\n", None),
        ("0 100000\n", None),
        ("2e5 100000\n", None),
        ("99999999999999999999 100000\n", None),
        ("200000 100000 7\n", None),
    ],
)
def test_version_2(machine, text, cores):
    assert machine("0::/pod\n", [v2()], {"/sys/fs/cgroup/pod/cpu.max": text}) == cores


@pytest.mark.parametrize(
    ("numbers", "cores"),
    [((200000, 100000), 2), ((250000, 100000), 3), ((-1, 100000), None), ((200000, 0), None), (("", 100000), None)],
)
def test_version_1(machine, numbers, cores):
    groups = "5:memory:/other\n4:cpu,cpuacct:/pod\n1:name=systemd:/pod\n0::/\n"
    files = quota("/sys/fs/cgroup/cpu,cpuacct/pod", *numbers)
    assert machine(groups, [v1(), v1("/sys/fs/cgroup/memory", controllers="memory")], files) == cores


def test_the_least_of_a_group_and_those_above_it_counts(machine):
    files = {
        "/sys/fs/cgroup/a/b/c/cpu.max": "max 100000\n",
        "/sys/fs/cgroup/a/b/cpu.max": "800000 100000\n",
        "/sys/fs/cgroup/a/cpu.max": "300000 100000\n",
        "/sys/fs/cgroup/other/cpu.max": "100000 100000\n",
    }
    assert machine("0::/a/b/c\n", [v2()], files) == 3


def test_groups_above_count_in_version_1_too(machine):
    top = "/sys/fs/cgroup/cpu"
    files = quota(f"{top}/a", 200000, 100000) | quota(f"{top}/a/b", 800000, 100000) | quota(top, -1, 100000)
    assert machine("3:cpu:/a/b\n", [v1(top, controllers="cpu")], files) == 2


@pytest.mark.parametrize("group", ["/", "/docker/abc", "/elsewhere"])
def test_a_container_sees_its_own_group_at_the_mount(machine, group):
    """With a namespace of its own, without one, and with the path of a hierarchy of which it sees nothing."""
    files = quota("/sys/fs/cgroup/cpu", 200000, 100000)
    assert machine(f"3:cpu:{group}\n", [v1("/sys/fs/cgroup/cpu", "/docker/abc", "cpu")], files) == 2


def test_a_group_below_the_mounted_part(machine):
    files = {"/sys/fs/cgroup/cpu.max": "900000 100000\n", "/sys/fs/cgroup/inner/cpu.max": "400000 100000\n"}
    assert machine("0::/docker/abc/inner\n", [v2(root="/docker/abc")], files) == 4


def test_a_name_that_only_begins_alike_is_another_group(machine):
    files = {"/sys/fs/cgroup/def/cpu.max": "100000 100000\n", "/sys/fs/cgroup/cpu.max": "700000 100000\n"}
    assert machine("0::/docker/abcdef\n", [v2(root="/docker/abc")], files) == 7


def test_both_versions_at_one_time(machine):
    """The hybrid layout: CPU time is ruled by version 1, and version 2 holds no controllers."""
    files = quota("/sys/fs/cgroup/cpu/pod", 300000, 100000) | {"/sys/fs/cgroup/unified/pod/cgroup.procs": ""}
    mounts = [v1("/sys/fs/cgroup/cpu", controllers="cpu"), v2("/sys/fs/cgroup/unified")]
    assert machine("4:cpu:/pod\n0::/pod\n", mounts, files) == 3


def test_a_mount_with_spaces_in_its_name(machine):
    assert machine("0::/\n", [v2("/sys/fs/c\\040g")], {"/sys/fs/c g/cpu.max": "200000 100000\n"}) == 2


@pytest.mark.parametrize(
    ("groups", "mounts"),
    [
        ("", []),
        ("0::/pod\n", []),
        ("", [v2()]),
        ("nonsense\n", [v2()]),
        ("0::/pod\n", ["nonsense", "1 2 3 - cgroup2", "- - - - - - - -"]),
        ("0::pod\n", [v2()]),
        ("0::/../..\n", [v2("/sys/fs/cgroup/x")]),
    ],
)
def test_missing_and_broken_tables_set_no_limit(machine, groups, mounts):
    assert machine(groups, mounts, {"/sys/fs/cgroup/pod/cpu.max": "100000 100000\n"}) is None


def test_no_files_at_all(tmp_path):
    assert _ext.cgroup_cores(str(tmp_path)) is None


def set_quota(folder: Path) -> bool:
    """Grants the group one core; false if it is none that rules CPU time."""
    if (folder / "cpu.max").exists():
        (folder / "cpu.max").write_text("100000 100000")
        return True
    if (folder / "cpu.cfs_quota_us").exists():
        (folder / "cpu.cfs_period_us").write_text("100000")
        (folder / "cpu.cfs_quota_us").write_text("100000")
        return True
    return False


@pytest.fixture
def real_group():
    """A control group with a quota of one core."""
    for place in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/cpu")):
        folder = place / f"ltx2rt-test-{os.getpid()}"
        try:
            folder.mkdir()
        except OSError:
            continue
        try:
            if set_quota(folder):
                yield folder
                return
        finally:
            folder.rmdir()
    pytest.skip("needs a writable control group hierarchy with the cpu controller (root on Linux)")


def test_a_real_control_group(real_group):
    code = (
        "import sys\n"
        "open(sys.argv[1], 'w').write('0')\n"
        "from ltx2rt import _ext\n"
        "print(_ext.cgroup_cores(), _ext.num_threads())\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(real_group / "cgroup.procs")],
        env={**os.environ, "LTX2RT_NUM_THREADS": ""},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.stdout.split() == ["1", "1"], result.stderr
