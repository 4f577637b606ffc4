"""Flags are put and taken on real servers as on the memory store."""

from s3mount.store.base import Headers, ObjectInfo
from s3mount.vfs.flags import FLAG
from s3mount.vfs.rebuild import Progress, rebuild_flags
from tests.running import run_trio
from tests.store.places import Place

SPECIAL = Headers(metadata={"mode": "33152", "mtime": "1700000000.050000000"})


@run_trio
async def test_flags_are_where_an_entry_is_special_after_a_rebuild(place: Place) -> None:
    learnt: list[ObjectInfo] = []
    async with place.open() as store:
        for key in ("plain", "a/plain", f"a/{FLAG}", "b/plain", f"own/{FLAG}", "own/plain"):
            await store.put(key, (b"x",) if key[-1] == "n" else (), Headers())
        for key in ("b/c/special", f"own/{FLAG}"):
            await store.put(key, (), SPECIAL)

        async def rebuild() -> Progress:
            return await rebuild_flags(
                store, "", root="", settle_seconds=0.1, progress=lambda _progress: None, learnt=learnt.append
            )

        assert await rebuild() == Progress(objects=7, directories=5, flags_put=2, flags_removed=1)
        keys = [listed.key for listed in (await store.list_page("")).objects]
        assert [key for key in keys if key.endswith(FLAG)] == [FLAG, f"b/c/{FLAG}", f"own/{FLAG}"]
        assert {info.key: info.headers.metadata for info in learnt}["b/c/special"] == SPECIAL.metadata
        assert await rebuild() == Progress(objects=8, directories=5)
        for key in keys:
            await store.delete(key)
