"""Makes the kernel hand over what it still holds of a mount: `python -m s3mount.drain MOUNTPOINT`, paths on standard
input.

Runs in a process of its own, which the daemon starts afresh at SIGTERM and for `s3mount sync`, because a daemon that
touched its own mount would wait for itself. syncfs(2) starts the writing back of dirty pages without waiting for it;
each path (relative to the mountpoint, separated by NUL) is then opened and fsync'd, which does wait; the daemon knows
us, and stores nothing on that fsync. Exit status SOME_FAILED when one of them failed.
"""

import ctypes
import os
import sys

SOME_FAILED = 3
"""No status with which Python ends by itself."""


def drain(mountpoint: bytes, paths: list[bytes]) -> int:
    """The number of paths that could not be synced; each is named on standard error."""
    root = os.open(mountpoint, os.O_RDONLY | os.O_DIRECTORY)
    ctypes.CDLL(None).syncfs(root)
    failed = 0
    for path in paths:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=root)
        except FileNotFoundError:
            continue  # removed meanwhile
        except OSError as error:
            failed += 1
            print(f"{os.fsdecode(path)}: {error.strerror}", file=sys.stderr)
            continue
        try:
            os.fsync(fd)
        except OSError as error:
            failed += 1
            print(f"{os.fsdecode(path)}: {error.strerror}", file=sys.stderr)
        finally:
            os.close(fd)
    os.close(root)
    return failed


def main() -> int:
    paths = [path for path in sys.stdin.buffer.read().split(b"\0") if path]
    return SOME_FAILED if drain(os.fsencode(sys.argv[1]), paths) else 0


if __name__ == "__main__":
    sys.exit(main())
