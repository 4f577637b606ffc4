"""When Python looks for cyclic garbage: at what is new when much is, and at everything once an hour.

A look at everything stops the loop for as long as everything is large (0.6 s of CPU with 1,000,000 names, measured),
and a listing of so many makes Python look a dozen times. Hardly anything here is cyclic, and inodes and listings never
are: they go with their last reference. So what a look has found in use is frozen: the next one passes it over, and the
loop stops for what has come since (0.15 s for half a million objects). What was frozen while it was in use and is
cyclic waits for the look that thaws.

When the kernel forgets what a walk has listed, the memory is still Python's: an arena of 1 MiB goes back to the machine
when nothing in it is used, and whatever was kept now and then during the walk lies in arenas of its own. That were each
second's Date in a cache of ours, and in Python's cache of methods the names of those that pycurl calls: it makes the
name anew for each call, and the cache goes by where a name lies. 200,000 names that were forgotten left 179 MiB of 185
(measured). So caches that only save time are emptied then, and what the C library keeps for itself goes back too.
"""

import ctypes
import gc
import sys
from collections.abc import Callable

import trio

YOUNG_OBJECTS = 5_000
YOUNG_LOOKS = 10
NEVER = 1 << 30
"""So many looks at young objects before Python would look at all of its own accord."""
INTERVAL_SECONDS = 5.0
LOOKS_WORTH_A_FULL_ONE = 10
"""Fewer looks at young objects than that: hardly anything was made since."""
THAW_SECONDS = 3600.0
SHRUNK_BLOCKS = 100_000
"""So many of Python's blocks less than there were since the last time: about 10 MiB."""


def _nothing() -> None:
    pass


async def collect(forget: Callable[[], None] = _nothing) -> None:
    """Run until cancelled. `forget` empties caches that only save time."""
    before = gc.get_threshold()
    gc.set_threshold(YOUNG_OBJECTS, YOUNG_LOOKS, NEVER)
    thawed = trio.current_time()
    most_blocks = 0
    try:
        while True:
            await trio.sleep(INTERVAL_SECONDS)
            blocks = sys.getallocatedblocks()
            most_blocks = max(most_blocks, blocks)
            if most_blocks - blocks >= SHRUNK_BLOCKS:
                give_back(forget)
                most_blocks = sys.getallocatedblocks()
            if gc.get_count()[2] < LOOKS_WORTH_A_FULL_ONE:
                continue
            if trio.current_time() - thawed >= THAW_SECONDS:
                thawed = trio.current_time()
                gc.unfreeze()
            gc.collect()
            gc.freeze()
    finally:
        gc.set_threshold(*before)


def give_back(forget: Callable[[], None]) -> None:
    """Let the machine have the memory that was used and is not any more."""
    forget()
    # The second is the name before Python 3.13.
    clear = getattr(sys, "_clear_internal_caches", None) or getattr(sys, "_clear_type_cache", None)
    if clear is not None:
        clear()
    gc.collect()  # it empties Python's lists of free tuples, floats and others
    gc.freeze()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)
