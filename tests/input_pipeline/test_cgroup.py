"""The limits of cgroups, read from folders like those of a host, a container and a pod, in both versions."""

import pytest

from input_pipeline.cgroup import core_quota, memory_limit

V1 = """\
25 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
26 25 0:29 {root} /sys/fs/cgroup/cpu,cpuacct rw,relatime master:3 - cgroup cgroup rw,cpu,cpuacct
27 25 0:32 {root} /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
28 25 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
"""
V2 = "25 23 0:28 {root} /sys/fs/cgroup ro,nosuid shared:4 - cgroup2 cgroup rw,nsdelegate\n"
NO_LIMIT = str((1 << 63) - 4096)  # what v1 holds then


@pytest.fixture
def machine(tmp_path):
    """Return a function that makes a root folder with these mounts, group and limits."""

    def make(mounts: str, group: str, **files: str):
        for name, text in {"proc/self/mountinfo": mounts, "proc/self/cgroup": group, **files}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return make


def v1(cpu: dict[str, tuple[int, int]], memory: dict[str, str]) -> dict[str, str]:
    files = {}
    for group, (quota, period) in cpu.items():
        files[f"sys/fs/cgroup/cpu,cpuacct{group}/cpu.cfs_quota_us"] = f"{quota}\n"
        files[f"sys/fs/cgroup/cpu,cpuacct{group}/cpu.cfs_period_us"] = f"{period}\n"
    return files | {
        f"sys/fs/cgroup/memory{group}/memory.limit_in_bytes": f"{value}\n" for group, value in memory.items()
    }


def v2(cpu: dict[str, str], memory: dict[str, str]) -> dict[str, str]:
    files = {f"sys/fs/cgroup{group}/cpu.max": f"{value}\n" for group, value in cpu.items()}
    return files | {f"sys/fs/cgroup{group}/memory.max": f"{value}\n" for group, value in memory.items()}


def test_a_container_that_sees_only_its_own_group_has_its_limits(machine):
    group = "4:memory:/parent/box\n1:cpu,cpuacct:/parent/box\n0::/\n"
    root = machine(V1.format(root="/parent/box"), group, **v1({"": (150_000, 100_000)}, {"": "300000000"}))
    assert (core_quota(root), memory_limit(root)) == (1.5, 300_000_000)
    root = machine(V2.format(root="/"), "0::/\n", **v2({"": "50000 100000"}, {"": "400000000"}))
    core_quota.cache_clear()
    assert (core_quota(root), memory_limit(root)) == (0.5, 400_000_000)


def test_the_least_limit_of_the_groups_around_a_process_counts(machine):
    group = "0::/pods/pod1/main\n"
    cpu = {"/pods": "800000 100000", "/pods/pod1": "300000 100000", "/pods/pod1/main": "max 100000"}
    memory = {"/pods": "9000", "/pods/pod1": "max", "/pods/pod1/main": "9500", "/pods/pod2": "1"}
    root = machine(V2.format(root="/"), group, **v2(cpu, memory))
    assert (core_quota(root), memory_limit(root)) == (3.0, 9000)


def test_a_job_of_a_batch_system_with_groups_of_version_1(machine):
    group = "4:memory:/slurm/job_7\n1:cpu,cpuacct:/slurm/job_7\n0::/\n"
    cpu = {"": (-1, 100_000), "/slurm": (-1, 100_000), "/slurm/job_7": (400_000, 100_000)}
    root = machine(V1.format(root="/"), group, **v1(cpu, {"": NO_LIMIT, "/slurm": NO_LIMIT, "/slurm/job_7": "7000"}))
    assert (core_quota(root), memory_limit(root)) == (4.0, 7000)


@pytest.mark.parametrize(
    ("mounts", "group", "files"),
    [
        ("", "", {}),  # another system than Linux
        (V2.format(root="/"), "0::/user.slice\n", v2({"/user.slice": "max 100000"}, {"/user.slice": "max"})),
        (V1.format(root="/"), "4:memory:/\n1:cpu,cpuacct:/\n0::/\n", v1({"": (-1, 100_000)}, {"": NO_LIMIT})),
        ("26 25 0:29 / /a rw - fuse  rw\n", "0::/\n", {}),  # a mount whose source is empty
    ],
)
def test_without_a_limit_there_is_none(mounts, group, files, machine):
    root = machine(mounts, group, **files)
    assert (core_quota(root), memory_limit(root)) == (None, None)


def test_a_group_outside_of_the_mount_has_the_limits_that_the_mount_shows(machine):
    root = machine(V2.format(root="/.."), "0::/../elsewhere\n", **v2({"": "200000 100000"}, {"": "5000"}))
    assert (core_quota(root), memory_limit(root)) == (2.0, 5000)
