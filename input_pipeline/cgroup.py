"""Limits of the control groups (cgroups v1 and v2 of Linux) that this process belongs to: of its container, pod or job."""

import functools
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")
UNLIMITED = 1 << 62  # bytes; v1 has no word for it, but a number near the greatest one


@functools.cache
def core_quota(root: Path = ROOT) -> float | None:
    """Return how many cores' time this process may use; None without a limit. root: where /proc and the mounts lie."""
    quotas = []
    for folder in _folders("cpu", root):
        words = _read(folder / "cpu.max").split()  # v2: quota and period in microseconds
        words = words or [_read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")]
        if len(words) == 2 and all(word.isdigit() for word in words):  # without a limit: max, or -1
            quotas.append(int(words[0]) / int(words[1]))
    return min(quotas, default=None)


def memory_limit(root: Path = ROOT) -> int | None:
    """Return how many bytes of memory this process and those beside it may use; None without a limit.

    root: where /proc and the mounts lie.
    """
    limits = []
    for folder in _folders("memory", root):
        word = _read(folder / "memory.max") or _read(folder / "memory.limit_in_bytes")
        if word.isdigit() and int(word) < UNLIMITED:
            limits.append(int(word))
    return min(limits, default=None)


def _folders(controller: str, root: Path) -> Iterator[Path]:
    """Yield the folders that may hold a limit: that of this process's group, and those of the groups around it."""
    groups: dict[str, str] = {}  # path of this process's group, by controller; '' is v2
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        groups |= dict.fromkeys(controllers.split(","), path)
    for line in _read(root / "proc/self/mountinfo").splitlines():
        mount, _, kind = line.partition(" - ")
        system, *_, options = kind.split()
        own = {"cgroup": controller, "cgroup2": ""}.get(system)
        if own not in groups or (own and own not in options.split(",")):
            continue
        shown, point = mount.split()[3:5]  # a container sees its group alone, or all of them
        top = root / point.lstrip("/")
        group = Path(groups[own])
        folder = top / group.relative_to(shown) if group.is_relative_to(shown) else top
        yield from (place for place in (folder, *folder.parents) if place.is_relative_to(top))


def _read(file: Path) -> str:
    """Return the text of a file without the white space around it; '' if it cannot be read."""
    try:
        return file.read_text().strip()
    except OSError:
        return ""
