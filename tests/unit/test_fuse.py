"""The one decorator: what leaves a handler is an errno, whatever happened inside."""

import errno
import logging
from collections.abc import Callable, Coroutine
from typing import Any, cast

import pytest
import trio
from pyfuse3 import FUSEError

from s3mount.errors import NoEntry, Unavailable
from s3mount.fuse import Operations, answered, mount_options


def raising(error: BaseException) -> Callable[[], Coroutine[Any, Any, None]]:
    async def handler(self: Operations) -> None:
        await trio.lowlevel.checkpoint()
        raise error

    nobody = cast(Operations, None)
    wrapped = answered(handler)
    return lambda: wrapped(nobody)


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


def test_cancellation_passes() -> None:
    async def cancelled() -> bool:
        with trio.CancelScope() as scope:
            scope.cancel()
            await raising(AssertionError("not reached"))()
        return scope.cancelled_caught

    assert trio.run(cancelled)


def test_a_prefix_cannot_smuggle_mount_options() -> None:
    options = mount_options(source="s3://bucket/a,allow_other\\ é", allow_other=False, read_only=True)
    assert "fsname=s3://bucket/a%2Callow_other%5C%20%C3%A9" in options
    assert "allow_other" not in options
    assert {"ro", "nosuid", "nodev", "default_permissions"} <= options
