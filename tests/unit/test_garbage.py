"""Python's looks for cyclic garbage: young objects often, everything by the clock."""

import gc

import trio

from s3mount import garbage
from tests.running import run_virtual


class Cycle:
    def __init__(self, gone: list[int]) -> None:
        self.itself = self
        self.gone = gone

    def __del__(self) -> None:
        self.gone.append(1)


@run_virtual
async def test_all_objects_are_looked_at_by_the_clock_when_many_were_made_and_only_then() -> None:
    full: list[float] = []

    def watch(phase: str, info: dict[str, int]) -> None:
        if phase == "stop" and info["generation"] == 2:
            full.append(trio.current_time())

    before = gc.get_threshold()
    gone: list[int] = []
    gc.collect()
    gc.callbacks.append(watch)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(garbage.collect)
            await trio.sleep(1)
            began = trio.current_time()
            Cycle(gone)
            kept = [[number] for number in range(garbage.YOUNG_OBJECTS * garbage.YOUNG_LOOKS * 15)]
            assert full == []
            await trio.sleep(200)
            assert len(full) == 1
            assert full[0] < began + 60
            assert gone
            assert len(kept) > 0
            nursery.cancel_scope.cancel()
    finally:
        gc.callbacks.remove(watch)
    assert gc.get_threshold() == before
