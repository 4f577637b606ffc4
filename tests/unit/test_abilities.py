"""What a store can do is found out by its effect, tidied up after, and remembered."""

import json
import logging
import stat
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from s3mount.config import MIB, Config
from s3mount.data.journal import Journal
from s3mount.data.leftovers import Leftovers
from s3mount.errors import AccessDenied, PreconditionFailed, StoreError, Unavailable
from s3mount.store.abilities import Abilities, probe_conditions, probe_deletes, probe_ghosts, probe_parts, probe_rename
from s3mount.store.base import ALWAYS, Body, Condition, Headers, ObjectStore, Part, Stored, Upload
from s3mount.store.findings import KEPT_SECONDS, Findings
from tests.haunted_store import HauntedStore
from tests.memory_store import Call, MemoryStore
from tests.paper import PaperInMemory
from tests.running import run_virtual

ALL_CONDITIONS = Abilities(put_if_absent=True, put_if_match=True, complete_if_absent=True)
NO_CONDITIONS = Abilities(put_if_absent=False, put_if_match=False, complete_if_absent=False)
ALL_DELETES = Abilities(delete_many=True, delete_many_if_match=True, delete_if_match=True)
AT_START = replace(
    ALL_CONDITIONS, delete_many=True, delete_many_if_match=True, delete_if_match=True, rename=False, ghosts=False
)
S3_PARTS = Abilities(part_copy=True, equal_parts=False, parts_max=10_000)
CONFIG = Config(bucket="b", prefix="p/")


Probe = Callable[[ObjectStore, str], Awaitable[Abilities]]


def tidy(store: MemoryStore) -> bool:
    return not store.objects and not store.uploads


@pytest.mark.parametrize(
    ("conditions", "expected"), [("kept", ALL_CONDITIONS), ("ignored", NO_CONDITIONS), ("refused", NO_CONDITIONS)]
)
@run_virtual
async def test_conditions_are_believed_by_what_they_do(conditions: str, expected: Abilities) -> None:
    store = MemoryStore(conditions=conditions)  # type: ignore[arg-type]
    assert await probe_conditions(store, "p/scratch") == expected
    assert tidy(store)
    assert store.counts.total() <= 13
    assert store.sent_bytes < 20


@pytest.mark.parametrize(
    ("switches", "expected"),
    [
        ({}, (True, True, True)),
        ({"deletes_many": "ignored"}, (True, False, True)),
        ({"deletes_many": "refused"}, (False, False, True)),
        ({"deletes_many": "ignored", "conditions": "ignored"}, (True, False, False)),
        ({"deletes_many": "refused", "conditions": "refused"}, (False, False, False)),
    ],
)
@run_virtual
async def test_deletions_are_believed_by_what_they_do(
    switches: dict[str, object], expected: tuple[bool, bool, bool]
) -> None:
    store = MemoryStore(**switches)  # type: ignore[arg-type]
    found = await probe_deletes(store, "p/scratch")
    assert (found.delete_many, found.delete_many_if_match, found.delete_if_match) == expected
    assert tidy(store)
    assert store.counts.total() <= 14


@run_virtual
async def test_a_store_that_refuses_every_etag_beside_a_key_keeps_none_but_deletes_many() -> None:
    store = MemoryStore()
    store.fail("delete_many", StoreError("an ETag?", code="MalformedXML", status=400))
    assert await probe_deletes(store, "scratch") == replace(ALL_DELETES, delete_many_if_match=False)
    assert tidy(store)


@run_virtual
async def test_a_store_that_answers_412_and_changes_the_object_all_the_same_keeps_no_condition() -> None:
    store = MemoryStore()

    async def spoil(call: Call) -> None:
        if call.operation == "put" and call.key in store.objects:
            store.place(call.key, b"x" * call.size)

    store.before = spoil
    found = await probe_conditions(store, "scratch")
    assert (found.put_if_absent, found.put_if_match) == (False, False)
    assert tidy(store)


@pytest.mark.parametrize(
    ("switches", "expected", "sent_mib"),
    [
        ({}, S3_PARTS, 5),
        ({"equal_parts": True}, replace(S3_PARTS, equal_parts=True), 5),
        ({"parts_max": 1000}, replace(S3_PARTS, parts_max=1000), 5),
        ({"copies_parts": "refused"}, replace(S3_PARTS, part_copy=False), 15),
        ({"copies_parts": "ignored"}, replace(S3_PARTS, part_copy=False), 15),
        (
            {"equal_parts": True, "parts_max": 1000, "copies_parts": "ignored", "conditions": "refused"},
            Abilities(part_copy=False, equal_parts=True, parts_max=1000),
            15,
        ),
    ],
)
@run_virtual
async def test_parts_are_believed_by_what_they_do(
    switches: dict[str, object], expected: Abilities, sent_mib: int
) -> None:
    store = MemoryStore(**switches)  # type: ignore[arg-type]
    assert await probe_parts(store, "p/scratch") == expected
    assert tidy(store)
    assert store.counts.total() <= 16
    assert store.sent_bytes // MIB == sent_mib


@pytest.mark.parametrize(("renaming", "expected"), [("kept", True), ("refused", False), ("ignored", False)])
@run_virtual
async def test_renames_are_believed_by_what_they_do(renaming: str, expected: bool) -> None:
    """A PUT of nothing is tried on scratch keys only."""
    store = MemoryStore(renaming=renaming)  # type: ignore[arg-type]
    assert await probe_rename(store, "p/scratch") == Abilities(rename=expected)
    assert tidy(store)
    assert store.counts.total() <= 18
    assert all(call.key.startswith("p/scratch") for call in store.calls)


@pytest.mark.parametrize(
    ("haunted", "ends", "expected"), [(False, True, False), (True, True, True), (True, False, False)]
)
@run_virtual
async def test_prefixes_that_outlive_their_keys_are_believed_by_what_is_listed(
    haunted: bool, ends: bool, expected: bool
) -> None:
    """Those that nothing ends are not worth a request later."""
    store = HauntedStore(ends=ends) if haunted else MemoryStore()
    assert await probe_ghosts(store, "p/scratch") == Abilities(ghosts=expected)
    assert tidy(store)
    assert store.counts.total() <= 6
    if isinstance(store, HauntedStore):
        assert ("p/scratch/" in store.skeleton) is not ends


class Careless(MemoryStore):
    """Renames whatever the conditions say: of the source, or of the target."""

    ignored = "source"

    async def rename(
        self,
        source: str,
        target: str,
        *,
        source_etag: str,
        source_size: int | None = None,
        condition: Condition = ALWAYS,
    ) -> None:
        if self.ignored == "source":
            source_etag = self.objects[source].etag if source in self.objects else source_etag
        else:
            condition = ALWAYS
        await super().rename(source, target, source_etag=source_etag, condition=condition)


@pytest.mark.parametrize("ignored", ["source", "target"])
@run_virtual
async def test_renames_that_keep_no_condition_are_not_used(ignored: str) -> None:
    store = Careless(renaming="kept")
    store.ignored = ignored
    assert await probe_rename(store, "scratch") == Abilities(rename=False)
    assert tidy(store)


@run_virtual
async def test_a_store_whose_renames_fail_is_asked_again() -> None:
    store = MemoryStore(renaming="kept")
    store.fail("rename", Unavailable("503", status=503))
    with pytest.raises(Unavailable):
        await probe_rename(store, "scratch")
    assert tidy(store)


@run_virtual
async def test_a_refusal_in_the_body_of_a_200_is_a_refusal() -> None:
    """As the real store tells it: status 500, and the code that was in the body."""
    store = MemoryStore()
    store.fail("complete_upload", Unavailable("unequal", code="InvalidPart", status=500), skip=1)
    assert (await probe_parts(store, "scratch")).equal_parts is True
    assert tidy(store)


@pytest.mark.parametrize("code", ["", "RequestTimeout", "BadDigest"])
@pytest.mark.parametrize("skip", [1, 2, 3])
@run_virtual
async def test_a_stray_400_tells_nothing_of_conditions(code: str, skip: int) -> None:
    store = MemoryStore()
    store.fail("put", StoreError("stray", code=code, status=400), skip=skip)
    with pytest.raises(StoreError, match="stray"):
        await probe_conditions(store, "scratch")
    assert tidy(store)


@run_virtual
async def test_a_store_that_refuses_every_if_match_keeps_none() -> None:
    store = MemoryStore()
    store.fail("put", PreconditionFailed("412", code="PreconditionFailed", status=412), skip=3)
    assert await probe_conditions(store, "scratch") == replace(ALL_CONDITIONS, put_if_match=False)


@run_virtual
async def test_a_copy_of_the_wrong_range_is_no_copy() -> None:
    class FromTheStart(MemoryStore):
        async def copy_part(
            self, upload: Upload, number: int, source: str, start: int, stop: int, *, source_etag: str
        ) -> Part:
            return await super().copy_part(upload, number, source, 0, stop - start, source_etag=source_etag)

    store = FromTheStart()
    assert (await probe_parts(store, "scratch")).part_copy is False
    assert tidy(store)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("probe", [probe_conditions, probe_deletes, probe_parts, probe_rename, probe_ghosts])
@run_virtual
async def test_whatever_request_fails_nothing_is_left_and_nothing_is_believed(probe: Probe, when: str) -> None:
    for failing in range(30):
        store = MemoryStore()
        asked = 0

        async def fail(call: Call, failing: int = failing) -> None:
            nonlocal asked
            asked += 1
            if asked == failing + 1:
                raise Unavailable("down", status=503)

        setattr(store, when, fail)
        try:
            found = await probe(store, "scratch")
        except Unavailable:
            assert tidy(store) or (when == "before" and removes(store.calls[failing]))
        else:
            assert found in (ALL_CONDITIONS, ALL_DELETES, S3_PARTS, Abilities(rename=False), Abilities(ghosts=False))
            if asked <= failing:
                assert failing >= 4
                return
    raise AssertionError("the probe asks too much")


def removes(call: Call) -> bool:
    """Whether it was the removal itself that failed."""
    return call.operation in ("delete", "abort_upload")


# remembering


@run_virtual
async def test_what_was_found_is_remembered_for_all_mounts_of_the_store(tmp_path: Path) -> None:
    store = MemoryStore(parts_max=1000)
    found = await Findings(store, CONFIG, tmp_path / "stores").parts()
    assert await Findings(store, CONFIG, tmp_path / "stores").conditions() == replace(
        AT_START, part_copy=True, equal_parts=False, parts_max=1000
    )
    store.reset_counts()
    others = Findings(store, replace(CONFIG, prefix="other/", mountpoint=Path("/elsewhere")), tmp_path / "stores")
    assert await others.parts() == await others.conditions()
    assert (await others.parts()).parts_max == found.parts_max == 1000
    assert not store.counts
    (path,) = (tmp_path / "stores").iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert (await Findings(store, replace(CONFIG, bucket="c"), tmp_path / "stores").parts()).parts_max == 1000
    assert store.counts, "another bucket may be on another store"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda document: "{",
        lambda document: "[]",
        lambda document: json.dumps({**document, "format": 2}),
        lambda document: json.dumps({**document, "abilities": {"magic": True}}),
        lambda document: json.dumps({**document, "abilities": {"parts_max": True}}),
        lambda document: json.dumps({**document, "abilities": {"parts_max": 1}}),
        lambda document: json.dumps({**document, "abilities": {"equal_parts": "yes"}}),
        lambda document: json.dumps({**document, "found": document["found"] - KEPT_SECONDS}),
        lambda document: json.dumps({**document, "found": document["found"] + 1000}),
    ],
)
@run_virtual
async def test_a_memory_that_is_old_or_garbled_counts_as_none(
    spoil: Callable[[dict[str, object]], str], tmp_path: Path
) -> None:
    store = MemoryStore()
    findings = Findings(store, CONFIG, tmp_path, clock=lambda: 1e9)
    await findings.parts()
    (path,) = tmp_path.iterdir()
    path.write_text(spoil(json.loads(path.read_text())))
    store.reset_counts()
    assert await findings.parts() == S3_PARTS
    assert store.counts["put"] == 1
    store.reset_counts()
    assert await findings.parts() == S3_PARTS
    assert not store.counts


@run_virtual
async def test_a_mount_that_is_read_only_never_probes(tmp_path: Path) -> None:
    store = MemoryStore()
    findings = Findings(store, replace(CONFIG, read_only=True), tmp_path)
    assert await findings.conditions() == await findings.parts() == Abilities()
    assert not store.counts


@run_virtual
async def test_a_probe_that_failed_is_tried_again_by_the_next_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    store = MemoryStore()
    store.fail("put", AccessDenied("403", status=403))
    assert await Findings(store, CONFIG, tmp_path).conditions() == Abilities()
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert await Findings(store, CONFIG, tmp_path).conditions() == AT_START


@pytest.mark.parametrize(
    ("error", "left"), [(None, 0), (AccessDenied("403", status=403), 0), (Unavailable("503", status=503), 3)]
)
@run_virtual
async def test_the_journal_names_the_scratch_objects_until_they_are_known_to_be_gone(
    error: StoreError | None, left: int, tmp_path: Path
) -> None:
    """A probe may be killed at any moment, or unable to tidy up: the next start deletes what may be there."""
    store, paper = MemoryStore(), PaperInMemory()
    journal = Journal(paper)
    if error is not None:
        store.fail("copy_part", error)
    findings = Findings(store, CONFIG, tmp_path, begin=journal.begin_copy, ended=journal.strike)
    await findings.parts()
    named = [entry.key for entry in Journal(paper).left]
    assert len(named) == left
    for key in named:
        store.place(key, b"left behind")
    async with trio.open_nursery() as nursery:
        await Leftovers(store, Journal(paper), CONFIG, nursery, now_ns=store.now_ns).recover()
        assert not store.keys("p/.s3mount/probe-")


@run_virtual
async def test_a_probe_that_meets_a_bug_does_not_end_the_mount(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryStore()
    store.fail("put", KeyError("a bug"))
    assert await Findings(store, CONFIG, tmp_path).conditions() == Abilities()
    assert "probe met a bug" in caplog.text


@run_virtual
async def test_what_was_found_out_before_is_known_without_a_request(tmp_path: Path) -> None:
    store = MemoryStore()
    assert Findings(store, CONFIG, tmp_path).remembered() == Abilities()
    await Findings(store, CONFIG, tmp_path).conditions()
    store.reset_counts()
    assert Findings(store, CONFIG, tmp_path).remembered() == AT_START
    assert not store.counts


@run_virtual
async def test_a_store_that_does_not_answer_is_tried_for_a_limited_time(tmp_path: Path) -> None:
    store = MemoryStore(latency_seconds=5)
    started = trio.current_time()
    assert await Findings(store, CONFIG, tmp_path).conditions() == Abilities()
    assert trio.current_time() - started <= 60
    assert tidy(store)


@run_virtual
async def test_a_cache_directory_that_cannot_be_written_costs_a_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    (tmp_path / "stores").write_text("in the way")
    assert await Findings(MemoryStore(), CONFIG, tmp_path / "stores").parts() == S3_PARTS
    assert "not remembered" in caplog.text


@run_virtual
async def test_lost_updates_that_cannot_be_prevented_are_one_warning_at_every_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryStore(conditions="ignored")
    for _ in range(2):
        caplog.clear()
        await Findings(store, CONFIG, tmp_path).conditions()
        (warning,) = [record for record in caplog.records if record.levelname == "WARNING"]
        assert "are lost" in warning.message


@run_virtual
async def test_the_probe_of_parts_sends_five_mebibytes_and_holds_less_than_one() -> None:
    held: list[int] = []

    class Watched(MemoryStore):
        async def put(self, key: str, body: Body, headers: Headers, condition: Condition = ALWAYS) -> Stored:
            held.append(sum({id(piece): len(piece) for piece in body}.values()))
            return await super().put(key, body, headers, condition)

    store = Watched()
    assert await probe_parts(store, ".s3mount/probe-x") == S3_PARTS
    assert len(held) == 1
    assert held[0] < MIB
    assert next(call.size for call in store.calls if call.operation == "put") == 5 * MIB + 1
