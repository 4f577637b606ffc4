"""File against a bytearray: random writes, truncates, reads and syncs while uploads run and requests fail.

A18: every object ever visible equals the file at one instant between a sync's start and the next.
"""

import random
import tempfile
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from s3mount.config import GIB, KIB, MIB, S3_PARTS_MAX, Config
from s3mount.data.file import File
from s3mount.data.storage import Storage
from s3mount.errors import LostReply, S3MountError, StoreError, Unavailable
from s3mount.store.abilities import as_s3_says
from tests.memory_store import MemoryObject, MemoryStore, Operation
from tests.running import run_virtual
from tests.unit.files import PART, CheckingStore, created, opened, pattern, storage_of, storage_on

STEPS = 60
PUBLISHING = ("put", "complete_upload")
FAILING: tuple[Operation, ...] = ("put", "complete_upload", "create_upload", "upload_part", "copy_part", "get", "head")


def digest(content: bytes | bytearray) -> bytes:
    """Stands for a state: hundreds of them, whole, would be gigabytes."""
    return blake2b(content, digest_size=16).digest()


class Model:
    """A file beside the bytearray that it should equal, and the states in which it may appear in the bucket."""

    def __init__(self, storage: Storage, store: MemoryStore, file: File, draw: random.Random, size_max: int) -> None:
        self.storage = storage
        self.store = store
        self.file = file
        self.draw = draw
        self.size_max = size_max
        self.bytes = bytearray(store.body("k") if "k" in store.objects else b"")
        self.versions: list[bytes] = [digest(self.bytes)]
        """All states since the beginning, the last one perhaps not reached yet."""
        self.waiting = False

    def changed(self) -> None:
        self.versions.append(digest(self.bytes))

    def check_visible(self) -> None:
        if "k" in self.store.objects:
            assert digest(self.store.body("k")) in self.versions, "a mix, or something older than the last sync"

    async def write(self) -> None:
        draw = self.draw
        if draw.random() < 0.5:
            offset = len(self.bytes)
        else:
            offset = draw.randrange(max(1, min(self.size_max - MIB, len(self.bytes) + 1000)))
        size = draw.choice([1, 100, 4096, 128 * KIB, MIB])
        if offset + size > self.size_max:
            return
        data = pattern(size, draw.randrange(251))
        if offset > len(self.bytes):
            self.bytes.extend(bytes(offset - len(self.bytes)))
        self.bytes[offset : offset + size] = data
        self.changed()
        self.waiting = True
        await self.file.write(offset, data)
        self.waiting = False

    async def grow(self) -> None:
        """Sequentially, past a part and more."""
        for _ in range(self.draw.randrange(12)):
            if len(self.bytes) + MIB > self.size_max:
                return
            data, offset = pattern(MIB, self.draw.randrange(251)), len(self.bytes)
            self.bytes.extend(data)
            self.changed()
            self.waiting = True
            await self.file.write(offset, data)
            self.waiting = False

    async def truncate(self) -> None:
        size = self.draw.choice([0, len(self.bytes) // 2, self.draw.randrange(self.size_max), len(self.bytes) + 10])
        if size > self.size_max:
            return
        del self.bytes[size:]
        self.bytes.extend(bytes(size - len(self.bytes)))
        self.changed()
        await self.file.truncate(size)

    async def overwrite(self) -> None:
        self.bytes.clear()
        self.changed()
        await self.file.overwrite()

    async def read(self) -> None:
        offset = self.draw.randrange(len(self.bytes) + 10)
        size = self.draw.choice([1, 4096, 300 * KIB, self.size_max])
        expected = bytes(self.bytes[offset : offset + size])
        if self.waiting:
            return
        states = len(self.versions)
        try:
            found = bytes(await self.file.read(offset, size))
        except StoreError:
            return
        if len(self.versions) == states:
            assert found == expected

    async def sync(self) -> None:
        began = len(self.versions) - 1 - self.waiting
        count = self.draw.random()
        try:
            if count < 0.3:
                with trio.move_on_after(self.draw.random() * 3):
                    await self.file.sync()
                    self.synced(began)
            else:
                await self.file.sync()
                self.synced(began)
        except StoreError:
            pass

    def synced(self, began: int) -> None:
        assert digest(self.store.body("k")) in self.versions[began:]

    def fail(self) -> None:
        operation = self.draw.choice(FAILING)
        if operation in PUBLISHING and self.draw.random() < 0.5:
            self.store.fail(operation, LostReply("lost"), when=self.draw.choice(["before", "after"]))
        else:
            self.store.fail(operation, Unavailable("down"))


async def run_model(
    seed: int, *, size_max: int, start: int | None, directory: Path, lacking: bool = False, limit: int = 256 * MIB
) -> None:
    """`lacking`: on a store that takes four parts of one size, so that streams run out of parts."""
    draw = random.Random(seed)
    latency = draw.choice([0.0, 0.01, 1.0])
    store = CheckingStore(latency_seconds=latency, equal_parts=lacking, parts_max=4 if lacking else S3_PARTS_MAX)
    if start is not None:
        store.place("k", pattern(start, seed % 251))
    config = Config(bucket="b", copy_max_bytes=16 * MIB, memory_limit_bytes=64 * MIB)
    if lacking:
        config = replace(config, equal_parts="yes", part_copy="yes", parts_max=4, file_size_max_bytes=GIB)
    async with storage_of(store, config, as_s3_says, limit=limit, directory=directory) as storage:
        file = created(storage) if start is None else opened(storage, store)
        file.expect_returns()
        model = Model(storage, store, file, draw, size_max)
        stored = store._store

        def observed(key: str, found: MemoryObject) -> object:
            assert digest(found.body) in model.versions
            return stored(key, found)

        store._store = observed  # type: ignore[assignment,method-assign]
        async with trio.open_nursery() as nursery:
            for _ in range(STEPS):
                kind = draw.choices(
                    ["write", "grow", "truncate", "overwrite", "read", "sync", "fail", "wait"],
                    [40, 10, 2, 1, 15, 10, 6, 10],
                )[0]
                if kind == "fail":
                    model.fail()
                elif kind == "wait":
                    await trio.sleep(draw.random() * 3)
                elif kind == "sync":
                    nursery.start_soon(model.sync)
                    await trio.lowlevel.checkpoint()
                elif kind == "read" and draw.random() < 0.5:
                    nursery.start_soon(model.read)
                else:
                    await getattr(model, kind)()
                assert file.size == len(model.bytes)
        store._faults.clear()
        for _ in range(3):
            try:
                await file.sync()
                break
            except S3MountError as error:
                raise AssertionError(f"seed {seed}: {error!r}") from error
        assert store.body("k") == model.bytes
        assert bytes(await file.read(0, size_max)) == model.bytes
        assert not file.dirty
        file.close()
        await trio.sleep(100)
        assert not store.uploads
        assert not store.refusals
    assert list(store.objects) == ["k"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None)
@given(st.integers(0, 1 << 32), st.random_module(), st.sampled_from([None, 0, 1000, 3 * MIB]))
def test_a_small_file_equals_its_model_whatever_fails(seed: int, random_module: object, start: int | None) -> None:
    with tempfile.TemporaryDirectory() as directory:
        run_virtual(run_model)(seed, size_max=4 * MIB, start=start, directory=Path(directory))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None)
@given(st.integers(0, 1 << 32), st.random_module(), st.sampled_from([None, 4 * PART]), st.booleans())
def test_a_large_file_equals_its_model_whatever_fails(
    seed: int, random_module: object, start: int | None, lacking: bool
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        run_virtual(run_model)(seed, size_max=5 * PART, start=start, directory=Path(directory), lacking=lacking)


@pytest.mark.parametrize("size", [64 * KIB, 3 * PART])
@run_virtual
async def test_a_file_rewritten_a_thousand_times_while_it_is_uploaded_shows_only_states_it_had(size: int) -> None:
    """A18."""
    draw = random.Random(size)
    store = CheckingStore(latency_seconds=0.5)
    async with storage_on(store) as storage, trio.open_nursery() as nursery:
        file = created(storage)
        content = bytearray(pattern(size))
        states: set[bytes] = {digest(content)}
        await file.write(0, bytes(content[: MIB * 2]))
        for offset in range(2 * MIB, size, MIB):
            await file.write(offset, bytes(content[offset : offset + MIB]))
        stored = store._store

        def observed(key: str, found: MemoryObject) -> object:
            assert digest(found.body) in states
            return stored(key, found)

        store._store = observed  # type: ignore[assignment,method-assign]
        for step in range(1000):
            offset = draw.randrange(size - 5000)
            data = draw.randbytes(draw.randrange(1, 5000))
            content[offset : offset + len(data)] = data
            await file.write(offset, data)
            if step % 20 == 0:
                states = {digest(content)} if not file.busy else states | {digest(content)}
                nursery.start_soon(file.sync)
                await trio.testing.wait_all_tasks_blocked()
            if step % 7 == 0:
                # The next epoch may begin at any wait: then this is the instant.
                states.add(digest(content))
                await trio.sleep(0.3)
        states.add(digest(content))
        await file.sync()
        assert store.body("k") == content
        file.close()
