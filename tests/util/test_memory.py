"""Tests that the limits of containers and jobs count, and not only the host's memory."""

import psutil
import pytest

from jaxch5.util.memory import Group, free_memory, groups, total_memory

GB = 10**9


def tree(root, lines, **files):
    """Writes a process's control groups and the files in their folders, given by path."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text("".join(f"{line}\n" for line in lines))
    for path, content in files.items():
        file = root / "sys/fs/cgroup" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)


def version_1(folder, limit, used, copies=0):
    return {
        f"memory/{folder}memory.limit_in_bytes": f"{limit}\n",
        f"memory/{folder}memory.usage_in_bytes": f"{used}\n",
        f"memory/{folder}memory.stat": f"cache 9\nactive_file 3\ntotal_inactive_file {copies}\n",
    }


def version_2(folder, limit, used, copies=0):
    return {
        f"{folder}memory.max": f"{limit}\n",
        f"{folder}memory.current": f"{used}\n",
        f"{folder}memory.stat": f"anon 5\nactive_file {copies // 2}\ninactive_file {copies // 2}\n",
    }


def test_a_job_has_the_limits_of_all_groups_around_it(tmp_path):
    """The step has no limit of its own; copies of files are dropped if memory is needed."""
    files = version_2("slurm/job_1/step_0/", "max", 3 * GB)
    files |= version_2("slurm/job_1/", 8 * GB, 7 * GB, 4 * GB)
    files |= version_2("slurm/", 50 * GB, 9 * GB)
    tree(tmp_path, ["0::/slurm/job_1/step_0"], **files)
    assert list(groups(tmp_path)) == [Group(8 * GB, 3 * GB), Group(50 * GB, 9 * GB)]


@pytest.mark.parametrize("path", ["/", "/docker/0123abcd", "/../../outside"])
@pytest.mark.parametrize("version", [1, 2])
def test_a_containers_own_group_is_the_topmost_folder(tmp_path, path, version):
    """The path may be the host's, of which a container sees nothing."""
    lines = ["5:cpu,cpuacct:/a", f"4:memory:{path}"] if version == 1 else [f"0::{path}"]
    files = (version_1 if version == 1 else version_2)("", 4 * GB, GB, GB // 2)
    tree(tmp_path, lines, **files)
    assert list(groups(tmp_path)) == [Group(4 * GB, GB // 2)]


def test_a_host_without_limits_has_the_memory_that_it_has(tmp_path):
    tree(tmp_path, ["0::/user.slice/session"], **version_2("user.slice/", "max", 3 * GB))
    assert not list(groups(tmp_path))
    # Other systems have no control groups.
    assert not list(groups(tmp_path / "none"))


def test_what_this_process_may_use_is_within_the_hosts_memory():
    assert 0 <= free_memory() <= total_memory() <= psutil.virtual_memory().total
