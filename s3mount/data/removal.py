"""Deletion of many versions, each on condition of its etag, in an order that others may see.

What speaks of its neighbours goes after them: objects of a reserved name (a flag says that a directory has special
attributes), and markers. A store that lists prefixes whose keys are gone is told that they are gone, too.
"""

import logging
from collections.abc import Iterable, Sequence

from s3mount.config import RESERVED
from s3mount.store.base import ObjectStore, Undeleted

log = logging.getLogger(__name__)


def speaks_of_others(key: str) -> bool:
    """Whether the object tells something of its neighbours: it is there before them and goes after them."""
    return key.endswith("/") or key[key.rfind("/") + 1 :].startswith(RESERVED)


async def remove(store: ObjectStore, versions: Sequence[tuple[str, str]]) -> list[Undeleted]:
    """Delete these keys with these etags; what was not. PreconditionFailed there: it is another version by now."""
    left: list[Undeleted] = []
    for late in (False, True):
        wanted = [version for version in versions if speaks_of_others(version[0]) is late]
        if wanted:
            left += await store.delete_many(wanted)
    return left


async def remove_ghosts(store: ObjectStore, keys: Iterable[str], top: str, *, but: Iterable[str] = ()) -> None:
    """The keys, all below `top`, are gone: where the store goes on listing their directories, delete those, but for
    some. One that has keys stays nevertheless (measured: SeaweedFS). A failure leaves them listed and is no failure of
    the whole: an empty directory is shown until someone removes it."""
    if not store.ghosts:
        return
    directories = {top}
    for key in keys:
        end = key.rfind("/") + 1
        while end > len(top) and key[:end] not in directories:
            directories.add(key[:end])
            end = key.rfind("/", 0, end - 1) + 1
    left = await store.delete_many([(directory, None) for directory in sorted(directories.difference(but))])
    if left:
        log.info("directories without keys are listed on prefix=%r count=%d reason=%s", top, len(left), left[0].error)
