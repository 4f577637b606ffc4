"""What is done on every system: the workloads, each with what it needs, what it measures and its limit with boto3.

A workload that changes the bucket ends when the bucket shows what was asked for: a system that stores, deletes or
copies behind its reply gains nothing by that.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from bench.compare import bucket as store
from bench.compare import load as names
from bench.compare.load import KIB, MIB, STREAMS
from bench.compare.stage import Failed, Hung, Span, Stage

MANY = 16
CHANGE_BYTES = 4 * KIB
Unit = Literal["MB/s", "/s", "s", "ms"]


@dataclass(frozen=True, slots=True)
class Workload:
    """One line of the table. `settles`: what it consumes must be older than what a lister would doubt."""

    name: str
    title: str
    unit: Unit
    run: Callable[[Stage], Span]
    needs: tuple[str, ...] = ()
    limit: Callable[[Stage], Span] | None = None
    before: Callable[[Stage], Span] | None = None
    """Done on the same mount first, and not measured."""
    prepare: Callable[[store.Bucket], str] | None = None
    """Makes what one turn consumes, before its mount; the name, which `Stage.name` is then."""
    settles: bool = False

    @property
    def more_is_better(self) -> bool:
        return self.unit in ("MB/s", "/s")


def _whole(worker: str) -> Callable[[Stage], Span]:
    def run(stage: Stage) -> Span:
        size = stage.load.big_bytes
        return stage.work(worker, size, name=names.BIG, size=size)

    return run


def _streams(worker: str) -> Callable[[Stage], Span]:
    def run(stage: Stage) -> Span:
        size = stage.load.stream_bytes
        return stage.work(worker, size * STREAMS, size=size)

    return run


def _random(worker: str, threads: int) -> Callable[[Stage], Span]:
    def run(stage: Stage) -> Span:
        load = stage.load
        count = load.random_reads if threads == 1 else load.random_reads_many
        return stage.work(worker, count, size=load.big_bytes, count=count, threads=threads)

    return run


def _first(worker: str) -> Callable[[Stage], Span]:
    return lambda stage: stage.work(worker, 1)


def _small(worker: str, threads: int) -> Callable[[Stage], Span]:
    def run(stage: Stage) -> Span:
        count = stage.load.small_files
        return stage.work(worker, count, count=count, threads=threads)

    return run


def _stat(stage: Stage) -> Span:
    count = stage.load.small_files
    return stage.work("stat_small", count, count=count)


def _again(stage: Stage) -> Span:
    size = stage.load.again_bytes
    return stage.work("read_one", size, name=names.AGAIN, size=size)


def _list(stage: Stage) -> Span:
    return stage.program("ls", "-l", stage.path(names.LISTED), lines=stage.load.listed + 1)


def _walk(stage: Stage) -> Span:
    return stage.program("du", "-s", stage.path(names.NESTED), lines=1)


def _written(kind: str, unit: int) -> Callable[[Stage], Span]:
    def run(stage: Stage) -> Span:
        size = stage.load.write_bytes if kind == "write" else stage.load.small_write_bytes
        name = stage.bucket.new_name(kind)
        span = stage.work("write_one", size, name=name, size=size, unit=unit)
        span = stage.stored(span, lambda: stage.bucket.size(name) == size)
        stage.bucket.forget(name)
        return span

    return run


def _stored(stage: Stage) -> Span:
    size, name = stage.load.write_bytes, stage.bucket.new_name("stored")
    span = stage.work("store_one", size, name=name, size=size)
    stage.bucket.forget(name)
    return span


def _create(worker: str, threads: int) -> Callable[[Stage], Span]:
    def run(stage: Stage) -> Span:
        count, name = stage.load.small_files, stage.bucket.new_name("created")
        span = stage.work(worker, count, name=name, count=count, threads=threads)
        span = stage.stored(span, lambda: stage.bucket.below(f"{name}/f") == count)
        stage.bucket.forget(f"{name}/")
        return span

    return run


def _change(*, at_end: bool) -> Callable[[Stage], Span]:
    def run(stage: Stage) -> Span:
        before = stage.load.edited_bytes
        start = before if at_end else before // 2
        expected = b"\xa5" * CHANGE_BYTES

        def changed() -> bool:
            size = before + CHANGE_BYTES * at_end
            bucket, key = stage.bucket, stage.name
            return bucket.size(key) == size and bucket.piece(key, start, start + CHANGE_BYTES) == expected

        span = stage.stored(stage.work("change", 1, name=stage.name, offset=start, size=CHANGE_BYTES), changed)
        stage.bucket.forget(stage.name)
        return span

    return run


def try_edit(stage: Stage) -> Span:
    """What a system learns of a store with its first edit (which parts it takes) is none of the turns' cost; who
    cannot edit says so in its turn."""
    try:
        return _change(at_end=False)(stage)
    except Hung:
        raise
    except Failed:
        return Span(0.0, 0.0, 0)


def _rename(stage: Stage) -> Span:
    count, name = stage.load.moved, stage.name
    span = stage.program("mv", stage.path(name), stage.path(f"{name}-moved"), lines=0)
    span = stage.stored(span, lambda: not stage.bucket.below(f"{name}/f"))
    if (found := stage.bucket.below(f"{name}-moved/f")) != count:
        raise Failed(f"{found} of {count} files arrived")
    stage.bucket.forget(f"{name}-moved/")
    return span


def _remove(stage: Stage) -> Span:
    span = stage.program("rm", "-r", stage.path(stage.name), lines=0)
    return stage.stored(span, lambda: not stage.bucket.below(f"{stage.name}/f"))


def _directory(kind: str) -> Callable[[store.Bucket], str]:
    def make(bucket: store.Bucket) -> str:
        name = bucket.new_name(kind)
        count = bucket.load.moved if kind == "moved" else bucket.load.removed
        bucket.fill(name, ["", *map(names.small_name, range(count))])
        return name

    return make


def _all(load: names.Load) -> tuple[Workload, ...]:
    big, small, many = load.big_bytes // MIB, f"{load.small_files:,} files of 16 KiB", f"by {MANY}"
    edited = load.edited_bytes // MIB
    return (
        Workload("sequential", f"{big} MiB read", "MB/s", _whole("read_one"), (names.BIG,), limit=_whole("fetch_one")),
        Workload(
            "streams",
            f"{STREAMS} x {load.stream_bytes // MIB} MiB read side by side",
            "MB/s",
            _streams("read_streams"),
            ("streams",),
            limit=_streams("fetch_streams"),
        ),
        Workload(
            "random", "random 4 KiB reads", "/s", _random("read_random", 1), (names.BIG,), _random("fetch_random", 1)
        ),
        Workload(
            "random-16",
            f"random 4 KiB reads {many}",
            "/s",
            _random("read_random", MANY),
            (names.BIG,),
            _random("fetch_random", MANY),
        ),
        Workload(
            "first-byte", f"first byte of {big} MiB", "ms", _first("read_first"), (names.BIG,), _first("fetch_first")
        ),
        Workload("small", f"{small} read", "/s", _small("read_small", 1), (names.SMALL,), _small("fetch_small", 1)),
        Workload(
            "small-16",
            f"{small} read {many}",
            "/s",
            _small("read_small", MANY),
            (names.SMALL,),
            _small("fetch_small", MANY),
        ),
        Workload(
            "again", f"{load.again_bytes // MIB} MiB read once more", "MB/s", _again, (names.AGAIN,), before=_again
        ),
        Workload("ls", f"ls -l of {load.listed:,}", "s", _list, (names.LISTED,), settles=True),
        Workload(
            "du",
            f"du -s of {load.listed:,} in {load.folders:,} directories",
            "s",
            _walk,
            (names.NESTED,),
            settles=True,
        ),
        Workload("stat", f"stat of {load.small_files:,} files", "/s", _stat, (names.SMALL,), settles=True),
        Workload("write", f"{load.write_bytes // MIB} MiB written", "MB/s", _written("write", MIB), limit=_stored),
        Workload(
            "write-4k",
            f"{load.small_write_bytes // MIB} MiB written by 4 KiB",
            "MB/s",
            _written("write-4k", 4 * KIB),
        ),
        Workload("create", f"{small} created", "/s", _create("create", 1), limit=_create("store_small", 1)),
        Workload(
            "create-16",
            f"{small} created {many}",
            "/s",
            _create("create", MANY),
            limit=_create("store_small", MANY),
        ),
        Workload("edit", f"4 KiB changed in {edited} MiB", "s", _change(at_end=False), prepare=store.Bucket.copied),
        Workload("append", f"4 KiB appended to {edited} MiB", "s", _change(at_end=True), prepare=store.Bucket.copied),
        Workload(
            "rename", f"mv of a directory of {load.moved}", "s", _rename, prepare=_directory("moved"), settles=True
        ),
        Workload(
            "remove", f"rm -r of {load.removed:,} files", "s", _remove, prepare=_directory("removed"), settles=True
        ),
    )


def workloads(load: names.Load) -> dict[str, Workload]:
    """All of them by name, with titles that say this load's sizes."""
    return {workload.name: workload for workload in _all(load)}
