"""Measures the memory that this process may use, which a container or a job may limit.

On Linux, control groups set such limits. A process is in a group and in all groups around it, and
each may have a limit. The kernel ends a process whose group exceeds one, even if the host has
memory left.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil

# The files, and the entries of `memory.stat`, of the two versions of control groups: the limit, the
# usage, and the parts of the usage that are copies of files, which the kernel drops when needed.
VERSION_1 = (
    *("memory.limit_in_bytes", "memory.usage_in_bytes"),
    ("total_active_file", "total_inactive_file"),
)
VERSION_2 = ("memory.max", "memory.current", ("active_file", "inactive_file"))


class Group(NamedTuple):
    """Holds the limit and the usage of a control group, in bytes; files' copies are not counted."""

    limit: int
    used: int


def free_memory() -> int:
    """Returns how many bytes this process can use without taking memory from other processes."""
    rest = [max(0, group.limit - group.used) for group in groups()]
    return min([psutil.virtual_memory().available, *rest])


def total_memory() -> int:
    """Returns the number of bytes of memory that the host, or a limit of this process, allows."""
    return min([psutil.virtual_memory().total, *(group.limit for group in groups())])


def groups(root: Path = Path("/")) -> Iterator[Group]:
    """Yields the control groups with limits that this process is in; none where there are none.

    Args:
        root: Folder that has `proc` and `sys`.
    """
    lines: list[str] = []
    with suppress(OSError):
        lines = (root / "proc/self/cgroup").read_text(errors="replace").splitlines()
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        top = root / "sys/fs/cgroup" / controllers
        group = top / path.lstrip("/")
        # In a container, the path may be the host's; then only the topmost folder exists, and it is
        # that of the container's own group.
        for folder in (group, *group.parents):
            with suppress(OSError, ValueError):
                yield _group(folder, VERSION_1 if controllers else VERSION_2)
            if folder == top:
                break


def _group(folder: Path, version: tuple[str, str, tuple[str, str]]) -> Group:
    """Reads a group's files.

    Raises:
        OSError: The group does not exist, or its memory is not controlled.
        ValueError: The group has no limit.
    """
    limit_file, usage_file, copies = version
    limit, used = (int((folder / name).read_text()) for name in (limit_file, usage_file))
    entries = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    return Group(limit, used - sum(int(entries.get(name, 0)) for name in copies))
