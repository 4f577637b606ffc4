"""Listings of the mount: pages of the bucket with what is pending, and what ended since a page was fetched, laid over.

Every key that exists all the time is listed exactly once, also when its operation lands between two pages. What is
pending is told with the page of the bucket that ends behind it, in whose order is the question: a store lists by the
UTF-8 of keys or in the order of a tree, where a directory comes before whatever its name is the beginning of. As long
as no page has shown which, a key is told as soon as one of the orders says so, and remembered until both have.
"""

from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

from s3mount.errors import BadReply
from s3mount.store.base import Listed, ObjectStore, Page
from s3mount.writeback.aliases import LANDED_MAX, Gone
from s3mount.writeback.pending import Pending

CURSORS_MAX = 1000
"""Listings that may be under way; the token of one that was forgotten is refused."""
PAGES_MAX = 16
"""Of those, so many keep the page of the bucket that they are within: what came before is asked for once more."""
PAGE_MAX = 1000
_TOKEN = "s3mount-page-"
_BEHIND = "\U0010ffff"

KeyOrder = Literal["utf8", "tree"]
Entry = Listed | None
"""Of a listing with a delimiter: an object, or None for a common prefix."""


@dataclass(frozen=True, slots=True)
class _Bound:
    """How far the bucket was listed, should it be in the one order or in the other. None: nothing, or everything."""

    utf8: str
    tree: str

    def passed(self, entry: str, order: KeyOrder | None) -> bool:
        """Whether it is told by then: with no order known, as soon as one of them says so."""
        if order == "utf8":
            return entry <= self.utf8
        if order == "tree":
            return _ranked(entry) <= self.tree
        return entry <= self.utf8 or _ranked(entry) <= self.tree

    def passed_surely(self, entry: str) -> bool:
        return entry <= self.utf8 and _ranked(entry) <= self.tree


@dataclass(slots=True)
class _Cursor:
    """A listing that stands between two pages, or within one of the bucket's."""

    prefix: str
    delimiter: str
    start_after: str
    token: str | None = None
    """Of the bucket's page that is looked at."""
    low: _Bound | None = None
    """Where the bucket's page begins."""
    page: Page | None = None
    number: int = 0
    """How many operations had ended when it was asked for."""
    order: KeyOrder | None = None
    """As it was known by then."""
    shown: str | None = None
    """The last entry of that page that was told."""
    told: frozenset[str] = frozenset()
    """What was told before the bucket did, and may come yet."""
    alive: dict[str, bool] = field(default_factory=dict)
    """Prefixes below which something goes: whether something stays."""


class Overlay:
    """Lists `real` with what is pending."""

    def __init__(self, real: ObjectStore, pending: Pending) -> None:
        self._real = real
        self._pending = pending
        # The mutable state: listings under way by token, the latest used last; those that keep a page, the latest last;
        # the order that the store was seen to list in.
        self._cursors: OrderedDict[str, _Cursor] = OrderedDict()
        self._within: deque[_Cursor] = deque()
        self._order: KeyOrder | None = None
        self._serial = 0

    async def list_page(
        self, prefix: str, *, delimiter: str = "", start_after: str = "", token: str | None = None, max_keys: int = 1000
    ) -> Page:
        """As `ObjectStore.list_page`; no page is empty but the last."""
        if token is None:
            cursor = _Cursor(prefix, delimiter, start_after)
        elif token in self._cursors:
            cursor = self._cursors[token]
            self._cursors.move_to_end(token)
            cursor = replace(cursor, alive=dict(cursor.alive))
        else:
            raise BadReply(f"the listing of {prefix!r} was forgotten before its end")
        limit = max(1, min(max_keys, PAGE_MAX))
        while True:
            page = await self._fetched(cursor, limit)
            await self._settle_prefixes(cursor, page)
            entries = self._merged(cursor, page)
            rank = _ranked if cursor.order == "tree" else str
            names = sorted(entries, key=rank)
            if cursor.shown is not None:
                shown = rank(cursor.shown)
                names = [name for name in names if rank(name) > shown]
            told, more = names[:limit], len(names) > limit
            if more:
                cursor.shown = told[-1]
            elif page.token is not None:
                self._step(cursor, page, entries)
            if told or page.token is None:
                following = self._remember(cursor) if more or page.token is not None else None
                return Page(
                    tuple(entry for name in told if (entry := entries[name]) is not None),
                    tuple(name for name in told if entries[name] is None),
                    following,
                    page.date_ns,
                )

    async def _fetched(self, cursor: _Cursor, limit: int) -> Page:
        if cursor.page is None or self._pending.ended - cursor.number > LANDED_MAX:
            cursor.number = self._pending.ended
            cursor.page = await self._real.list_page(
                cursor.prefix,
                delimiter=cursor.delimiter,
                start_after=cursor.start_after if cursor.token is None else "",
                token=cursor.token,
                # Of a page that is laid over little may be left.
                max_keys=limit if next(self._pending.listed(cursor.prefix), None) is None else PAGE_MAX,
            )
            self._learn(cursor, cursor.page)
            if cursor.shown is None:
                cursor.order = self._order
            cursor.alive = {}
        return cursor.page

    def _learn(self, cursor: _Cursor, page: Page) -> None:
        if self._order is not None:
            return
        low, entries = cursor.low, _entries(page)
        if low is not None and any(entry <= low.utf8 for entry in entries):
            self._order = "tree"
        elif low is not None and any(_ranked(entry) <= low.tree for entry in entries):
            self._order = "utf8"

    async def _settle_prefixes(self, cursor: _Cursor, page: Page) -> None:
        """Ask what stays below those prefixes of the page below which all that is known goes."""
        while True:
            doubtful = [
                prefix for prefix in page.prefixes if prefix not in cursor.alive and self._doubted(prefix, cursor)
            ]
            if not doubtful:
                return
            for prefix in doubtful:
                cursor.alive[prefix] = await self._stays(prefix)

    def _doubted(self, prefix: str, cursor: _Cursor) -> bool:
        gone = False
        for key, left in self._pending.since(cursor.number).items():
            if key.startswith(prefix) and self._pending.find(key) is None:
                if isinstance(left, Listed):
                    return False
                gone = True
        for _, seen in self._pending.listed(prefix):
            if isinstance(seen, Listed):
                return False
            gone = True
        return gone

    async def _stays(self, prefix: str) -> bool:
        token: str | None = None
        number = self._pending.ended
        while True:
            page = await self._real.list_page(prefix, token=token)
            ended = self._pending.since(number)
            for entry in page.objects:
                seen = self._pending.find(entry.key) or ended.get(entry.key)
                if not isinstance(seen, Gone):
                    return True
            if page.token is None:
                return False
            token = page.token

    def _merged(self, cursor: _Cursor, page: Page) -> dict[str, Entry]:
        pending = self._pending
        entries: dict[str, Entry] = {}
        for prefix in page.prefixes:
            if cursor.alive.get(prefix, True) and prefix not in cursor.told:
                entries[prefix] = None
        for key, size, etag, modified_ns in page.objects:
            if key not in cursor.told:
                etag, modified_ns = pending.told(key, etag, modified_ns)
                entries[key] = Listed(key, size, etag, modified_ns)
        ended = pending.since(cursor.number)
        for key, left in ended.items():
            self._lay(cursor, page, entries, key, left)
        high = _bound(page, cursor.low) if page.token is not None else None
        for key, seen in self._candidates(cursor, high):
            self._lay(cursor, page, entries, key, seen)
        return entries

    def _lay(self, cursor: _Cursor, page: Page, entries: dict[str, Entry], key: str, seen: Listed | Gone) -> None:
        if not key.startswith(cursor.prefix):
            return
        entry, grouped = _entry(cursor, key)
        if isinstance(seen, Gone):
            if not grouped:
                entries.pop(entry, None)
            return
        if entry not in entries and (entry in cursor.told or not self._in_range(cursor, page, key, entry)):
            return
        entries[entry] = None if grouped else seen

    def _in_range(self, cursor: _Cursor, page: Page, key: str, entry: str) -> bool:
        """Whether it is to be told with this page of the bucket although the bucket does not."""
        if cursor.low is not None:
            if cursor.low.passed(entry, cursor.order):
                return False
        elif entry == cursor.start_after or not _after(key, cursor.start_after, cursor.order):
            return False
        return page.token is None or _bound(page, cursor.low).passed(entry, cursor.order)

    def _candidates(self, cursor: _Cursor, high: _Bound | None) -> Iterator[tuple[str, Listed | Gone]]:
        """What is pending of what the page lists, what may be in its range, and maybe more; of a group whose key is
        told, not all."""
        if cursor.order == "tree":
            yield from self._pending.listed(cursor.prefix)
            return
        low = cursor.start_after if cursor.low is None else cursor.low.utf8
        low = max(low, cursor.shown or "")
        yield from self._ascending(cursor, cursor.prefix, low, None if high is None else high.utf8)
        if cursor.order is None and high is not None:
            for at in range(len(cursor.prefix), len(high.tree)):
                if "\0" < high.tree[at] < "/":
                    # Below this directory the tree is through already, although in UTF-8 it comes later.
                    yield from self._ascending(cursor, high.tree[:at].replace("\0", "/") + "/", "", None)

    def _ascending(
        self, cursor: _Cursor, stem: str, after: str, last: str | None
    ) -> Iterator[tuple[str, Listed | Gone]]:
        """What is pending below `stem` and above `after`, up to the entry `last`."""
        again = True
        while again:
            again = False
            for key, seen in self._pending.listed(stem, after):
                entry, grouped = _entry(cursor, key)
                if last is not None and entry > last:
                    return
                yield key, seen
                if grouped and isinstance(seen, Listed):
                    after, again = entry + _BEHIND, True
                    break

    def _step(self, cursor: _Cursor, page: Page, entries: dict[str, Entry]) -> None:
        """On to the bucket's next page."""
        high = _bound(page, cursor.low)
        real = {*page.prefixes, *(entry.key for entry in page.objects)}
        told = (cursor.told | {name for name in entries if name not in real}) if cursor.order is None else cursor.told
        cursor.told = frozenset(name for name in told if not high.passed_surely(name))
        cursor.low, cursor.token = high, page.token
        cursor.page, cursor.shown = None, None

    def _remember(self, cursor: _Cursor) -> str:
        self._serial += 1
        token = f"{_TOKEN}{self._serial}"
        self._cursors[token] = cursor
        if cursor.page is not None:
            self._within.append(cursor)
            if len(self._within) > PAGES_MAX:
                self._within.popleft().page = None
        if len(self._cursors) > CURSORS_MAX:
            self._cursors.popitem(last=False)
        return token


def _entry(cursor: _Cursor, key: str) -> tuple[str, bool]:
    """What a listing tells of a key: itself, or the common prefix that it is in; which of them."""
    cut = key.find(cursor.delimiter, len(cursor.prefix)) if cursor.delimiter else -1
    return (key, False) if cut < 0 else (key[: cut + len(cursor.delimiter)], True)


def _ranked(key: str) -> str:
    """What sorts as the key does in a tree, where names are sorted and the slash is below all of them."""
    return key.replace("/", "\0")


def _after(key: str, start: str, order: KeyOrder | None) -> bool:
    return _ranked(key) > _ranked(start) if order == "tree" else key > start


def _bound(page: Page, low: _Bound | None) -> _Bound:
    entries = _entries(page)
    utf8, tree = max(entries, default=""), max(map(_ranked, entries), default="")
    return _Bound(utf8, tree) if low is None else _Bound(max(utf8, low.utf8), max(tree, low.tree))


def _entries(page: Page) -> list[str]:
    return [*page.prefixes, *(entry.key for entry in page.objects)]
