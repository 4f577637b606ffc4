"""The end of a directory's move that was cut short, or the removal of copies where it was given up; by its intent
alone.

Each step is conditional on what the intent has recorded. A source that has changed since is not touched, nor a target
that is not known to be the source's copy: then both stay, and the log names them. Every object is at one of its two
keys at least, whatever fails in here, and what fails is raised: the next try goes on from what is there. Knows neither
who owns an intent nor where it is kept.
"""

import logging
from dataclasses import dataclass, field
from math import inf

from s3mount.data.intents import Intent, seconds_of
from s3mount.data.parallel import each
from s3mount.data.removal import remove, remove_ghosts, speaks_of_others
from s3mount.errors import NotFound, NotImplementedByStore, PreconditionFailed, TooMany
from s3mount.store.base import ABSENT, Headers, Listed, ObjectStore

log = logging.getLogger(__name__)

REQUESTS_MAX = 16
MARKER = Headers(content_type="application/x-directory")


@dataclass(slots=True)
class Outcome:
    """What was done, and the keys that have two versions or a newer one now."""

    moved: int = 0
    deleted: int = 0
    kept: list[str] = field(default_factory=list)


async def finish(store: ObjectStore, intent: Intent) -> Outcome:
    """Do what is left of it. Raises StoreError."""
    outcome = Outcome()
    former = await _by_key(store, intent.former)
    if intent.phase == "deleting":
        stale = []
        for name, source in intent.sources.items():
            found = former.get(intent.former + name)
            if found is not None and source.still(found):
                stale.append((found.key, found.etag))
            elif found is not None:
                outcome.kept.append(found.key)
        await _delete(store, stale, outcome)
        await _leave(store, intent, former, outcome)
        return outcome
    target = await _by_key(store, intent.target)
    if intent.phase == "moving":
        await _bring(store, intent, former, target, outcome)
        await _leave(store, intent, former, outcome)
    else:
        await _take_back(store, intent, former, target, outcome)
    return outcome


async def _leave(store: ObjectStore, intent: Intent, former: dict[str, Listed], outcome: Outcome) -> None:
    """The directories have no keys any more, but for those that others have put there."""
    keys = {intent.former + name for name in intent.sources}
    await remove_ghosts(store, keys, intent.former, but={*former.keys() - keys, *outcome.kept})


async def _bring(
    store: ObjectStore, intent: Intent, former: dict[str, Listed], target: dict[str, Listed], outcome: Outcome
) -> None:
    moves: list[tuple[Listed, str]] = []
    stale: list[tuple[str, str]] = []
    for name, source in intent.sources.items():
        here, there = former.get(intent.former + name), target.get(intent.target + name)
        if here is None:
            continue
        if not source.still(here):
            outcome.kept.append(here.key)
        elif there is None:
            moves.append((here, intent.target + name))
        elif source.is_copied(there) or there.key.endswith("/"):
            stale.append((here.key, here.etag))
        else:
            outcome.kept.append(here.key)
    await _move(store, moves, outcome)
    await _delete(store, stale, outcome)


async def _take_back(
    store: ObjectStore, intent: Intent, former: dict[str, Listed], target: dict[str, Listed], outcome: Outcome
) -> None:
    """Delete copies whose source is what it was. Nothing is moved back: programs have gone on from where it is."""
    stale: list[tuple[str, str]] = []
    for name, source in intent.sources.items():
        here, there = former.get(intent.former + name), target.get(intent.target + name)
        if here is None or there is None or not source.still(here):
            continue
        if source.is_copied(there) and seconds_of(there) <= intent.until_ns // 10**9:
            stale.append((there.key, there.etag))
    await _delete(store, stale, outcome)


async def _move(store: ObjectStore, moves: list[tuple[Listed, str]], outcome: Outcome) -> None:
    # What speaks of others is copied first and deleted last; from the top, as SeaweedFS loses a marker that is written
    # while it makes the directory for a key below.
    late: list[tuple[str, str]] = []
    for listed, key in sorted(moves, key=lambda move: move[1]):
        if speaks_of_others(key) and await _copy(store, listed, key, outcome):
            late.append((listed.key, listed.etag))

    async def move(one: tuple[Listed, str]) -> None:
        if not speaks_of_others(one[1]):
            await _move_one(store, *one, outcome)

    await each(moves, move, at_once=REQUESTS_MAX)
    await _delete(store, late, outcome)


async def _copy(store: ObjectStore, listed: Listed, key: str, outcome: Outcome) -> bool:
    try:
        if key.endswith("/") and not listed.size:
            await store.put(key, (), MARKER)
        else:
            await store.copy(listed.key, key, source_etag=listed.etag, source_size=listed.size, condition=ABSENT)
    except (NotFound, PreconditionFailed):
        outcome.kept.append(listed.key)  # another client was faster
        return False
    return True


async def _move_one(store: ObjectStore, listed: Listed, key: str, outcome: Outcome) -> None:
    if store.renames:
        try:
            await store.rename(listed.key, key, source_etag=listed.etag, source_size=listed.size, condition=ABSENT)
        except NotImplementedByStore:
            pass  # copied, from now on
        except (NotFound, PreconditionFailed):
            outcome.kept.append(listed.key)
            return
        else:
            outcome.moved += 1
            return
    if await _copy(store, listed, key, outcome):
        await _delete(store, [(listed.key, listed.etag)], outcome)
        outcome.moved += 1


async def _delete(store: ObjectStore, versions: list[tuple[str, str]], outcome: Outcome) -> None:
    left = await remove(store, versions)
    outcome.deleted += len(versions) - len(left)
    outcome.kept += [one.key for one in left if isinstance(one.error, NotFound | PreconditionFailed)]
    for one in left:
        if one.key not in outcome.kept:
            raise one.error


async def list_all(store: ObjectStore, prefix: str, *, objects_max: float = inf) -> list[Listed]:
    """All objects below a prefix. Raises TooMany."""
    found: list[Listed] = []
    token: str | None = None
    while True:
        page = await store.list_page(prefix, token=token)
        found.extend(page.objects)
        token = page.token
        if len(found) > objects_max:
            raise TooMany(f"more than {objects_max} objects below {prefix!r}: raise --rename-limit")
        if token is None:
            return found


async def _by_key(store: ObjectStore, prefix: str) -> dict[str, Listed]:
    return {listed.key: listed for listed in await list_all(store, prefix)}
