"""A small world: every size that s3mount knows is 256 times smaller inside the block, so that parts, chunks, windows
and limits are reached by files of some kilobytes, and bursts of deletions by two.

All sizes shrink together, for they are chosen in relation to each other. What belongs to the machine (pages) or to
HTTP (heads, error documents) stays. Random words come from the simulation's own source meanwhile: the same seed makes
the same requests.
"""

import random
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any
from unittest.mock import patch

from s3mount.config import GIB, KIB, MIB, Config
from s3mount.data import learning
from s3mount.data.grid import Grid, PartRules
from s3mount.vfs import deleting

SCALE = 256
SHRUNK = (
    "KIB", "MIB", "GIB", "TIB", "MEMORY_LEAST_BYTES", "S3_PART_MIN_BYTES",
    "S3_PART_MAX_BYTES", "S3_OBJECT_MAX_BYTES", "S3_COPY_MAX_BYTES",
    "SLACK_BYTES", "NEAR_BYTES", "FIRST_WINDOW_BYTES", "GAP_BYTES", "PUT_MAX_BYTES", "WRITE_MAX_BYTES",
    "GET_LEAST_BYTES", "GET_MOST_BYTES", "GET_MANY_BYTES", "OWN_TAIL_BYTES", "REWRITE_BYTES", "STEP_BYTES",
    "STAGED_MAX_BYTES", "CHUNK_BYTES", "RETRY_STREAM_BYTES", "BULK_BYTES", "RECYCLED_MIN_BYTES", "SMALL_BYTES",
    "CRC_PIECE_BYTES", "COPY_PART_MAX_BYTES", "KEPT_BYTES_MAX",
)  # fmt: skip
LAYERS = ("s3mount.config", "s3mount.data.", "s3mount.store.", "s3mount.vfs.", "tests.unit.files")
FEW = {"PROOFS": 1, "BATCH_MAX": 3, "PENDING_MAX": 6}
"""Of deletions, where a thousand would be many."""
PARTS_MAX = 100
FILE_MAX_BYTES = 2 * MIB


@lru_cache
def _sizes() -> tuple[tuple[object, str, int], ...]:
    """Every module's names of sizes, with what they are."""
    return tuple(
        (module, word, value)
        for name, module in sys.modules.items()
        if name.startswith(LAYERS)
        for word in SHRUNK
        if isinstance(value := getattr(module, word, None), int)
    )


@lru_cache
def _grid(part_bytes: int, size_max: int, rules: PartRules) -> Grid:
    """Grids never change, and each life of a mount would count the same one."""
    return Grid(part_bytes, size_max, rules)


@contextmanager
def small_world(seed: int) -> Iterator[None]:
    """See the module."""
    draw = random.Random(seed)
    defaults = PartRules.__init__.__defaults__
    assert defaults is not None
    for module, word, value in _sizes():
        setattr(module, word, value // SCALE)
    usual = {word: getattr(deleting, word) for word in FEW}
    for word, few in FEW.items():
        setattr(deleting, word, few)
    PartRules.__init__.__defaults__ = tuple(
        value // SCALE if type(value) is int and value >= MIB else value for value in defaults
    )
    try:
        with (
            patch.object(secrets, "token_hex", lambda size=8: draw.randbytes(size).hex()),
            patch.object(learning, "Grid", _grid),
        ):
            yield
    finally:
        PartRules.__init__.__defaults__ = defaults
        for word, many in usual.items():
            setattr(deleting, word, many)
        for module, word, value in _sizes():
            setattr(module, word, value)


def small_config(*, memory_bytes: int, **options: Any) -> Config:
    """A Config for the small world; to be made inside it."""
    return Config(
        bucket="bucket",
        part_size_bytes=5 * MIB // SCALE,
        memory_limit_bytes=memory_bytes,
        segment_bytes=64 * MIB // SCALE,
        block_bytes=128 * KIB // SCALE,
        readahead_max_bytes=128 * MIB // SCALE,
        get_max_bytes=8 * MIB // SCALE,
        copy_max_bytes=5 * GIB // SCALE,
        neighbour_max_bytes=512 * KIB // SCALE,
        conflict_zeros_max_bytes=64 * MIB // SCALE,
        file_size_max_bytes=FILE_MAX_BYTES,
        parts_max=PARTS_MAX,
        **options,
    )
