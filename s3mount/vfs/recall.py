"""What earlier mounts of this host have learnt of attributes: out of the local database before anybody asks the store.

A listing of a directory in which something may be special is followed by one look into the database for the versions of
that page; what is found there is as good as the answer to a HEAD. What HEADs and GETs tell of such directories is
noted. Of others it is not: their listing alone is exact, and every file that is read would be written down.
"""

from collections.abc import Iterable

import trio

from s3mount.store.base import Listed, ObjectInfo
from s3mount.vfs.attributedb import AttributeDb, directory_of
from s3mount.vfs.attributes import Special, whole_seconds
from s3mount.vfs.told import Told


class Recall:
    """See the module. Stateless."""

    def __init__(self, told: Told, db: AttributeDb) -> None:
        self._told = told
        self._db = db

    async def page(self, prefix: str, listed: Iterable[Listed]) -> None:
        """Recall what is known of those of these objects that are directly below a prefix. Raises nothing."""
        now = trio.current_time()
        wanted = [one for one in listed if self._told.find(one, now) is None and directory_of(one.key) == prefix]
        if not wanted:
            return
        names = sorted((one.key[len(prefix) :] for one in wanted), key=str.encode)
        known = await self._db.load(prefix, names[0], names[-1])
        for one in wanted:
            found = known.get(one.key)
            if found is not None and found[:2] == (one.etag, whole_seconds(one.last_modified_ns)):
                self._told.recall(one, found.special)

    def note(self, info: ObjectInfo, special: Special) -> None:
        """A reply told this of a version that was not known."""
        self._db.note(info.key, info.etag, info.last_modified_ns, info.date_ns, special)
