"""The probe on real servers: each is found to be what it is, and nothing is left behind."""

from pathlib import Path

from s3mount.config import MIB, Config
from s3mount.store.abilities import Abilities, probe_conditions, probe_ghosts, probe_parts
from s3mount.store.base import ALWAYS, Headers, ObjectStore
from s3mount.store.findings import Findings
from tests.running import run_trio
from tests.store.places import Place


async def untouched(store: ObjectStore) -> bool:
    """SeaweedFS may go on listing a prefix without keys: it is asked for keys."""
    return not (await store.list_page("")).objects and not await store.list_uploads("")


@run_trio
async def test_conditions_are_kept(place: Place) -> None:
    async with place.open() as store:
        found = await probe_conditions(store, "p/.s3mount/probe-1")
        assert found == Abilities(put_if_absent=True, put_if_match=True, complete_if_absent=True)
        assert await untouched(store)


@run_trio
async def test_parts_may_be_as_s3_says(place: Place) -> None:
    async with place.open() as store:
        found = await probe_parts(store, "p/.s3mount/probe-1")
        assert found == Abilities(part_copy=True, equal_parts=False, parts_max=10_000)
        assert await untouched(store)


@run_trio
async def test_a_probed_store_is_not_probed_again(place: Place, tmp_path: Path) -> None:
    async with place.open() as store:
        findings = Findings(store, Config(bucket="b", prefix="p/"), tmp_path)
        await findings.conditions()
        found = await findings.parts()
        before = store.counts.copy()  # type: ignore[attr-defined]
        assert await Findings(store, Config(bucket="b"), tmp_path).parts() == found
        assert store.counts == before  # type: ignore[attr-defined]
        assert found.part_copy


@run_trio
async def test_a_probe_leaves_the_neighbours_alone(place: Place) -> None:
    async with place.open() as store:
        await store.put("p/.s3mount/probe-12", [b"a neighbour"], Headers(), ALWAYS)
        upload = await store.create_upload("p/.s3mount/probe-12", Headers())
        await probe_parts(store, "p/.s3mount/probe-1")
        assert (await store.head("p/.s3mount/probe-12")).size == 11
        part = await store.upload_part(upload, 1, [bytes(MIB)])
        await store.complete_upload(upload, [part])
        assert (await store.head("p/.s3mount/probe-12")).size == MIB
        await store.delete("p/.s3mount/probe-12")


@run_trio
async def test_prefixes_without_keys_are_listed_on_by_seaweedfs_until_they_are_deleted_as_markers(place: Place) -> None:
    async with place.open() as store:
        assert await probe_ghosts(store, "p/.s3mount/probe-1") == Abilities(ghosts=place.name == "seaweedfs")
        assert not (await store.list_page("p/.s3mount/", delimiter="/")).prefixes


@run_trio
async def test_a_directory_that_is_deleted_while_a_key_lies_below_it_keeps_the_key(place: Place) -> None:
    async with place.open() as store:
        await store.put("d/sub/f", [b"kept"], Headers())
        for _ in range(2):
            assert not await store.delete_many([("d/sub/", None), ("d/", None)])
            assert [listed.key for listed in (await store.list_page("d/")).objects] == ["d/sub/f"]
            await store.delete("d/sub/")
            assert (await store.head("d/sub/f")).size == 4
        await store.delete("d/sub/f")
