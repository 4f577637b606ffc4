"""Waiting for requests that have no answer yet."""

import trio
import trio.testing

from s3mount.underway import UnderWay
from tests.running import run_virtual


@run_virtual
async def test_two_who_wait_at_once_go_on_when_the_requests_of_that_moment_are_over() -> None:
    under_way = UnderWay()
    requests = [under_way.begin("read"), under_way.begin("flush")]
    latest, over = under_way.latest, list[str]()

    async def wait(name: str) -> None:
        await under_way.over(latest)
        over.append(name)

    async with trio.open_nursery() as nursery:
        for name in ("one", "other"):
            nursery.start_soon(wait, name)
            await trio.testing.wait_all_tasks_blocked()
        under_way.begin("later")
        under_way.end(requests[0])
        await trio.testing.wait_all_tasks_blocked()
        assert over == []
        under_way.end(requests[1])
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert sorted(over) == ["one", "other"]
