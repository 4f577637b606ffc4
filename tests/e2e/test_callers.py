"""Scenario B18: every operation as somebody who is not root, on a mount that lets others in.

What a caller is answered is what POSIX says of modes and owners, before and after a remount. Needs root, to become
somebody else and to mount for all.
"""

import errno
import os
import stat
from pathlib import Path

import pytest

from tests.e2e.callers import Caller, ask_as
from tests.e2e.mounting import Mounted, Mounts
from tests.e2e.sides import Answer

ALICE = Caller(1001, 1001)
BOB = Caller(1002, 1002)
MEMBER = Caller(1003, 1003, (2001,))
PRIVATE = Caller(1001, 1001, (), 0o077)


@pytest.fixture
def shared(mounts: Mounts) -> Mounted:
    """A mount for all, whose root everybody may write to."""
    mounted = mounts.start("--allow-other")
    mounted.root.chmod(0o777)
    return mounted


def ask(mounted: Mounted, caller: Caller, operation: str, *arguments: object) -> object:
    """The answer of the call, or the name of its errno."""
    told: Answer = ask_as(caller, mounted.root, operation, arguments)
    return errno.errorcode[told.error] if told.error else told.value


def owned(path: Path) -> tuple[str, int, int]:
    found = path.lstat()
    return stat.filemode(found.st_mode), found.st_uid, found.st_gid


def test_what_a_caller_makes_is_the_callers(shared: Mounted) -> None:
    """B18: files, directories, links and FIFOs belong to who made them, with the mode that the umask leaves."""
    root = shared.root
    for caller, name in ((ALICE, "alice"), (PRIVATE, "private")):
        assert ask(shared, caller, "mkdir_with", name, 0o777) is None
        assert ask(shared, caller, "write_file", f"{name}/f", b"content", 0o666) is None
        assert ask(shared, caller, "symlink", "f", f"{name}/link") is None
        assert ask(shared, caller, "mkfifo", f"{name}/fifo", 0o666) is None
    for remounts in range(2):
        if remounts:
            shared.remount()
        assert owned(root / "alice") == ("drwxr-xr-x", 1001, 1001)
        assert owned(root / "alice/f") == ("-rw-r--r--", 1001, 1001)
        assert owned(root / "alice/link") == ("lrwxrwxrwx", 1001, 1001)
        assert owned(root / "alice/fifo") == ("prw-r--r--", 1001, 1001)
        assert owned(root / "private") == ("drwx------", 1001, 1001)
        assert owned(root / "private/f") == ("-rw-------", 1001, 1001)
        assert ask(shared, BOB, "listdir", "private") == "EACCES"
        assert ask(shared, BOB, "read_file", "private/f") == "EACCES"


def test_permission_bits_are_kept_to(shared: Mounted) -> None:
    """B18: permission bits of owner, group and others decide, supplementary groups included; only the owner changes
    modes and times, nobody gives files away."""
    assert ask(shared, ALICE, "mkdir_with", "d", 0o755) is None
    assert ask(shared, ALICE, "write_file", "d/f", b"secret", 0o600) is None
    os.chown(shared.root / "d/f", -1, 2001)
    for remounts in range(2):
        if remounts:
            shared.remount()
        os.chmod(shared.root / "d/f", 0o640)
        assert ask(shared, ALICE, "read_file", "d/f") == b"secret"
        assert ask(shared, MEMBER, "read_file", "d/f") == b"secret"
        assert ask(shared, BOB, "read_file", "d/f") == "EACCES"
        assert ask(shared, MEMBER, "append_line", "d/f", b"x") == "EACCES"
        assert ask(shared, MEMBER, "truncate", "d/f", 0) == "EACCES"
        assert [ask(shared, who, "access", "d/f", os.R_OK) for who in (ALICE, MEMBER, BOB)] == [True, True, False]
        assert [ask(shared, who, "access", "d/f", os.W_OK) for who in (ALICE, MEMBER, BOB)] == [True, False, False]
        for who in (MEMBER, BOB):
            assert ask(shared, who, "chmod", "d/f", 0o666) == "EPERM"
            assert ask(shared, who, "utimens", "d/f", 1, 1) == "EPERM"
            assert ask(shared, who, "touch", "d/f") == "EACCES"
            assert ask(shared, who, "unlink", "d/f") == "EACCES"
            assert ask(shared, who, "rename", "d/f", "d/g") == "EACCES"
            assert ask(shared, who, "write_file", "d/new", b"x", 0o644) == "EACCES"
            assert ask(shared, who, "mkdir_with", "d/new", 0o755) == "EACCES"
            assert ask(shared, who, "rmdir", "d") in ("ENOTEMPTY", "EACCES")
        assert ask(shared, ALICE, "chown", "d/f", 1002, -1) == "EPERM"
        assert ask(shared, ALICE, "chown", "d/f", -1, 1002) == "EPERM"
        assert ask(shared, ALICE, "chmod", "d/f", 0o604) is None
        assert ask(shared, BOB, "read_file", "d/f") == b"secret"
        assert ask(shared, MEMBER, "read_file", "d/f") == "EACCES"
    assert shared.place.get("d/f") == b"secret"


def test_a_directory_closed_to_others_hides_what_is_below(shared: Mounted) -> None:
    """B18: search and read permission of a directory are two things."""
    assert ask(shared, ALICE, "mkdir_with", "d", 0o755) is None
    assert ask(shared, ALICE, "write_file", "d/f", b"seen", 0o644) is None
    for mode, listed, read in (
        (0o711, "EACCES", b"seen"),
        (0o744, [("f", False)], "EACCES"),
        (0o700, "EACCES", "EACCES"),
    ):
        assert ask(shared, ALICE, "chmod", "d", mode) is None
        shared.remount()
        assert ask(shared, BOB, "read_file", "d/f") == read, oct(mode)
        found = ask(shared, BOB, "listdir", "d")
        assert found == listed or (found == "EACCES" and listed != "EACCES"), oct(mode)
        assert ask(shared, ALICE, "read_file", "d/f") == b"seen"


def test_in_a_sticky_directory_everybody_keeps_his_own(shared: Mounted) -> None:
    """B18: in a sticky directory only the owner of a file, or of the directory, removes or renames it."""
    shared.root.joinpath("tmp").mkdir()
    os.chmod(shared.root / "tmp", 0o1777)
    for caller, name in ((ALICE, "alice"), (BOB, "bob")):
        assert ask(shared, caller, "write_file", f"tmp/{name}", b"mine", 0o666) is None
        assert ask(shared, caller, "mkdir_with", f"tmp/{name}-d", 0o777) is None
    shared.remount()
    assert owned(shared.root / "tmp")[0] == "drwxrwxrwt"
    for operation, *arguments in (
        ("unlink", "tmp/alice"),
        ("rename", "tmp/alice", "tmp/stolen"),
        ("rename", "tmp/bob", "tmp/alice"),
        ("rmdir", "tmp/alice-d"),
    ):
        assert ask(shared, BOB, operation, *arguments) == "EPERM", operation
    assert ask(shared, BOB, "rename", "tmp/bob", "tmp/bob2") is None
    assert ask(shared, BOB, "unlink", "tmp/bob2") is None
    assert ask(shared, BOB, "rmdir", "tmp/bob-d") is None
    assert sorted(os.listdir(shared.root / "tmp")) == ["alice", "alice-d"]
    os.chown(shared.root / "tmp", 1002, -1)
    assert ask(shared, BOB, "unlink", "tmp/alice") is None


def test_a_setgid_directory_hands_its_group_down(shared: Mounted) -> None:
    """B18: what is made in a setgid directory has its group, and directories in it are setgid, too."""
    (shared.root / "team").mkdir()
    os.chown(shared.root / "team", 0, 2001)
    os.chmod(shared.root / "team", 0o2777)
    shared.remount()
    assert ask(shared, ALICE, "write_file", "team/f", b"x", 0o664) is None
    assert ask(shared, MEMBER, "mkdir_with", "team/d", 0o775) is None
    assert ask(shared, MEMBER, "write_file", "team/d/f", b"x", 0o664) is None
    assert ask(shared, ALICE, "symlink", "f", "team/link") is None
    for remounts in range(2):
        if remounts:
            shared.remount()
        assert owned(shared.root / "team") == ("drwxrwsrwx", 0, 2001)
        assert owned(shared.root / "team/f") == ("-rw-r--r--", 1001, 2001)
        assert owned(shared.root / "team/d") == ("drwxr-sr-x", 1003, 2001)
        assert owned(shared.root / "team/d/f") == ("-rw-r--r--", 1003, 2001)
        assert owned(shared.root / "team/link") == ("lrwxrwxrwx", 1001, 2001)


def test_changes_of_a_file_take_its_privileges(shared: Mounted) -> None:
    """B18: a write and a chown by who is not privileged take the setuid bit away."""
    assert ask(shared, ALICE, "write_file", "f", b"program", 0o755) is None
    for operation, *arguments in (("append_line", "f", b"more"), ("truncate", "f", 3), ("chown", "f", -1, 1001)):
        assert ask(shared, ALICE, "chmod", "f", 0o4755) is None
        assert owned(shared.root / "f")[0] == "-rwsr-xr-x"
        assert ask(shared, ALICE, operation, *arguments) is None
        assert owned(shared.root / "f")[0] == "-rwxr-xr-x", operation
    shared.remount()
    assert owned(shared.root / "f")[0] == "-rwxr-xr-x"
