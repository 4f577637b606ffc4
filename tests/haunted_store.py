"""A MemoryStore that keeps directories as SeaweedFS does: listed on when their keys are gone, until each is deleted as
a marker would be, from below.

`skeleton` has the directories that were ever made and not deleted. With `ends=False` nothing ends them.
"""

from collections.abc import Sequence

from s3mount.store.base import ALWAYS, Body, Condition, Headers, Page, Stored, Undeleted
from tests.memory_store import NO_HEADERS, MemoryObject, MemoryStore


class HauntedStore(MemoryStore):
    """See the module. It renames, and `ghosts` says what it is unless a test has the mount not know."""

    def __init__(self, *, ends: bool = True) -> None:
        super().__init__(renaming="kept")
        self.ghosts = ends
        self.skeleton: set[str] = set()
        self._ends = ends

    def place(self, key: str, body: bytes = b"", headers: Headers = NO_HEADERS, **others: object) -> MemoryObject:
        self._make(key)
        return super().place(key, body, headers, **others)

    async def put(self, key: str, body: Body, headers: Headers, condition: Condition = ALWAYS) -> Stored:
        stored = await super().put(key, body, headers, condition)
        self._make(key)
        return stored

    async def rename(
        self,
        source: str,
        target: str,
        *,
        source_etag: str,
        source_size: int | None = None,
        condition: Condition = ALWAYS,
    ) -> None:
        await super().rename(source, target, source_etag=source_etag, condition=condition)
        self._make(target)

    async def delete(self, key: str, condition: Condition = ALWAYS) -> None:
        await super().delete(key, condition)
        self._drop(key)

    async def delete_many(self, versions: Sequence[tuple[str, str | None]]) -> tuple[Undeleted, ...]:
        left = await super().delete_many(versions)
        for key in sorted({key for key, _ in versions} - {one.key for one in left}, key=lambda key: -key.count("/")):
            self._drop(key)
        return left

    async def list_page(
        self, prefix: str, *, delimiter: str = "", start_after: str = "", token: str | None = None, max_keys: int = 1000
    ) -> Page:
        page = await super().list_page(
            prefix, delimiter=delimiter, start_after=start_after, token=token, max_keys=max_keys
        )
        if not delimiter:
            return page
        ghosts = {
            prefix + place[len(prefix) :].partition("/")[0] + "/"
            for place in self.skeleton
            if place.startswith(prefix) and place != prefix
        }
        return Page(page.objects, tuple(sorted({*page.prefixes, *ghosts})), page.token, page.date_ns)

    def _make(self, key: str) -> None:
        while "/" in key:
            key = key[: key.rfind("/")]
            self.skeleton.add(key + "/")

    def _drop(self, place: str) -> None:
        """Keeps, and says nothing, what has something in it."""
        below = [*self.objects, *self.skeleton]
        if self._ends and not any(other.startswith(place) and other != place for other in below):
            self.skeleton.discard(place)
