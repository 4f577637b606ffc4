"""Runs an async test in trio, never for ever."""

import functools
from collections.abc import Awaitable, Callable
from typing import ParamSpec

import trio
import trio.testing

P = ParamSpec("P")
TEST_SECONDS = 60.0


def run_trio(test: Callable[P, Awaitable[None]]) -> Callable[P, None]:
    """A plain test out of an async one; its signature stays, so that pytest hands it its fixtures."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        async def limited() -> None:
            with trio.fail_after(TEST_SECONDS):
                await test(*args, **kwargs)

        trio.run(limited)

    return run


def run_virtual(test: Callable[P, Awaitable[None]]) -> Callable[P, None]:
    """As `run_trio`, on a clock that jumps over every wait: for tests of lifetimes and retries, without threads."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        async def limited() -> None:
            await test(*args, **kwargs)

        trio.run(limited, clock=trio.testing.MockClock(autojump_threshold=0))

    return run
