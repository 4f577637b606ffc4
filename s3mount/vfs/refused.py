"""One change of --write-back that the bucket refuses, as people handle it: looked at, tried again, read, given up.

A face of what `Journaled.spool` keeps, made for one question; its only state is what became of it since. What is given
up is forgotten here, too: the name is whatever the bucket has, and the next to need it asks.
"""

from s3mount.errors import Busy, NoEntry, S3MountError, Stale
from s3mount.vfs.inodes import Inode
from s3mount.vfs.journaled import Journaled, Parked
from s3mount.vfs.kept import Outcome
from s3mount.vfs.tree import Tree
from s3mount.writeback.operations import Operation

NUMBERS_FROM = 1 << 40
"""Numbers of files that wait in memory are below."""


class Refused:
    """See the module."""

    next_at = None
    """Nothing but a person has it tried again."""

    def __init__(self, tree: Tree, journaled: Journaled, parked: Parked, operation: Operation | None) -> None:
        self._tree = tree
        self._journaled = journaled
        self._parked = parked
        self.outcome: Outcome | None = None
        self.error = parked.error
        self.change = "directory" if parked.kind == "put" and parked.key.endswith("/") else parked.kind
        self._source = None if operation is None else operation.source

    def __repr__(self) -> str:
        return f"<Refused {self.change} {self.path!r}, {self.outcome or 'waiting'}>"

    @property
    def number(self) -> int:
        return NUMBERS_FROM + self._parked.number

    @property
    def path(self) -> str:
        return self._journaled.path(self._parked.key)

    @property
    def size(self) -> int:
        return self._parked.size

    @property
    def staged_bytes(self) -> int:
        return self._parked.size

    @property
    def since_ns(self) -> int:
        return self._parked.since_ns

    @property
    def changed_ns(self) -> int:
        """What a record brings does not change."""
        return self._parked.since_ns

    @property
    def tries(self) -> int:
        return 1

    async def retry(self) -> None:
        """Send it again, and return when the bucket has it or has refused it once more."""
        try:
            await self._journaled.spool.retry(self._parked.number)
        except NoEntry as error:
            self.outcome, self.error = "gone", error
            return
        try:
            await self._tree.store.settle(self._parked.key)
        except Stale as error:
            self.outcome, self.error = "conflict", error
        except S3MountError as error:
            self.error = error
        else:
            self.outcome = "stored"

    async def drop(self) -> None:
        """Give it up. Raises Busy when a program has the file open."""
        keys = [key for key in (self._parked.key, self._source) if key is not None]
        for key in keys:
            parent, name = self._place(key)
            child = None if parent is None else parent.dentries.get(name)
            if child is not None and child.state is not None and child.state.handles:
                raise Busy(f"{child.path} is open: its program may store it yet")
        await self._journaled.spool.drop(self._parked.number)
        self.outcome = "dropped"
        for key in keys:
            self._forget(key)

    async def read(self, offset: int, size: int) -> bytes:
        return await self._journaled.spool.read(self._parked.number, offset, size)

    def _forget(self, key: str) -> None:
        parent, name = self._place(key)
        if parent is None:
            return
        self._tree.distrust(parent, name)
        parent.contents.flag = None  # it may have been the flag, or what it was put for
        child = parent.dentries.get(name)
        if child is not None and child.children is None:
            self._tree.inodes.detach(child)

    def _place(self, key: str) -> tuple[Inode | None, str]:
        """The directory above, if anybody knows it, and the name in there."""
        above, _, name = key.rstrip("/").rpartition("/")
        prefix = f"{above}/" if above else ""
        root = self._tree.inodes.root
        if prefix == root.contents.prefix:
            return root, name
        return (self._tree.inodes.directory_at(prefix) if prefix.startswith(root.contents.prefix) else None), name


def refused(tree: Tree) -> list[Refused]:
    """All of them, the oldest first; without --write-back there are none."""
    journaled = tree.journaled
    if journaled is None:
        return []
    parked_ones = journaled.spool.parked
    operations = {operation.seq: operation for operation in journaled.waiting.operations} if parked_ones else {}
    return [Refused(tree, journaled, parked, operations.get(parked.number)) for parked in parked_ones]
