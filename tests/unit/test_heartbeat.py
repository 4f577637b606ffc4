"""The heartbeat of the loop."""

import trio
import trio.testing

from s3mount.heartbeat import BEAT_SECONDS, Heartbeat


def test_a_loop_that_runs_is_heard_of_every_second_and_one_that_is_stuck_is_not() -> None:
    now = 100.0
    heart = Heartbeat(lambda: now)

    async def live() -> None:
        nonlocal now
        async with trio.open_nursery() as nursery:
            nursery.start_soon(heart.run)
            for _ in range(5):
                await trio.sleep(BEAT_SECONDS)
                now += BEAT_SECONDS
                await trio.testing.wait_all_tasks_blocked()
                assert heart.age_seconds <= BEAT_SECONDS
            nursery.cancel_scope.cancel()

    trio.run(live, clock=trio.testing.MockClock(autojump_threshold=0))
    now += 30.0
    assert heart.age_seconds >= 30.0
