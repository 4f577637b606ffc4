"""What all files of one mount share: the store, the memory and the log, each with its share; parts sent ahead.

Knows no single file: files offer what may be dropped, and ask for turns.
"""

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path

import trio

from s3mount.config import Config
from s3mount.data.blocks import BlockCache
from s3mount.data.budget import Budget
from s3mount.data.buffers import Buffers
from s3mount.data.chunks import CHUNK_BYTES
from s3mount.data.conflict import CopiesKept
from s3mount.data.content import Loader
from s3mount.data.disktier import DiskTier
from s3mount.data.foreseen import Foreseen
from s3mount.data.grid import Grid
from s3mount.data.journal import Journal
from s3mount.data.learning import Learning
from s3mount.data.orphans import Orphans
from s3mount.data.plan import PUT_PARTS
from s3mount.data.spill import RunInThread
from s3mount.data.staging import Staging
from s3mount.data.windows import Windows
from s3mount.store.abilities import FindOut, as_s3_says
from s3mount.store.base import ObjectStore

PUT_MAX_BYTES = 16 * 1024 * 1024
"""Larger objects than this are one PUT only if one part holds them."""

WRITE_MAX_BYTES = 1024 * 1024
"""What one WRITE of the kernel brings at most (FUSE_MAX_MAX_PAGES)."""


def _random_token() -> str:
    return secrets.token_hex(4)


class Storage:
    """See the module. `nursery` runs fetches, parts sent ahead, spills and aborts."""

    def __init__(
        self,
        store: ObjectStore,
        config: Config,
        nursery: trio.Nursery,
        *,
        staging_dir: Path,
        staging_limit_bytes: int,
        journal: Journal,
        run_in_thread: RunInThread = trio.to_thread.run_sync,
        find_out: FindOut = as_s3_says,
        wall_ns: Callable[[], int] = time.time_ns,
        draw_token: Callable[[], str] = _random_token,
        disk: DiskTier | None = None,
        copies_kept: CopiesKept | None = None,
    ) -> None:
        # The mutable state: what may be dropped when the log runs short, oldest first, and which of it is in memory, so
        # that dropping it helps when only memory is short; parts being sent ahead and the files that wait for a turn;
        # how many reads of stored bytes had all of them in memory, and how many had not.
        # What the store takes is in `learning`.
        self.store = store
        self.config = config
        self.nursery = nursery
        self.wall_ns = wall_ns
        self.draw_token = draw_token
        # The shares of the memory limit: half for blocks, a quarter for dirty bytes, an eighth for bodies that have to
        # be loaded, an eighth for inodes, listings and everything else. Idle buffers are part of the first two.
        memory = config.memory_bytes
        self.blocks_share_bytes = memory // 2
        self.buffers = Buffers(idle_max_bytes=memory // 16)
        self.budget = Budget(
            staging_limit_bytes,
            stall_seconds=config.staging_patience_seconds,
            reclaim=self.reclaim,
            part_bytes=config.part_size_bytes,
            write_bytes=WRITE_MAX_BYTES,
        )
        self.staging = Staging(
            nursery,
            self.buffers,
            self.budget,
            staging_dir,
            memory_bytes=memory // 4,
            segment_bytes=config.segment_bytes,
            reclaim=self.reclaim_memory,
            run_in_thread=run_in_thread,
        )
        self.windows = Windows(
            # Half of what blocks have: the rest is for those who wait for their bytes, and for what was read.
            budget_bytes=self.blocks_share_bytes // 2,
            window_max_bytes=config.readahead_max_bytes,
            get_max_bytes=config.get_max_bytes,
            block_bytes=config.block_bytes,
        )
        self.blocks = BlockCache(
            store,
            nursery,
            self.buffers,
            self.windows.lanes,
            limit_bytes=self.blocks_share_bytes - memory // 16,
            block_bytes=config.block_bytes,
            get_max_bytes=config.get_max_bytes,
            silence_max_seconds=config.stall_timeout_seconds / 4,
            disk=disk,
        )
        self._disk = disk
        self.foreseen = Foreseen(
            self.blocks,
            nursery,
            lifetime_seconds=min(config.neighbour_ttl_seconds, config.metadata_ttl_seconds),
            # The rest is for readers who wait.
            requests_max=max(1, config.read_requests_max * 3 // 4),
            bytes_max=self.blocks_share_bytes // 8,
        )
        self.loader = Loader(self.staging, self.blocks, self.buffers, limit_bytes=memory // 8)
        self.learning = Learning(config, nursery, self.budget, find_out)
        self.put_max_bytes = max(config.part_size_bytes, min(PUT_PARTS * config.part_size_bytes, PUT_MAX_BYTES))
        self.orphans = Orphans(
            store,
            journal,
            nursery,
            config.prefix,
            copy_max_bytes=config.copy_max_bytes,
            # They stay until the last close and nothing frees them: writers must find most of the log free of them.
            staged_max_bytes=staging_limit_bytes // 8,
        )
        self.copies_kept = copies_kept or CopiesKept()
        self.reads_at_once = self.reads_waited = 0
        self._offers: OrderedDict[Hashable, Callable[[], None]] = OrderedDict()
        self._offers_in_memory: OrderedDict[Hashable, None] = OrderedDict()
        self._parts_ahead = 0
        self._turns: OrderedDict[Callable[[], None], None] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Storage {self.staging!r}, {self.blocks!r}, {self._parts_ahead} parts sent ahead>"

    @property
    def figures(self) -> dict[str, object]:
        """What `s3mount status` shows of staging and memory."""
        return {
            "staging": self.budget.figures,
            "memory": {
                "max_bytes": self.config.memory_bytes,
                "cached_bytes": self.blocks.used_bytes,
                "unsent_bytes": self.staging.chunks_in_memory * CHUNK_BYTES,
            },
            "cache_in_memory": {"hits": self.reads_at_once, "misses": self.reads_waited},
            "cache_on_disk": "off" if self._disk is None else self._disk.figures,
            "parts_sent_ahead": self._parts_ahead,
            "read_ahead": {**self.windows.figures, **self.blocks.figures},
            "files_ahead": self.foreseen.figures,
            "conflict_copies": self.copies_kept.figures,
        }

    @property
    def cached_on_disk_bytes(self) -> int:
        return 0 if self._disk is None else self._disk.used_bytes

    @property
    def grid(self) -> Grid:
        """Where the parts of new uploads lie, by what is known of the store."""
        return self.learning.grid

    def worth_streaming(self, size: int) -> bool:
        """Whether to begin to send a file ahead that has `size` bytes by now: not if one PUT does as well, unless
        staging is short; not if it would run out of parts."""
        return (size > self.put_max_bytes or self.short) and size <= self.grid.stop

    @property
    def short(self) -> bool:
        """Whether it helps to send parts early, be it that a PUT would have done."""
        return self.budget.short or self.staging.crowded

    # what may be dropped

    def offer(self, name: Hashable, drop: Callable[[], None], *, in_memory: bool) -> None:
        """`drop` frees staging and may be called when that runs short; when its memory does, if it is there."""
        self._offers[name] = drop
        if in_memory:
            self._offers_in_memory[name] = None

    def withdraw(self, name: Hashable) -> None:
        self._offers.pop(name, None)
        self.withdraw_memory(name)

    def withdraw_memory(self, name: Hashable) -> None:
        """Nothing is to be dropped under this name when only memory runs short."""
        self._offers_in_memory.pop(name, None)

    def reclaim(self, size: int) -> None:
        """Free `size` bytes of staging from what was offered, if there is so much."""
        goal = self.budget.live_bytes - size
        while self._offers and self.budget.live_bytes > goal:
            name, drop = self._offers.popitem(last=False)
            self._offers_in_memory.pop(name, None)
            drop()

    def reclaim_memory(self) -> bool:
        """Drop the oldest of what was offered in memory; whether there was any."""
        if not self._offers_in_memory:
            return False
        name, _ = self._offers_in_memory.popitem(last=False)
        self._offers.pop(name)()
        return True

    # parts sent ahead

    def take_turn(self, again: Callable[[], None]) -> bool:
        """Whether a part may be sent ahead now; else `again` is called once when it may be."""
        config = self.config
        limit = config.parts_ahead_short_max if self.budget.short else config.parts_ahead_max
        if self._parts_ahead < limit:
            self._parts_ahead += 1
            return True
        self._turns[again] = None
        return False

    def want_turn(self, again: Callable[[], None]) -> None:
        """Call `again` once when a part was sent."""
        self._turns[again] = None

    def end_turn(self) -> None:
        """Give the turn to the first who still wants it; each of those who wait is asked once."""
        self._parts_ahead -= 1
        left = self._parts_ahead
        for _ in range(len(self._turns)):
            if not self._turns or self._parts_ahead > left:
                return
            again, _ = self._turns.popitem(last=False)
            again()

    def leave_turns(self, again: Callable[[], None]) -> None:
        self._turns.pop(again, None)
