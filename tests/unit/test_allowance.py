"""What one process may take: the least of the machine and of the control groups above it; files as many as allowed."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from s3mount import allowance
from s3mount.allowance import Memory
from s3mount.config import GIB, MIB

MACHINE = 8 * GIB


class Machine:
    """A /proc of our own, with hierarchies of control groups below the same directory."""

    def __init__(self, directory: Path) -> None:
        self.proc = directory / "proc"
        (self.proc / "self").mkdir(parents=True)
        (self.proc / "meminfo").write_text(f"MemTotal:       {MACHINE // 1024} kB\nMemFree:        12 kB\n")
        self._mounts = ""
        self._directory = directory

    def hierarchy(self, fstype: str, *, root: str = "/") -> Path:
        """A mounted hierarchy that shows `root` and what is below."""
        top = self._directory / fstype
        top.mkdir()
        self._mounts += f"30 20 0:27 {root} {top} rw,nosuid - {fstype} {fstype} rw\n"
        (self.proc / "self/mountinfo").write_text(self._mounts)
        return top

    def belongs(self, *lines: str) -> None:
        (self.proc / "self/cgroup").write_text("".join(f"{line}\n" for line in lines))

    def memory(self) -> Memory:
        return allowance.memory(self.proc)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def group(path: Path, **files: object) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (path / f"memory.{name}").write_text(f"{value}\n")
    return path


def test_a_machine_without_control_groups_has_what_it_has(machine: Machine) -> None:
    assert machine.memory() == Memory(MACHINE, "the machine")


def test_the_smallest_group_above_us_decides(machine: Machine) -> None:
    top = machine.hierarchy("cgroup2")
    group(top / "a", max=3 * GIB)
    group(top / "a/b", max=2 * GIB)
    group(top / "a/b/c", max="max")
    group(top / "other", max=1)
    machine.belongs("0::/a/b/c")
    assert machine.memory() == Memory(2 * GIB, f"control group {top}/a/b/memory.max")


def test_a_group_that_is_slowed_down_counts_from_there(machine: Machine) -> None:
    top = machine.hierarchy("cgroup2")
    group(top / "a", max=3 * GIB, high=GIB)
    machine.belongs("0::/a")
    assert machine.memory() == Memory(GIB, f"control group {top}/a/memory.high")


def test_a_group_that_allows_more_than_there_is_changes_nothing(machine: Machine) -> None:
    group(machine.hierarchy("cgroup2"), max=2 * MACHINE)
    machine.belongs("0::/")
    assert machine.memory() == Memory(MACHINE, "the machine")


def test_the_older_hierarchy_counts_too_beside_one_that_has_no_memory(machine: Machine) -> None:
    older, newer = machine.hierarchy("cgroup"), machine.hierarchy("cgroup2")
    group(older, limit_in_bytes=0x7FFFFFFFFFFFF000)
    group(older / "docker/x", limit_in_bytes=GIB)
    group(newer / "docker/x")
    machine.belongs("12:cpu,cpuacct:/elsewhere", "4:hugetlb,memory:/docker/x", "0::/docker/x")
    assert machine.memory() == Memory(GIB, f"control group {older}/docker/x/memory.limit_in_bytes")


@pytest.mark.parametrize(
    ("root", "path"),
    [
        ("/docker/x", "/docker/x"),  # the host's path, and the mount shows what is below it
        ("/", "/docker/x"),  # the host's path, and the mount is the container's own
        ("/", "/"),  # a namespace of its own
        ("/", "/../../y"),  # moved out of its namespace's root
    ],
)
def test_in_a_container_the_mount_itself_is_our_group(machine: Machine, root: str, path: str) -> None:
    top = group(machine.hierarchy("cgroup2", root=root), max=GIB)
    machine.belongs(f"0::{path}")
    assert machine.memory() == Memory(GIB, f"control group {top}/memory.max")


def test_a_group_below_a_container_s_own_is_found(machine: Machine) -> None:
    top = group(machine.hierarchy("cgroup2", root="/docker/x"), max=2 * GIB)
    group(top / "unit", max=GIB)
    machine.belongs("0::/docker/x/unit")
    assert machine.memory() == Memory(GIB, f"control group {top}/unit/memory.max")


@pytest.mark.parametrize(
    ("allowed", "limit"),
    [
        (64 * GIB, 512 * MIB),
        (GIB, 512 * MIB),
        (GIB - 1, 511 * MIB),
        (300 * MIB, 150 * MIB),
        (128 * MIB, 64 * MIB),
        (100 * MIB, 64 * MIB),
        (0, 64 * MIB),
    ],
)
def test_the_default_is_half_of_what_is_allowed_between_64_and_512_mib(allowed: int, limit: int) -> None:
    assert Memory(allowed, "x").limit_bytes == limit


def test_a_limit_that_leaves_too_little_for_the_process_itself_is_told_with_the_remedy() -> None:
    assert Memory(GIB, "x").problem(512 * MIB) is None
    assert Memory(640 * MIB, "x").problem(512 * MIB) is None
    words = Memory(639 * MIB, "control group /y").problem(512 * MIB)
    assert words is not None
    assert "--memory-limit 512MiB" in words
    assert "639MiB allowed by control group /y" in words
    assert words.endswith("lower the one or raise the other")
    least = Memory(100 * MIB, "x").problem(64 * MIB)
    assert least is not None
    assert least.endswith("; raise that")


LIMITS = """
import resource, sys
from s3mount import allowance
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[2])))
print(allowance.raise_open_files(), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(("soft", "hard", "then"), [(64, 200, 200), (200, 200, 200)])
def test_the_soft_limit_of_open_files_becomes_the_hard_one(soft: int, hard: int, then: int) -> None:
    done = subprocess.run([sys.executable, "-c", LIMITS, str(soft), str(hard)], capture_output=True, text=True)
    assert (done.stdout.split(), done.stderr) == ([str(then), str(then), str(hard)], "")


def test_of_a_hard_limit_beyond_use_only_a_part_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: taken.append(limits))
    assert allowance.raise_open_files() == allowance.OPEN_FILES_MAX
    assert taken == [(allowance.OPEN_FILES_MAX, resource.RLIM_INFINITY)]
