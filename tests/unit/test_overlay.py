"""Listings of the mount: the bucket's pages with what is pending laid over them, whatever lands meanwhile."""

import itertools
from collections.abc import Callable
from typing import Literal

import hypothesis.strategies as st
import trio
from hypothesis import assume, given, settings

from s3mount.store.base import ALWAYS, NO_METADATA, Headers, Listed, Stored
from s3mount.writeback import metas
from s3mount.writeback.metas import Own
from s3mount.writeback.operations import Operation, Place
from s3mount.writeback.overlay import PAGES_MAX, Overlay
from s3mount.writeback.pending import Pending, Seen
from tests.memory_store import Call, MemoryStore

PLAIN = Headers(metadata=NO_METADATA)


class Mount:
    """A bucket, what is pending, and what a listing of both has to tell."""

    def __init__(self, order: Literal["utf8", "tree"], page_max: int = 1000) -> None:
        self.store = MemoryStore(order=order, page_max=page_max)
        self.pending = Pending(
            clock=lambda: 0.0, delay_seconds=0.0, on_free=lambda _places: None, on_over=lambda _seq: None
        )
        self.overlay = Overlay(self.store, self.pending)
        self.truth: dict[str, str] = {}
        self._seq = itertools.count(1)

    def place(self, key: str) -> None:
        self.truth[key] = self.store.place(key, key.encode()).etag

    def put(self, key: str) -> None:
        seq = next(self._seq)
        etag = self.truth[key] = f'"s3mount-{seq}"'
        meta = metas.put_meta(key, headers=PLAIN, condition=ALWAYS, size=1, etag=etag, at_ns=seq, pieces=[Own(0, 1, 0)])
        self.pending.apply(seq, meta, Place(1, seq, 1, 0))

    def delete(self, key: str) -> None:
        if self.truth.pop(key, None) is not None:
            seq = next(self._seq)
            self.pending.apply(seq, metas.delete_meta(key, condition=ALWAYS, at_ns=seq), None)

    def rename(self, source: str, target: str) -> None:
        if source in self.truth and source != target:
            seq = next(self._seq)
            told = self.truth.pop(source)
            etag = self.truth[target] = f'"s3mount-{seq}"'
            seen = self.pending.find(source)
            size = seen.size if isinstance(seen, Seen) else len(source)
            meta = metas.rename_meta(
                source, target, source_etag=told, size=size, condition=ALWAYS, etag=etag, at_ns=seq
            )
            self.pending.apply(seq, meta, None)

    def land(self, count: int = 1) -> None:
        for operation in self.pending.ready(1.0)[:count]:
            self.pending.begin(operation)
            self.pending.landed(operation, self._carried_out(operation))

    def _carried_out(self, operation: Operation) -> Stored | None:
        if operation.kind == "delete":
            self.store.objects.pop(operation.key, None)
            self.store._sorted = None
            return None
        if operation.source is not None:
            self.store.remove(operation.source)
        stored = self.store.place(operation.key, operation.etag.encode())
        return Stored(stored.etag, stored.last_modified_ns)

    async def listing(
        self, prefix: str, delimiter: str, max_keys: int, between: Callable[[], None] = lambda: None
    ) -> list[str | Listed]:
        found: list[str | Listed] = []
        token = None
        while True:
            page = await self.overlay.list_page(prefix, delimiter=delimiter, token=token, max_keys=max_keys)
            assert len(page.objects) + len(page.prefixes) <= max_keys
            found += [*page.objects, *page.prefixes]
            if page.token is None:
                return found
            assert page.objects or page.prefixes
            token = page.token
            between()

    def expected(self, prefix: str, delimiter: str) -> set[str]:
        found = set()
        for key in self.truth:
            if key.startswith(prefix):
                cut = key.find(delimiter, len(prefix)) if delimiter else -1
                found.add(key if cut < 0 else key[: cut + 1])
        return found


def name(entry: str | Listed) -> str:
    return entry if isinstance(entry, str) else entry.key


NAMES = st.sampled_from(["a", "b", "a-", "a b", "a!", "c"])
KEYS = st.lists(NAMES, min_size=1, max_size=3).map("/".join) | st.lists(NAMES, min_size=1, max_size=2).map(
    lambda names: "/".join(names) + "/"
)
CHANGES = st.lists(
    st.tuples(st.sampled_from(["put", "delete", "rename", "land"]), KEYS, KEYS),
    max_size=10,
)


@settings(max_examples=100, derandomize=True)
@given(
    order=st.sampled_from(["utf8", "tree"]),
    placed=st.sets(KEYS, max_size=8),
    changes=CHANGES,
    prefix=st.sampled_from(["", "a/", "a", "a-/", "b/"]),
    delimiter=st.sampled_from(["", "/"]),
    page_max=st.integers(1, 4),
    max_keys=st.integers(1, 4),
    lands=st.lists(st.integers(0, 2), max_size=20),
    within=st.lists(st.integers(0, 2), max_size=20),
)
def test_a_key_is_listed_once_whatever_lands_between_the_pages_and_within_one(
    order: Literal["utf8", "tree"],
    placed: set[str],
    changes: list[tuple[str, str, str]],
    prefix: str,
    delimiter: str,
    page_max: int,
    max_keys: int,
    lands: list[int],
    within: list[int],
) -> None:
    mount = Mount(order, page_max)
    keys = {*placed, *(key for change in changes for key in change[1:])}
    assume(order == "utf8" or not any(key + "/" == other[: len(key) + 1] for key in keys for other in keys))
    for key in sorted(placed):
        mount.place(key)
    for what, key, other in changes:
        if what == "put":
            mount.put(key)
        elif what == "delete":
            mount.delete(key)
        elif what == "rename":
            mount.rename(key, other)
        else:
            mount.land()
    between, inside = iter(lands), iter(within)

    async def replying(_call: Call) -> None:
        mount.land(next(inside, 0))

    mount.store.after = replying
    found = trio.run(mount.listing, prefix, delimiter, max_keys, lambda: mount.land(next(between, 0)))
    names = [name(entry) for entry in found]
    assert len(names) == len(set(names))
    assert set(names) == mount.expected(prefix, delimiter)
    for entry in found:
        if isinstance(entry, Listed):
            assert entry.etag == mount.truth[entry.key]


def listed(mount: Mount, prefix: str, max_keys: int = 1000) -> list[str]:
    return [name(entry) for entry in trio.run(mount.listing, prefix, "/", max_keys)]


def test_a_directory_of_which_everything_goes_is_hidden_and_asked_for_only_then() -> None:
    mount = Mount("utf8")
    for key in ("a/", "a/x", "b/x", "c"):
        mount.place(key)
    mount.delete("a/")
    assert listed(mount, "") == ["c", "a/", "b/"]
    assert mount.store.counts["list"] == 2
    mount.delete("a/x")
    assert listed(mount, "") == ["c", "b/"]
    assert mount.store.counts["list"] == 4
    mount.put("a/y")
    assert listed(mount, "") == ["c", "a/", "b/"]
    assert mount.store.counts["list"] == 5


def test_what_waits_in_an_empty_bucket_is_listed_page_by_page_for_one_request() -> None:
    mount = Mount("utf8")
    for number in range(25):
        mount.put(f"d/{number:02}")
    assert listed(mount, "d/", 10) == [f"d/{number:02}" for number in range(25)]
    assert mount.store.counts["list"] == 1


def test_of_many_listings_that_were_left_within_a_page_few_keep_it_and_all_go_on() -> None:
    mount = Mount("utf8")
    for number in range(30):
        mount.place(f"{number:02}")
    mount.put("15+")

    async def go_on() -> None:
        tokens = [(await mount.overlay.list_page("", max_keys=10)).token for _ in range(50)]
        assert sum(cursor.page is not None for cursor in mount.overlay._cursors.values()) == PAGES_MAX
        for token in tokens:
            page = await mount.overlay.list_page("", token=token)
            assert [entry.key for entry in page.objects] == sorted(mount.truth)[10:]

    trio.run(go_on)
