"""How much the workloads move: three sizes, and the bytes themselves. Pure."""

import random
from dataclasses import dataclass

KIB, MIB, GIB = 2**10, 2**20, 2**30


@dataclass(frozen=True, slots=True)
class Load:
    """One size of everything. `hung_seconds`: what takes longer has hung."""

    name: str
    turns: int
    big_bytes: int
    stream_bytes: int
    """Of each of the four."""
    again_bytes: int
    cached_bytes: int
    """What fits into the daemon's memory."""
    small_files: int
    listed: int
    folders: int
    """With `listed` files in them together."""
    random_reads: int
    random_reads_many: int
    write_bytes: int
    small_write_bytes: int
    edited_bytes: int
    moved: int
    removed: int
    hung_seconds: float


FULL = Load(
    name="full",
    turns=3,
    big_bytes=GIB,
    stream_bytes=256 * MIB,
    again_bytes=256 * MIB,
    cached_bytes=64 * MIB,
    small_files=1000,
    listed=10_000,
    folders=1000,
    random_reads=200,
    random_reads_many=800,
    write_bytes=512 * MIB,
    small_write_bytes=128 * MIB,
    edited_bytes=128 * MIB,
    moved=200,
    removed=1000,
    hung_seconds=180.0,
)
QUICK = Load(
    name="quick",
    turns=1,
    big_bytes=GIB,
    stream_bytes=256 * MIB,
    again_bytes=256 * MIB,
    cached_bytes=64 * MIB,
    small_files=1000,
    listed=10_000,
    folders=1000,
    random_reads=100,
    random_reads_many=400,
    write_bytes=256 * MIB,
    small_write_bytes=64 * MIB,
    edited_bytes=64 * MIB,
    moved=100,
    removed=500,
    hung_seconds=120.0,
)
TINY = Load(
    name="tiny",
    turns=1,
    big_bytes=16 * MIB,
    stream_bytes=4 * MIB,
    again_bytes=8 * MIB,
    cached_bytes=4 * MIB,
    small_files=32,
    listed=64,
    folders=8,
    random_reads=8,
    random_reads_many=32,
    write_bytes=8 * MIB,
    small_write_bytes=2 * MIB,
    edited_bytes=8 * MIB,
    moved=8,
    removed=16,
    hung_seconds=20.0,
)
LOADS = {load.name: load for load in (FULL, QUICK, TINY)}

SMALL_BYTES = 16 * KIB
STREAMS = 4
BIG, AGAIN, CACHED, SMALL, LISTED, NESTED = "big", "again", "cached", "small", "listed", "nested"
"""Names of what is in the bucket."""


def block() -> bytes:
    """The mebibyte that all files repeat: noise, and the same for whoever checks it."""
    return random.Random(6).randbytes(MIB)


def small_name(number: int) -> str:
    return f"f{number:05}"


def nested_names(load: Load) -> list[str]:
    """Directories and files below NESTED; the empty name is its own marker."""
    folders = [f"d{number:04}/" for number in range(load.folders)]
    each = load.listed // load.folders
    return ["", *folders, *(f"{folder}f{number}" for folder in folders for number in range(each))]


def offsets(count: int, size: int) -> list[int]:
    """Where random reads begin: the same places for every system, on 4 KiB borders."""
    draw = random.Random(4096)
    return [draw.randrange(size // (4 * KIB)) * 4 * KIB for _ in range(count)]
