"""Many requests of one kind, some at a time. No state; knows no store."""

from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

import trio

from s3mount.errors import S3MountError

T = TypeVar("T")


async def each(items: Iterable[T], act: Callable[[T], Awaitable[None]], *, at_once: int) -> None:
    """After the first failure nothing more is begun; what is under way comes to its end, then that failure is
    raised."""
    limit = trio.Semaphore(at_once)
    failures: list[S3MountError] = []

    async def one(item: T) -> None:
        async with limit:
            if failures:
                return
            try:
                await act(item)
            except S3MountError as error:
                failures.append(error)

    async with trio.open_nursery() as nursery:
        for item in items:
            nursery.start_soon(one, item)
    if failures:
        raise failures[0]
