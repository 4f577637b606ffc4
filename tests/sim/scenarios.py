"""The ways of writing that the Nth-failure loop goes through. Each can be run again from its start, whatever a
run before it has left: that is what its program would do after an error.
"""

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import trio

from s3mount.config import MIB, S3_PART_MIN_BYTES
from s3mount.errors import NotEmpty, S3MountError
from tests.memory_store import Ability
from tests.sim.program import Opened, Program
from tests.unit.files import pattern

KIB = 1024
PART = S3_PART_MIN_BYTES
LARGE = pattern(2 * PART + MIB, seed=1)
"""More than one PUT takes."""
STREAMED = pattern(3 * PART + 1000, seed=2)
"""Four parts."""
DOOMED = pattern(16 * MIB + 1000, seed=5)
"""More than an unlink takes over for those who read on."""
CREATE = os.O_WRONLY | os.O_CREAT
REPLACE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is in the bucket before, and what the program does."""

    name: str
    act: Callable[[Program], Awaitable[None]]
    before: dict[str, bytes] = field(default_factory=dict)
    renaming: Ability = "refused"


async def create(program: Program) -> None:
    opened = await program.open("new", REPLACE)
    await program.write(opened, b"first content of the file")
    await program.close(opened)


async def overwrite(program: Program) -> None:
    opened = await program.open("small", os.O_WRONLY | os.O_TRUNC)
    await program.write(opened, b"content that replaces the old")
    await program.close(opened)


async def append(program: Program) -> None:
    opened = await program.open("small", os.O_WRONLY | os.O_APPEND)
    await program.write(opened, b", and more")
    await program.close(opened)


async def stream(program: Program) -> None:
    opened = await program.open("streamed", REPLACE)
    await program.write(opened, STREAMED)
    await program.close(opened)


async def edit(program: Program) -> None:
    opened = await program.open("large", os.O_RDWR)
    await program.write(opened, pattern(4 * KIB, seed=7), offset=len(LARGE) // 2)
    await program.close(opened)


async def append_twice(program: Program) -> None:
    opened = await program.open("large", os.O_WRONLY | os.O_APPEND)
    await program.write(opened, pattern(1000, seed=3))
    await program.fsync(opened)
    await program.write(opened, pattern(1000, seed=4))
    await program.fsync(opened)
    await program.close(opened)


async def truncate(program: Program) -> None:
    await program.truncate("large", 2 * PART + 100 * KIB)
    opened = await program.open("large", os.O_RDWR)
    await program.ftruncate(opened, 2 * PART + 1000)
    await program.fsync(opened)
    await program.ftruncate(opened, 2 * PART + MIB)
    await program.close(opened)
    await program.truncate("small", 5)


async def sync_in_mid_stream(program: Program) -> None:
    opened = await program.open("streamed", REPLACE)
    await program.write(opened, STREAMED[: 2 * PART + KIB])
    await program.fsync(opened)
    await program.write(opened, STREAMED[2 * PART + KIB :])
    await program.close(opened)


async def rename_clean(program: Program) -> None:
    if await program.exists("clean"):
        await program.rename("clean", "target")


async def rename_dirty(program: Program) -> None:
    """One that has an object and one that is being streamed for the first time."""
    if await program.exists("dirty"):
        opened = await program.open("dirty", os.O_WRONLY | os.O_APPEND)
        await program.write(opened, b", dirty")
        await program.rename("dirty", "target")
        await program.write(opened, b", more")
        await program.close(opened)
    opened = await program.open("streamed", REPLACE)
    await program.write(opened, STREAMED[: 2 * PART + KIB])
    await program.rename("streamed", "moved")
    await program.write(opened, STREAMED[2 * PART + KIB :])
    await program.fsync(opened)
    await program.close(opened)


async def unlink_uploading(program: Program) -> None:
    opened = await program.open("doomed", REPLACE)
    await program.write(opened, DOOMED)
    errors: list[S3MountError] = []

    async def sync() -> None:
        try:
            await program.fsync(opened)
        except S3MountError as error:
            errors.append(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(sync)
        await trio.sleep(0.015)
        try:
            await program.unlink("doomed")
        except S3MountError as error:
            errors.append(error)
    if errors:
        raise errors[0]
    await program.write(opened, b"for nobody")
    await program.close(opened)
    if await program.exists("small"):
        opened = await program.open("small", os.O_WRONLY | os.O_APPEND)
        await program.write(opened, b", dirty")
        await program.unlink("small")
        await program.write(opened, b", for nobody")
        await program.close(opened)


async def directory(program: Program) -> None:
    if await program.exists("moved"):
        await directory_by_names(program)
        return
    await program.mkdir("made")
    await program.mkdir("made/sub")
    for name in ("one", "two"):
        await _write(program, f"made/{name}", b"content of " + name.encode())
    await program.close(await program.open("made/empty", CREATE))
    await program.rmdir("made/sub")
    try:
        await program.rename_directory("made", "moved")
    except NotEmpty:
        await directory_by_names(program)


async def directory_by_names(program: Program) -> None:
    """What is left to do when a rename of the directory was cut short."""
    if await program.exists("made"):
        for name in await program.listdir("made"):
            await program.rename(f"made/{name}", f"moved/{name}")
        await program.rmdir("made")


async def _write(program: Program, path: str, content: bytes) -> None:
    opened: Opened = await program.open(path, REPLACE)
    await program.write(opened, content)
    await program.close(opened)


SMALL = {"small": b"content of old"}
SCENARIOS = (
    Scenario("create", create),
    Scenario("overwrite", overwrite, SMALL),
    Scenario("append", append, SMALL),
    Scenario("stream", stream),
    Scenario("edit", edit, {"large": LARGE}),
    Scenario("append-twice", append_twice, {"large": LARGE}),
    Scenario("truncate", truncate, {"large": LARGE, **SMALL}),
    Scenario("sync-in-mid-stream", sync_in_mid_stream),
    Scenario("rename-clean", rename_clean, {"clean": b"what is moved", "target": b"what is replaced"}),
    Scenario("rename-dirty", rename_dirty, {"dirty": b"what is moved", "target": b"what is replaced"}),
    Scenario("unlink-uploading", unlink_uploading, SMALL),
    Scenario("directory", directory),
    Scenario("directory-renamed", directory, renaming="kept"),
    Scenario(
        "rename-dirty-renamed",
        rename_dirty,
        {"dirty": b"what is moved", "target": b"what is replaced"},
        renaming="kept",
    ),
    Scenario("rename-clean-renamed", rename_clean, {"clean": b"what is moved"}, renaming="kept"),
)
