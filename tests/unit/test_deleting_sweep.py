"""rm -r with each request going wrong in turn, and with the daemon killed at each: nothing acknowledged comes undone,
nothing else is lost.
"""

from pathlib import Path
from typing import Literal

import pytest
import trio

from s3mount.data.removals import Removals, finish
from s3mount.errors import LostReply, NoEntry, S3MountError, Unavailable
from tests.kernel_model import Kernel, mounted
from tests.memory_store import Call, MemoryStore
from tests.paper import PaperInMemory
from tests.running import run_virtual
from tests.unit.test_killed import Kill

FILES = 12
TREE = [f"t/{directory}/f{number}" for directory in ("implicit", "marked") for number in range(FILES)]
MARKERS = ["t/", "t/implicit/", "t/marked/"]
REQUESTS_MAX = 60


def planted() -> MemoryStore:
    store = MemoryStore()
    for key in TREE:
        store.place(key, key.encode())
    for key in ("t/marked/", "stays/f"):
        store.place(key)
    return store


async def rm_r(kernel: Kernel, acknowledged: set[str], *, insists: bool, begun: set[str] | None = None) -> None:
    """Notes what succeeded, and which directories' removal had begun; goes on after an error, as rm does."""
    for directory in ("t/implicit", "t/marked", "t"):
        try:
            names = [name for name in await kernel.listdir(directory) if directory != "t"]
        except NoEntry:
            continue
        for name in names:
            try:
                await kernel.unlink(f"{directory}/{name}")
                acknowledged.add(f"{directory}/{name}")
            except S3MountError:
                if not insists:
                    raise
        if begun is not None:
            begun.add(f"{directory}/")
        try:
            await kernel.rmdir(directory)
            acknowledged.add(f"{directory}/")
        except S3MountError:
            if not insists:
                raise


@pytest.mark.parametrize("when", ["before", "after"])
@run_virtual
async def test_wherever_the_daemon_is_killed_the_next_start_has_deleted_what_was_acknowledged(
    tmp_path: Path, when: Literal["before", "after"]
) -> None:
    for number in range(1, REQUESTS_MAX):
        store, paper = planted(), PaperInMemory()
        directory = tmp_path / str(number)
        directory.mkdir()
        acknowledged: set[str] = set()
        begun: set[str] = set()
        async with mounted(store, directory, paper=paper) as kernel:
            kill = Kill(store, paper, number, when)
            with kill.scope:
                await rm_r(kernel, acknowledged, insists=False, begun=begun)
        store.before = store.after = None
        left = kill.left if kill.came else paper
        await finish(store, Removals(left))
        assert not acknowledged & store.objects.keys(), number
        assert "stays/f" in store.objects
        assert set(store.keys("t/")) <= {*TREE, *MARKERS}
        for place in ("t/implicit/", "t/marked/"):
            # A directory does not vanish with its last file, killed or not.
            assert place in begun or store.keys(place), (number, place)
        assert Removals(left).left == ()
        if not kill.came:
            assert store.keys() == ["stays/f"]
            return
    raise AssertionError("rm -r never came to its end")


@pytest.mark.parametrize("how", ["fail", "lost"])
@run_virtual
async def test_whatever_request_goes_wrong_rm_r_can_be_repeated(tmp_path: Path, how: str) -> None:
    for number in range(1, REQUESTS_MAX):
        store, paper = planted(), PaperInMemory()
        directory = tmp_path / str(number)
        directory.mkdir()
        asked = 0

        async def spoil(call: Call, number: int = number) -> None:
            nonlocal asked
            if how == "fail" or call.operation not in ("head", "list"):
                asked += 1
                if asked == number:
                    raise Unavailable("503", status=503) if how == "fail" else LostReply("lost")

        async with mounted(store, directory, paper=paper) as kernel:
            setattr(store, "before" if how == "fail" else "after", spoil)
            acknowledged: set[str] = set()
            try:
                await rm_r(kernel, acknowledged, insists=True)
            except S3MountError:
                pass
            await trio.sleep(10)
            store.before = store.after = None
            for _ in range(2):
                kernel.drop_caches()
                await rm_r(kernel, acknowledged, insists=True)
            await trio.sleep(10)
            kernel.drop_caches()
            assert await kernel.listdir() == ["stays"], number
        assert store.keys() == ["stays/f"], number
        assert Removals(paper).left == ()
        if asked < number:
            return
    raise AssertionError("rm -r never came to its end")
