"""RenameObject on each store: an object keeps all it has and is at one key at any time; what is lost of it is found."""

import pytest

from s3mount import errors
from s3mount.store.abilities import Abilities, probe_rename
from s3mount.store.base import ABSENT, Condition, Headers
from tests.proxy import FaultProxy, Rule
from tests.running import run_trio
from tests.servers import Server, boto, make_bucket
from tests.store.places import Place
from tests.store.test_contract import put, read
from tests.store.test_faults import mounted

CARRIED = Headers(content_type="text/x-mine", cache_control="max-age=1", metadata={"who": "me"}, tags="a=1")
SCRATCH = "p/.s3mount/probe-1"


@run_trio
async def test_a_renamed_object_is_what_it_was_at_its_new_key_alone(place: Place) -> None:
    async with place.open() as store:
        for source, target in (("s", "new/t"), ("ä + %41 b", "s"), (f"{place.bucket}/s", "u")):
            etag = await put(store, source, b"content", CARRIED)
            before = await store.head(source)
            await store.rename(source, target, source_etag=etag)
            after = await store.head(target)
            assert (after.etag, after.size, after.headers) == (etag, 7, before.headers)
            assert after.last_modified_ns == before.last_modified_ns
            assert await store.tags(target) == "a=1"
            assert await read(store, target) == b"content"
            with pytest.raises(errors.NotFound):
                await store.head(source)
        for key in ("new/t", "s", "u"):
            await store.delete(key)


@run_trio
async def test_a_rename_is_of_exactly_its_source(place: Place) -> None:
    async with place.open() as store:
        etag = await put(store, "s", b"source")
        other = await put(store, "t", b"target")
        with pytest.raises(errors.PreconditionFailed):
            await store.rename("s", "t", source_etag=other)
        with pytest.raises(errors.NotFound):
            await store.rename("absent", "t", source_etag=etag)
        assert await read(store, "s") == b"source"
        assert await read(store, "t") == b"target"


@run_trio
async def test_a_rename_is_conditional_on_its_target(place: Place) -> None:
    async with place.open() as store:
        etag = await put(store, "s", b"source")
        other = await put(store, "t", b"target")
        for condition in (ABSENT, Condition(etag=etag)):
            with pytest.raises(errors.PreconditionFailed):
                await store.rename("s", "t", source_etag=etag, condition=condition)
        assert await read(store, "t") == b"target"
        await store.rename("s", "t", source_etag=etag, condition=Condition(etag=other))
        assert await read(store, "t") == b"source"
        await store.rename("t", "u", source_etag=etag, condition=ABSENT)
        assert await read(store, "u") == b"source"


@run_trio
async def test_whether_a_store_renames_is_seen_by_its_effect(place: Place) -> None:
    """moto takes the request for a PUT of nothing."""
    async with place.open() as store:
        assert await probe_rename(store, SCRATCH) == Abilities(rename=place.name != "moto")
        assert not (await store.list_page("")).objects


@run_trio
async def test_a_bucket_that_keeps_versions_is_not_renamed_in(
    proxy: FaultProxy, seaweedfs: Server, bucket: str
) -> None:
    """SeaweedFS refuses it there; a store that was seen to rename before is not asked again."""
    versioned = make_bucket(seaweedfs, f"{bucket}-versions")
    client = boto(seaweedfs)
    client.put_bucket_versioning(Bucket=versioned, VersioningConfiguration={"Status": "Enabled"})
    async with mounted(proxy, versioned) as store:
        assert await probe_rename(store, SCRATCH) == Abilities(rename=False)
        store.believe(Abilities(rename=True))
        etag = await put(store, "s", b"source")
        with pytest.raises(errors.NotImplementedByStore):
            await store.rename("s", "t", source_etag=etag)
        assert not store.renames
        assert await read(store, "s") == b"source"


@run_trio
async def test_an_option_that_says_how_objects_are_kept_needs_copies(proxy: FaultProxy, bucket: str) -> None:
    for options, renames in (({}, True), ({"storage_class": "STANDARD"}, False), ({"acl": "private"}, False)):
        async with mounted(proxy, bucket, **options) as store:
            assert not store.renames
            store.believe(Abilities(rename=True))
            assert store.renames is renames


@run_trio
async def test_a_rename_whose_reply_is_lost_succeeds(proxy: FaultProxy, bucket: str) -> None:
    async with mounted(proxy, bucket) as store:
        etag = await put(store, "s", b"source")
        proxy.add(Rule(fault="drop_reply", kind="rename", times=1))
        await store.rename("s", "t", source_etag=etag, condition=ABSENT)
        assert await read(store, "t") == b"source"
        assert [listed.key for listed in (await store.list_page("")).objects] == ["t"]


@run_trio
async def test_a_rename_refused_after_a_lost_request_is_not_taken_for_done(proxy: FaultProxy, bucket: str) -> None:
    """A target of the same bytes that was there before is no proof: the source is there too."""
    async with mounted(proxy, bucket) as store:
        etag = await put(store, "s", b"same")
        await put(store, "t", b"same")
        proxy.add(Rule(fault="reset", kind="rename", times=1))
        with pytest.raises(errors.PreconditionFailed):
            await store.rename("s", "t", source_etag=etag, condition=ABSENT)
        assert await read(store, "s") == b"same"


@run_trio
async def test_a_rename_whose_reply_is_lost_for_good_leaves_both_keys_in_doubt(proxy: FaultProxy, bucket: str) -> None:
    async with mounted(proxy, bucket, attempts_min=2) as store:
        etag = await put(store, "s", b"source")
        proxy.add(Rule(fault="drop_reply", kind="rename", times=2))
        with pytest.raises(errors.LostReply):
            await store.rename("s", "t", source_etag=etag)
        for key in ("s", "t"):
            before = store.counts["head"]
            await put(store, key, b"new")
            assert store.counts["head"] == before + 1
