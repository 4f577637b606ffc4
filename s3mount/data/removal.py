"""Deletion of many versions, each on condition of its etag, in an order that others may see.

What speaks of its neighbours goes after them: objects of a reserved name (a flag says that a directory has special
attributes), and markers.
"""

from collections.abc import Sequence

from s3mount.config import RESERVED
from s3mount.store.base import ObjectStore, Undeleted


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
