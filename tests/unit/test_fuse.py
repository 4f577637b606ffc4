"""The one decorator: what leaves a handler is an errno, whatever happened inside."""

import errno
import logging
from collections.abc import Callable, Coroutine
from typing import Any, cast

import pytest
import trio
from pyfuse3 import FUSEError, RequestContext

from s3mount.calls import Calls
from s3mount.errors import NoEntry, Unavailable
from s3mount.fuse import Operations, answered, mount_options
from s3mount.vfs.filesystem import FileSystem


def raising(error: BaseException, calls: Calls | None = None) -> Callable[[], Coroutine[Any, Any, None]]:
    async def handler(self: Operations) -> None:
        await trio.lowlevel.checkpoint()
        raise error

    operations = Operations(cast(FileSystem, None), calls=calls)
    wrapped = answered(handler)
    return lambda: wrapped(operations)


@pytest.mark.parametrize(
    ("error", "expected"), [(NoEntry("x"), errno.ENOENT), (KeyError("x"), errno.EIO), (MemoryError(), errno.EIO)]
)
def test_every_exception_becomes_an_errno(error: Exception, expected: int) -> None:
    with pytest.raises(FUSEError) as caught:
        trio.run(raising(error))
    assert caught.value.errno == expected


def test_a_bug_leaves_one_traceback(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(FUSEError):
        trio.run(raising(KeyError("x")))
    assert [record.exc_info is not None for record in caplog.records] == [True]


def test_what_the_program_is_told_whole_is_not_logged_and_what_it_is_not_is(caplog: pytest.LogCaptureFixture) -> None:
    for error in (NoEntry("x"), Unavailable("the store answered 503", status=503)):
        with pytest.raises(FUSEError):
            trio.run(raising(error))
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "503" in caplog.text


def test_cancellation_passes_and_is_not_counted() -> None:
    calls = Calls()

    async def cancelled() -> bool:
        with trio.CancelScope() as scope:
            scope.cancel()
            await raising(AssertionError("not reached"), calls)()
        return scope.cancelled_caught

    assert trio.run(cancelled)
    assert calls.figures == {}


def test_requests_are_counted_by_kind_and_errno_with_the_time_they_took() -> None:
    calls = Calls()

    class Slow(Operations):
        @answered
        async def access(self, inode: int, mode: int, ctx: RequestContext) -> bool:
            await trio.sleep(0.02)
            return True

    slow = Slow(cast(FileSystem, None), calls=calls)
    trio.run(slow.access, 1, 0, cast(RequestContext, None))
    for error in (NoEntry("x"), NoEntry("x"), FUSEError(errno.EINVAL), KeyError("x")):
        with pytest.raises(FUSEError):
            trio.run(raising(error, calls))
    told: Any = calls.figures
    assert told["handler"]["count"] == 4
    assert told["handler"]["errors"] == {"ENOENT": 2, "EINVAL": 1, "EIO": 1}
    assert (told["access"]["count"], told["access"]["errors"]) == (1, {})
    assert told["access"]["seconds"] >= 0.02


def test_a_prefix_cannot_smuggle_mount_options() -> None:
    options = mount_options(source="s3://bucket/a,allow_other\\ é", allow_other=False, read_only=True)
    assert "fsname=s3://bucket/a%2Callow_other%5C%20%C3%A9" in options
    assert "allow_other" not in options
    assert {"ro", "nosuid", "nodev", "default_permissions"} <= options
