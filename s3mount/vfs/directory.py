"""What this mount knows of one directory's contents: spans of listings, how own changes enter, when to ask for more.

Synchronous; knows neither requests nor inodes. Invariants: the pages of a directory do not overlap and come from walks,
each read in order, so they know both keys of every name in their range; windows were read from the middle and have
`holes`, names they cannot tell of. Everything own that changes a name goes through `note` in the same step as the
dentry, and into the overlay of every request under way, so that an answer that was on its way is corrected when it
arrives.
"""

from bisect import bisect_right, insort
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from s3mount.errors import S3MountError
from s3mount.vfs.keys import BEGIN, END, LOCAL, Entry, just_before, slot
from s3mount.vfs.listings import Listings
from s3mount.vfs.spans import Span

WINDOWS_MAX = 4
HITS_WORTH_A_PAGE = 16
"""A lookup window that answered so many lookups shows that somebody asks for names in order."""


class Raising:
    """A flag that is being put; `error`: what kept it from being there when `over` is set."""

    __slots__ = ("error", "over")

    def __init__(self) -> None:
        self.over = trio.Event()
        self.error: S3MountError | None = None


class Directory:
    """The contents of one directory, as far as they are known, and what decides how to ask for more.

    The state: `pages` (sorted by start) and `windows`, `reading` (spans that handles are in the middle of), overlays of
    requests under way, `local` (names whose files were created here and are not in the bucket yet), `pending` (names
    that are gone here and not from the bucket yet), `marker` (None: not known), `flag`: whether the bucket says that
    attributes here may be special (None: not known), as known at `flag_at`; `nodes`: whether, by a flag that is there,
    entries may be links and nodes; `flag_date_ns`: the Date of the reply that told; `flag_owed`, `nodes_owed`: only we
    know that the flag should be there, or say so; `raising`: it is being put; `opened` handles and since when, misses
    within the running lifetime,
    and the event of a page being fetched for lookups.
    """

    __slots__ = (
        "_overlays",
        "fetching",
        "flag",
        "flag_at",
        "flag_date_ns",
        "flag_owed",
        "listings",
        "local",
        "marker",
        "miss_count",
        "miss_since",
        "nodes",
        "nodes_owed",
        "opened",
        "opened_since",
        "pages",
        "pending",
        "prefix",
        "raising",
        "reading",
        "removed",
        "windows",
    )

    def __init__(self, prefix: str, listings: Listings) -> None:
        self.prefix = prefix
        self.listings = listings
        shelved = listings.shelf.take(prefix)
        self.pages: list[Span] = [] if shelved is None else shelved.spans
        self.windows: list[Span] = []
        self.reading: dict[int, Span] = {}
        self.local: set[str] = set()
        self.pending: set[str] = set()
        self.marker = None if shelved is None else shelved.marker
        self.flag = None if shelved is None else shelved.flag
        self.flag_at = 0.0 if shelved is None else shelved.flag_at
        self.flag_date_ns = 0 if shelved is None else shelved.flag_date_ns
        self.flag_owed = False
        self.raising: Raising | None = None
        self.nodes = True if shelved is None else shelved.nodes
        self.nodes_owed = False
        self.removed = False
        self.opened = 0
        self.opened_since = 0.0
        self.miss_count = 0
        self.miss_since = 0.0
        self.fetching: trio.Event | None = None
        self._overlays: dict[int, dict[str, Entry | None]] = {}

    # what is known

    def until(self, span: Span) -> float:
        """Up to when the span is believed: its lifetime, or a walk's while a handle holds the directory open; longer in
        an outage."""
        ttl = self.listings.ttl_seconds
        until = max(span.fetched + ttl, self.listings.leased_until(span))
        if self.opened and self.opened_since <= span.fetched + ttl:
            until = span.fetched + max(ttl, self.listings.walk_ttl_seconds)
        return self.listings.prolonged(until)

    def unflagged_until(self) -> float:
        """Up to when it is believed that there is no flag: as long as the page that has told it."""
        if self.flag is not False:
            return 0.0
        # It comes early among the names.
        told = self.pages[:1] if self.pages and self.pages[0].fetched == self.flag_at else []
        until = max(self.flag_at + self.listings.ttl_seconds, *map(self.until, told), 0.0)
        return self.listings.prolonged(until)

    def find(self, name: str, now: float) -> tuple[Entry | None, float] | None:
        """The entry (None: there is none) and until when that holds; None when nothing fresh tells of the name."""
        position = slot(name)
        pages = self.pages
        if pages:
            index = bisect_right(pages, position, key=_start) - 1
            # a span does not contain its start
            if index >= 0 and pages[index].start == position:
                index -= 1
            if index >= 0:
                span = pages[index]
                if span.tells_of(name, position):
                    self.listings.touch(span)
                    if (answer := self._answer(span, name, now)) is not None:
                        span.serve(now, self.listings.ttl_seconds)
                        return answer
        for span in self.windows:
            if span.tells_of(name, position) and (answer := self._answer(span, name, now)) is not None:
                span.hits += 1
                return answer
        return None

    def _answer(self, span: Span, name: str, now: float) -> tuple[Entry | None, float] | None:
        entry = span.entries.get(name)
        if entry is not None:
            until = self.until(span)
        else:
            until = self.listings.prolonged(span.fetched + self.listings.negative_ttl_seconds)
        return (entry, until) if until > now else None

    def page_after(self, position: str, started: float, now: float) -> Span | None:
        """The page that continues a reading at `position` which began at `started`, if it is fresh for that reading."""
        index = bisect_right(self.pages, position, key=_start) - 1
        if index < 0:
            return None
        span = self.pages[index]
        if not position < span.stop:
            return None
        ttl = self.listings.ttl_seconds
        too_old = (span.fetched + ttl < started and self.listings.leased_until(span) < started) or (
            now >= span.fetched + max(ttl, self.listings.walk_ttl_seconds)
        )
        if too_old and not self.listings.away():
            return None
        self.listings.touch(span)
        return span

    @property
    def is_whole(self) -> bool:
        """Whether there is an entry of every name that there was, whenever that was told."""
        stop = BEGIN
        for span in self.pages:
            if span.start != stop:
                return False
            stop = span.stop
        return stop == END

    def holds_other(self, name: str, now: float) -> bool | None:
        """Whether there is an entry besides `name`; None when what is fresh does not tell."""
        stop = BEGIN
        for span in self.pages + self.windows:
            if self.until(span) <= now:
                continue
            if len(span.entries) > 1 or (span.entries and name not in span.entries):
                return True
            if span.start == stop and not span.holes:
                stop = span.stop
        return False if stop == END else None

    # how knowledge enters

    def add_page(self, span: Span) -> None:
        """Take over a page of a walk; what it overlaps was older."""
        for old in [old for old in self.pages if old.start < span.stop and span.start < old.stop]:
            self.listings.drop(old)
        insort(self.pages, span, key=_start)
        self.listings.added(self.pages, span)

    def add_window(self, span: Span) -> None:
        if len(self.windows) == WINDOWS_MAX:
            self.listings.drop(self.windows[0])
        self.windows.append(span)
        self.listings.added(self.windows, span)

    def note(self, name: str, entry: Entry | None, *, own: bool = True) -> None:
        """Take over what is known of one name now: an own change, or (own=False) what an answer told."""
        if own:
            self.listings.shelf.changed(self.prefix, name)
            for overlay in self._overlays.values():
                overlay[name] = entry
        position = slot(name)
        grown = 0
        if self.pages:
            first = max(bisect_right(self.pages, name, key=_start) - 1, 0)
            for index in range(first, len(self.pages)):
                span = self.pages[index]
                if span.start >= position:
                    break
                grown += span.take(name, position, entry)
        for span in self.windows:
            grown += span.take(name, position, entry)
        for span in self.reading.values():
            span.take(name, position, entry)  # of a page in `pages` for the second time, which changes nothing
        if grown:
            self.listings.grew(grown)

    def landed(self, name: str) -> None:
        """A pending name is settled: answers under way may have been given before it was."""
        self.pending.discard(name)
        self.listings.shelf.changed(self.prefix, name)
        for overlay in self._overlays.values():
            overlay.setdefault(name, None)

    def doubt(self, name: str) -> None:
        """What is known of the name may be wrong: the next lookup asks for it."""
        position = slot(name)
        for span in self.pages + self.windows:
            if span.start < position <= span.stop:
                span.holes |= {name}

    def distrust(self, name: str) -> None:
        """The name is another client's now, and nothing that is known or on its way tells of it."""
        self.local.discard(name)
        self.listings.shelf.changed(self.prefix, name)
        for overlay in self._overlays.values():
            overlay.pop(name, None)
        self.forget_all()

    @contextmanager
    def overlay(self) -> Iterator[dict[str, Entry | None]]:
        """Own changes from now on, for a request that may have been answered before them."""
        changes: dict[str, Entry | None] = {}
        self._overlays[id(changes)] = changes
        try:
            yield changes
        finally:
            del self._overlays[id(changes)]

    def corrected(self, span: Span, changes: dict[str, Entry | None]) -> Span:
        """The span with what only this mount knows: files that are not in the bucket yet, own changes meanwhile."""
        for name in self.local:
            if span.tells_of(name, slot(name)):
                span.put(name, LOCAL)
        for name, entry in (dict.fromkeys(self.pending) | changes).items():
            span.take(name, slot(name), entry)
        return span

    def forget_all(self) -> None:
        """Drop every span: after something that changed keys wholesale."""
        for span in self.pages + self.windows:
            self.listings.drop(span)

    def leave(self) -> None:
        """The kernel has forgotten the directory: what is known of it is, too, but in an outage, which it might come
        back in."""
        shelf = self.listings.shelf
        if self.pages and self.listings.away() and not (self.removed or self.flag_owed or self.nodes_owed):
            shelf.discard(self.prefix)
            shelved = shelf.at(self.prefix)
            shelved.spans, shelved.marker = self.pages, self.marker
            shelved.flag, shelved.flag_at, shelved.flag_date_ns = self.flag, self.flag_at, self.flag_date_ns
            shelved.nodes = self.nodes
            self.pages = []
        self.forget_all()

    # when to ask for a page

    def count_miss(self, now: float) -> int:
        """How many lookups within one lifetime were not known, this one included."""
        if now - self.miss_since > self.listings.ttl_seconds:
            self.miss_since = now
            self.miss_count = 0
        self.miss_count += 1
        return self.miss_count

    def where_to_list(self, name: str, now: float) -> str | None:
        """After which name a page should begin that tells of `name`; None when asking for the name alone is better.

        The second miss within a lifetime gets a page from just before its name. If that page reached the directory's
        end, and a name before it is asked for, the directory may be small: all of it is listed; so is one that was
        known to fit in a page. Otherwise pages are worth their while only for somebody who asks for names in order.
        """
        misses = self.count_miss(now)
        if misses < 2:
            return None
        if self.pages and self.pages[0].start == BEGIN and self.pages[0].stop == END:
            return BEGIN
        fresh = [window for window in self.windows if self.until(window) > now]
        if misses == 2 or (not fresh and not self.pages):
            return just_before(name)
        if any(window.stop == END for window in fresh):
            return None if any(page.start == BEGIN and self.until(page) > now for page in self.pages) else BEGIN
        if any(window.hits >= HITS_WORTH_A_PAGE and window.stop < slot(name) for window in fresh[-1:]):
            return just_before(name)
        return None


def _start(span: Span) -> str:
    return span.start
