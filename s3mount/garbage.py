"""When Python looks for cyclic garbage: at what is new when much is, and at everything once an hour.

A look at everything stops the loop for as long as everything is large (0.6 s of CPU with 1,000,000 names, measured),
and a listing of so many makes Python look a dozen times. Hardly anything here is cyclic, and inodes and listings never
are: they go with their last reference. So what a look has found in use is frozen: the next one passes it over, and the
loop stops for what has come since (0.15 s for half a million objects). What was frozen while it was in use and is
cyclic waits for the look that thaws.
"""

import gc

import trio

YOUNG_OBJECTS = 5_000
YOUNG_LOOKS = 10
NEVER = 1 << 30
"""So many looks at young objects before Python would look at all of its own accord."""
INTERVAL_SECONDS = 5.0
LOOKS_WORTH_A_FULL_ONE = 10
"""Fewer looks at young objects than that: hardly anything was made since."""
THAW_SECONDS = 3600.0


async def collect() -> None:
    """Run until cancelled."""
    before = gc.get_threshold()
    gc.set_threshold(YOUNG_OBJECTS, YOUNG_LOOKS, NEVER)
    thawed = trio.current_time()
    try:
        while True:
            await trio.sleep(INTERVAL_SECONDS)
            if gc.get_count()[2] < LOOKS_WORTH_A_FULL_ONE:
                continue
            if trio.current_time() - thawed >= THAW_SECONDS:
                thawed = trio.current_time()
                gc.unfreeze()
            gc.collect()
            gc.freeze()
    finally:
        gc.set_threshold(*before)
