"""When Python looks for cyclic garbage: its longest looks are made by the clock, not by the growth of what is known.

A look at everything stops the loop for as long as everything is large, and a listing of a million names makes Python
look a dozen times (0.1 s for 100,000 names, measured). Hardly anything here is cyclic, and inodes and listings never
are: they go with their last reference.
"""

import gc
import time

import trio

YOUNG_OBJECTS = 5_000
YOUNG_LOOKS = 10
NEVER = 1 << 30
"""So many looks at young objects before Python would look at all of its own accord."""
INTERVAL_SECONDS = 60.0
SHARE = 200
"""At least so many times as long as the last look took lie between two."""
LOOKS_WORTH_A_FULL_ONE = 10
"""Fewer looks at young objects than that: hardly anything was made since."""


async def collect() -> None:
    """Run until cancelled."""
    before = gc.get_threshold()
    gc.set_threshold(YOUNG_OBJECTS, YOUNG_LOOKS, NEVER)
    took = 0.0
    try:
        while True:
            await trio.sleep(max(INTERVAL_SECONDS, took * SHARE))
            if gc.get_count()[2] >= LOOKS_WORTH_A_FULL_ONE:
                began = time.perf_counter()
                gc.collect()
                took = time.perf_counter() - began
    finally:
        gc.set_threshold(*before)
