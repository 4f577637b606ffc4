"""Whoever changes the content of a file that is not his takes its setuid and setgid bits, as on a local disk.

The oracle is a local directory. The kernel takes most of them itself by a SETATTR, but asks for none where an open
truncates, nor for a setgid bit whose group may not execute. Needs root, to become somebody else and to mount for all.
"""

import os
import stat
from pathlib import Path

import pytest

from tests.e2e.callers import Caller, ask_as
from tests.e2e.mounting import Mounts
from tests.e2e.sides import Answer

OWNER, GROUP = 1001, 2001
MODES = (0o6777, 0o2767, 0o6767, 0o4755, 0o2755, 0o2777, 0o4767, 0o2766)
CALLERS = {
    "nobody": Caller(65534, 65534),
    "owner": Caller(OWNER, OWNER),
    "owner in the group": Caller(OWNER, OWNER, (GROUP,)),
    "member": Caller(1003, 1003, (GROUP,)),
    "of the group": Caller(1003, GROUP),
    "root": Caller(0, 0),
}
OPERATIONS: dict[str, tuple[object, ...]] = {
    "open_truncating": (),
    "write_file": (b"new", 0o644),
    "append_line": (b"more\n",),
    "truncate": (1,),
    "truncate_open": (1,),
    "chown": (-1, OWNER),
    "read_file": (),
}


def outcome(root: Path, caller: Caller, mode: int, operation: str) -> tuple[Answer, str]:
    """What the caller is answered, and the file's mode after it."""
    path = root / "f"
    path.write_bytes(b"program")
    os.chown(path, OWNER, GROUP)
    os.chmod(path, mode)
    answer = ask_as(caller, root, operation, ("f", *OPERATIONS[operation]))
    return answer, f"{stat.S_IMODE(path.stat().st_mode):o}"


@pytest.mark.parametrize("operation", OPERATIONS)
def test_who_changes_a_file_leaves_it_the_privileges_that_a_local_disk_leaves_it(
    mounts: Mounts, tmp_path: Path, operation: str
) -> None:
    """Modes of programs and plain files, callers in and out of the group, each way to change the content, chgrp."""
    mounted = mounts.start("--allow-other")
    oracle = tmp_path / "oracle"
    oracle.mkdir()
    found, expected = {}, {}
    for name, caller in CALLERS.items():
        for mode in MODES:
            expected[f"{name} {mode:o}"] = outcome(oracle, caller, mode, operation)
            found[f"{name} {mode:o}"] = outcome(mounted.root, caller, mode, operation)
    differing = {case: (found[case], expected[case]) for case in expected if found[case] != expected[case]}
    assert differing == {}
