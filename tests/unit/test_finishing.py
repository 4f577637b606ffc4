"""What is left of a directory's move is done by its intent alone, whatever others have changed since."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from s3mount.data.finishing import Outcome, finish
from s3mount.data.intents import Intent, Phase, Source, decode, decode_head, encode
from s3mount.data.undertakings import DELAYS_SECONDS, Undertakings
from s3mount.errors import AccessDenied, LostReply, Unavailable
from s3mount.instance import owner
from tests.kernel_model import mounted
from tests.memory_store import Call, MemoryStore
from tests.running import run_virtual
from tests.unit.test_rename_races import once

NOW_NS = 1_700_000_000 * 10**9
KEY = "p/.s3mount/intents/mine-1"
WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def source_of(store: MemoryStore, key: str, copy: str = "") -> Source:
    found = store.objects[key]
    return Source(found.etag, len(found.body), found.last_modified_ns // 10**9, copy)


def intent_of(store: MemoryStore, phase: Phase = "moving", **copies: str) -> Intent:
    """Of a move of what is below p/d/ to p/e/."""
    sources = {key[4:]: source_of(store, key, copies.get(key[4:], "")) for key in store.keys("p/d/")}
    return Intent(KEY, "mine", "host", "p/d/", "p/e/", NOW_NS, phase, NOW_NS, sources)


def bucket(renaming: str = "kept") -> MemoryStore:
    store = MemoryStore(renaming=renaming, clock_ns=lambda: NOW_NS)  # type: ignore[arg-type]
    for key in ("d/", "d/a", "d/b", "d/sub/", "d/sub/c"):
        store.place(f"p/{key}", b"" if key.endswith("/") else key.encode())
    return store


@given(WORDS, WORDS, st.dictionaries(WORDS, st.tuples(WORDS, st.integers(0, 10**13), st.integers(0, 2**40), WORDS)))
def test_an_intent_is_read_as_it_was_written(
    former: str, target: str, sources: dict[str, tuple[str, int, int, str]]
) -> None:
    written = Intent(
        KEY, "o", "h", former, target, NOW_NS, "deleting", 5, {name: Source(*one) for name, one in sources.items()}
    )
    assert decode(KEY, encode(written)) == written
    head = decode_head(KEY, encode(written)[: encode(written).index(b"\n") + 1])
    assert (head.former, head.target, head.phase, head.sources) == (former, target, "deleting", {})


@pytest.mark.parametrize(
    "content", [b"", b"{}\n", b"[]\n", b"nonsense\n", b'{"format": 1}\n', b'{"format": 2, "owner": "x"}\n', b"\xff\n"]
)
def test_what_is_no_intent_is_not_taken_for_one(content: bytes) -> None:
    with pytest.raises(ValueError, match=r".*"):
        decode(KEY, content)


@pytest.mark.parametrize("renaming", ["kept", "refused"])
@run_virtual
async def test_a_move_is_finished_from_wherever_it_was(renaming: str) -> None:
    """A copy that is there already is not made again."""
    for there in ((), ("a",), ("a", "b", "sub/c")):
        for gone in (False, True):
            store = bucket(renaming)
            intent = intent_of(store)
            for name in there:
                store.place(f"p/e/{name}", store.body(f"p/d/{name}"))
                if gone:
                    store.remove(f"p/d/{name}")
            outcome = await finish(store, intent)
            assert store.keys() == ["p/e/", "p/e/a", "p/e/b", "p/e/sub/", "p/e/sub/c"]
            assert store.body("p/e/sub/c") == b"d/sub/c"
            assert (outcome.moved, outcome.kept) == (3 - len(there), [])


@run_virtual
async def test_what_has_changed_since_is_left_alone() -> None:
    store = bucket()
    intent = intent_of(store)
    store.place("p/d/a", b"newer source")
    store.place("p/e/b", b"newer target")
    store.place("p/d/new", b"not in the intent")
    outcome = await finish(store, intent)
    assert sorted(outcome.kept) == ["p/d/a", "p/d/b"]
    assert [store.body(key) for key in ("p/d/a", "p/d/b", "p/e/b", "p/d/new", "p/e/sub/c")] == [
        b"newer source",
        b"d/b",
        b"newer target",
        b"not in the intent",
        b"d/sub/c",
    ]


@run_virtual
async def test_an_object_made_anew_with_the_same_bytes_is_not_the_source_any_more() -> None:
    for phase in ("moving", "deleting"):
        store = bucket()
        intent = intent_of(store, phase)
        store.place("p/d/a", b"d/a", last_modified_ns=NOW_NS + 5 * 10**9)
        outcome = await finish(store, intent)
        assert (store.body("p/d/a"), outcome.kept) == (b"d/a", ["p/d/a"])


@run_virtual
async def test_a_copy_is_known_by_the_etag_that_was_recorded() -> None:
    store = bucket("refused")
    copy = store.place("p/e/a", b"d/a", etag='"of-parts-1"')
    await finish(store, intent_of(store, a=copy.etag))
    assert store.keys("p/d/") == []
    store = bucket("refused")
    store.place("p/e/a", b"d/a", etag='"of-parts-1"')
    assert (await finish(store, intent_of(store))).kept == ["p/d/a"]
    assert store.keys("p/d/") == ["p/d/a"]


@run_virtual
async def test_once_all_copies_exist_the_sources_go_whatever_became_of_the_copies() -> None:
    store = bucket()
    intent = intent_of(store, "deleting")
    store.place("p/e/a", b"written to since")
    assert await finish(store, intent) == Outcome(deleted=5)
    assert store.keys() == ["p/e/a"]


@run_virtual
async def test_a_move_that_was_given_up_loses_its_copies_only() -> None:
    store = bucket()
    intent = intent_of(store, "undoing")
    store.place("p/e/a", b"d/a")
    store.place("p/e/b", b"d/b", last_modified_ns=NOW_NS + 2 * 10**9)
    store.place("p/e/sub/c", b"d/sub/c")
    store.place("p/d/sub/c", b"newer source")
    await finish(store, intent)
    assert store.keys("p/e/") == ["p/e/b", "p/e/sub/c"], "one is younger, the other may be the only one"
    assert len(store.keys("p/d/")) == 5


@pytest.mark.parametrize("renaming", ["kept", "refused"])
@run_virtual
async def test_whatever_call_of_the_finish_fails_the_next_one_ends_it(renaming: str) -> None:
    for failing in range(100):
        store = bucket(renaming)
        intent = intent_of(store)
        asked = 0

        async def fail(_call: object, failing: int = failing) -> None:
            nonlocal asked
            asked += 1
            if asked == failing + 1:
                raise Unavailable("down", status=503)

        store.after = fail
        try:
            await finish(store, intent)
        except Unavailable:
            for name in ("a", "b", "sub/c"):
                assert {f"p/d/{name}", f"p/e/{name}"} & store.objects.keys()
            await finish(store, intent)
        assert store.keys() == ["p/e/", "p/e/a", "p/e/b", "p/e/sub/", "p/e/sub/c"]
        if asked <= failing:
            assert failing >= 8
            return
    raise AssertionError("it asks too much")


# whose they are, and when


@asynccontextmanager
async def undertakings(store: MemoryStore, owner: str = "mine") -> AsyncIterator[Undertakings]:
    async with trio.open_nursery() as nursery:
        yield Undertakings(store, "p/", nursery, owner=owner, host="here", now_ns=lambda: NOW_NS)
        nursery.cancel_scope.cancel()


@run_virtual
async def test_a_start_finishes_its_own_moves_and_names_those_of_others(caplog: pytest.LogCaptureFixture) -> None:
    store = bucket()
    sources = dict(intent_of(store).sources)
    async with undertakings(store) as killed, undertakings(store, "theirs") as other:
        await killed.begin("p/d/", "p/e/", sources)
        await other.begin("p/x/", "p/y/", sources)
    store.place("p/.s3mount/intents/odd", b"no intent")
    async with undertakings(store) as started:
        (done,) = await started.recover()
        assert (done.former, done.owner) == ("p/d/", "mine")
        (foreign,) = started.foreign
        assert (foreign.former, foreign.target, foreign.host) == ("p/x/", "p/y/", "here")
    assert "cut short elsewhere host='here' from='p/x/' to='p/y/'" in caplog.text
    assert len(store.keys("p/.s3mount/")) == 2
    assert store.keys("p/d/") == []


@run_virtual
async def test_what_a_start_cannot_finish_it_tries_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    store = bucket()
    async with undertakings(store) as killed:
        await killed.begin("p/d/", "p/e/", intent_of(store).sources)
    async with undertakings(store) as started:
        store.fail("rename", AccessDenied("403", status=403), times=2)
        assert await started.recover() == []
        assert len(started.unfinished) == 1
        await trio.sleep(sum(DELAYS_SECONDS))
        assert not started.unfinished
    assert (store.keys("p/d/"), store.keys("p/.s3mount")) == ([], [])


@run_virtual
async def test_an_intent_whose_writing_or_removal_went_wrong_is_removed_later() -> None:
    store = bucket()
    async with undertakings(store) as moving:
        store.fail("put", LostReply("lost"), when="after")
        with pytest.raises(LostReply):
            await moving.begin("p/d/", "p/e/", {})
        store.fail("delete", Unavailable("503", status=503), times=2)
        await trio.sleep(100)
        assert store.keys("p/.s3mount") == []
        intent = await moving.begin("p/d/", "p/e/", {})
        store.fail("delete", Unavailable("503", status=503))
        await moving.end(intent)
        await trio.sleep(100)
    assert store.keys("p/.s3mount") == []


@run_virtual
async def test_a_move_where_another_was_given_up_takes_its_leftovers_for_the_programs() -> None:
    """They have gone on from what they found."""
    store = bucket()
    async with undertakings(store) as moving:
        given_up = await moving.begin("p/d/", "p/e/", {})
        store.place("p/e/a", b"d/a")
        moving.leave(given_up, {"a": source_of(store, "p/d/a")}, "undoing")
        second = await moving.begin("p/e/", "p/f/", {})
        assert not moving.unfinished
        await moving.end(second)
        await trio.sleep(sum(DELAYS_SECONDS))
    assert store.body("p/e/a") == b"d/a"
    assert store.keys("p/.s3mount") == []


# the intents of real moves


class Parts(MemoryStore):
    """Copies have etags of their own, as those of objects that were uploaded by parts."""

    def place_part(self, key: str) -> None:
        self.place(key, key.encode(), etag=f'"{key}-2"')


@run_virtual
async def test_copies_with_etags_of_their_own_are_recorded_while_they_are_made(tmp_path: Path) -> None:
    """A crash leaves no more than those twice that were made since."""
    store = Parts()
    for number in range(200):
        store.place_part(f"d/{number}")
    async with mounted(store, tmp_path) as kernel:
        store.latency_seconds = 0.1
        async with trio.open_nursery() as nursery:

            async def die(_call: Call) -> None:
                if len(store.keys("e/")) >= 190:
                    nursery.cancel_scope.cancel()

            store.before = die
            nursery.start_soon(kernel.rename, "d", "e")
    (key,) = store.keys(".s3mount/intents/")
    intent = decode(key, store.body(key))
    recorded = [name for name, source in intent.sources.items() if source.copy]
    assert len(recorded) >= 128
    made = len(store.keys("e/"))
    store.before = None
    outcome = await finish(store, intent)
    assert len(store.keys("e/")) == 200
    assert len(store.keys("d/")) == len(outcome.kept) == made - len(recorded)


@run_virtual
async def test_a_file_written_while_its_directory_moves_is_in_the_intent_as_it_is_now(tmp_path: Path) -> None:
    store = MemoryStore()
    for name in "abc":
        store.place(f"d/{name}", b"old")
    seen: list[Intent] = []

    async with mounted(store, tmp_path) as kernel:
        await kernel.ino("d/a")

        async def write() -> None:
            await kernel.write("d/a", b"acknowledged")

        writing = once("copy", write, "d/b")

        async def look(call: Call) -> None:
            await writing(call)
            if call.operation == "put" and call.key.startswith(".s3mount/intents/"):
                seen.append(decode(call.key, store.body(call.key)))

        store.after = look
        await kernel.rename("d", "e")
        assert store.body("e/a") == b"acknowledged"
    assert [intent.phase for intent in seen] == ["moving", "moving", "deleting"]
    assert seen[0].sources["a"].size == 3
    assert seen[1].sources["a"].size == seen[2].sources["a"].size == 12
    assert store.keys(".s3mount") == []


@run_virtual
async def test_foreign_intents_and_unfinished_ones_can_be_told(tmp_path: Path) -> None:
    store = bucket("refused")
    async with undertakings(store, "theirs") as other:
        await other.begin("p/x/", "p/y/", {})
    async with mounted(store, tmp_path, prefix="p/") as kernel:
        await kernel.fs.recover()
        (foreign,) = kernel.fs._tree.undertakings.foreign
        assert (foreign.owner, foreign.former) == ("theirs", "p/x/")
        store.undeletable["p/d/a"] = AccessDenied("403", status=403)
        await kernel.rename("d", "e")
        (unfinished,) = kernel.fs._tree.undertakings.unfinished.values()
        assert (unfinished.phase, unfinished.former) == ("deleting", "p/d/")
        store.undeletable.clear()
        await trio.sleep(100)
        assert store.keys("p/d/") == []
        assert not kernel.fs._tree.undertakings.unfinished


@pytest.mark.parametrize("how", ["it is written anew", "it cannot be fetched"])
@run_virtual
async def test_a_foreign_intent_that_cannot_be_read_does_not_keep_a_start_from_finishing_its_own(how: str) -> None:
    """Another daemon at work writes its intent anew between our listing and our look at it."""
    store = bucket()
    foreign = "p/.s3mount/intents/another-1"
    async with undertakings(store) as killed:
        await killed.begin("p/d/", "p/e/", intent_of(store).sources)
    store.place(foreign, encode(intent_of(store)))

    async def rewrite(call: Call) -> None:
        if call.operation == "get" and call.key == foreign:
            if how == "it cannot be fetched":
                raise Unavailable("503", status=503)
            store.place(foreign, encode(intent_of(store, "deleting")) + b"more\n")

    store.before = rewrite
    async with undertakings(store) as started:
        (finished,) = await started.recover()
    assert finished.former == "p/d/"
    assert store.keys("p/e/") == ["p/e/", "p/e/a", "p/e/b", "p/e/sub/", "p/e/sub/c"]
    assert store.keys("p/.s3mount/") == [foreign]


def test_an_instance_keeps_its_word_and_two_have_different_ones(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    word = owner(tmp_path / "a")
    assert owner(tmp_path / "a") == word != owner(tmp_path / "b")
    (tmp_path / "a/owner").write_bytes(b"\xff garbled")
    assert owner(tmp_path / "a") not in (word, "")


@pytest.mark.parametrize("phase", ["moving", "undoing"])
@run_virtual
async def test_a_directory_that_still_has_something_after_a_recovery_is_seen_at_once(
    tmp_path: Path, phase: Phase
) -> None:
    store = bucket()
    async with mounted(store, tmp_path, prefix="p/") as kernel:
        undertakings = kernel.fs._tree.undertakings
        intent = replace(intent_of(store, phase), key=f"p/.s3mount/intents/{undertakings._owner}-1")
        store.place(intent.key, encode(intent))
        store.place("p/d/a", b"changed since")
        await kernel.fs.recover()
        assert "d" in await kernel.listdir()
        assert "a" in await kernel.listdir("d")


@run_virtual
async def test_an_intent_about_keys_outside_of_the_mount_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever may write below the prefix shall not have us move what he may not."""
    store = bucket()
    intent = intent_of(store)
    for number, (former, target) in enumerate([("q/", "p/e/"), ("p/d/", "q/"), ("", "p/e/"), ("p/d", "p/e/")]):
        key = f"p/.s3mount/intents/mine-{number}"
        store.place(key, encode(replace(intent, key=key, former=former, target=target)))
    before = dict(store.objects)
    async with undertakings(store) as started:
        assert await started.recover() == []
    assert store.objects == before
    assert "cannot be read" in caplog.text


@run_virtual
async def test_what_a_walk_has_told_of_a_directory_before_its_recovery_is_not_believed(tmp_path: Path) -> None:
    store = MemoryStore(renaming="kept", clock_ns=lambda: NOW_NS)
    for number in range(6):
        for name in "abc":
            store.place(f"t/d{number}/{name}", b"x")
    async with mounted(store, tmp_path) as kernel:
        owner = kernel.fs._tree.undertakings._owner
        sources = {name: source_of(store, f"t/d5/{name}") for name in "ab"}
        intent = Intent(f".s3mount/intents/{owner}-1", owner, "host", "t/d5/", "t/e/", NOW_NS, sources=sources)
        store.place(intent.key, encode(intent))
        await kernel.listdir("t")
        kernel.drop_caches()
        for number in range(4):
            assert await kernel.listdir(f"t/d{number}") == ["a", "b", "c"]
        assert len(kernel.fs._tree.listings.shelf)
        await kernel.fs.recover()
        kernel.expire()
        assert await kernel.listdir("t/e") == ["a", "b"]
        assert await kernel.listdir("t/d5") == ["c"]


@run_virtual
async def test_how_often_copies_are_recorded_grows_less_than_their_number(tmp_path: Path) -> None:
    """Each record tells of all of them."""
    store = Parts()
    for number in range(4000):
        store.place_part(f"d/{number}")
    async with mounted(store, tmp_path) as kernel:
        await kernel.rename("d", "e")
    records = [call for call in store.calls if call.operation == "put" and call.key.startswith(".s3mount/intents/")]
    assert len(records) <= 42


@run_virtual
async def test_a_move_of_what_has_landed_since_under_another_etag_is_finished() -> None:
    """With --write-back an intent may name versions as an earlier daemon told them."""
    store = bucket()
    written = intent_of(store)
    told = {name: replace(one, etag=f'"s3mount-{name}"', modified_seconds=0) for name, one in written.sources.items()}
    outcome = await finish(store, replace(written, sources=told))
    assert not outcome.kept
    assert store.keys("p/") == ["p/e/", "p/e/a", "p/e/b", "p/e/sub/", "p/e/sub/c"]
