"""The lock and the wait that pyfuse3 gets in the place of trio's."""

import os

import trio
import trio.testing

from s3mount.turns import Gate, waiting
from tests.running import run_trio


@run_trio
async def test_one_at_a_time_and_nobody_is_left_waiting() -> None:
    gate, inside, entered = Gate(), 0, 0

    async def worker() -> None:
        nonlocal inside, entered
        for _ in range(20):
            async with gate:
                inside += 1
                entered += 1
                assert inside == 1
                await trio.lowlevel.checkpoint()
                inside -= 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(worker)
    assert entered == 200


@run_trio
async def test_a_holder_that_waits_for_something_else_leaves_the_gate_to_another() -> None:
    gate, other = Gate(), trio.Event()

    async def answering() -> None:
        async with gate:
            await trio.lowlevel.checkpoint()
        await other.wait()

    async def next_in_turn() -> None:
        async with gate:
            other.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answering)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(next_in_turn)
    assert other.is_set()


@run_trio
async def test_a_cancelled_waiter_does_not_keep_the_gate_closed() -> None:
    gate = Gate()
    async with trio.open_nursery() as nursery, gate:
        nursery.start_soon(gate.__aenter__)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    with trio.fail_after(1):
        async with gate:
            pass


@run_trio
async def test_what_is_readable_already_is_not_waited_for_and_others_get_their_turn() -> None:
    reading, writing = os.pipe()
    wait_readable = waiting()
    others = 0

    async def other() -> None:
        nonlocal others
        while True:
            others += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        os.write(writing, b"request")
        await wait_readable(reading)
        before = others
        await wait_readable(reading)
        assert others - before <= 1, "it waited though there was something to read"
        while others < before + 10:  # for ever, if a device that is always readable kept the loop
            await wait_readable(reading)
        nursery.cancel_scope.cancel()
    os.close(reading)
    os.close(writing)
