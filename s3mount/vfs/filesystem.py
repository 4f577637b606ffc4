"""The POSIX operations on inodes: what `fuse.py` calls, one method per request.

A façade: each operation checks what it was given and hands over to the file of its concept (lookup, entries, rename,
handles, reading). Raises the classes of `errors`; knows no errno and nothing of pyfuse3. Handlers may run at the same
time: every change of dentries and listings happens in one step with no checkpoint inside, after its request was
answered.
"""

import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from math import inf

import trio

from s3mount.config import Config
from s3mount.data.removals import Removals
from s3mount.data.storage import Storage
from s3mount.errors import IsADirectory, S3MountError
from s3mount.store.base import Buffer, ObjectStore
from s3mount.vfs import entries, inspection
from s3mount.vfs.attributedb import AttributeDb
from s3mount.vfs.attributes import PRIVILEGED, Attributes, Caller, Changes, Fh, StatFs, absent, may
from s3mount.vfs.backlog import Backlog
from s3mount.vfs.changing import Changing
from s3mount.vfs.condition import Condition, condition
from s3mount.vfs.deleting import Failure
from s3mount.vfs.exact import Exact
from s3mount.vfs.failed import Failed
from s3mount.vfs.figures import counts, figures
from s3mount.vfs.flags import pay_flag
from s3mount.vfs.handles import Handles
from s3mount.vfs.inodes import Inode
from s3mount.vfs.journaled import Journaled
from s3mount.vfs.keys import check_key, decode
from s3mount.vfs.links import read_link
from s3mount.vfs.pages import fetch_page
from s3mount.vfs.privileges import kept_mode, lessened, may_be_privileged, mode_after_write
from s3mount.vfs.reading import Readings
from s3mount.vfs.rebuild import Progress
from s3mount.vfs.recall import Recall
from s3mount.vfs.rename import rename
from s3mount.vfs.spans import FIRST_STEP
from s3mount.vfs.special_files import make_node, symlink
from s3mount.vfs.telling import Emit
from s3mount.vfs.tree import Tree
from s3mount.vfs.walking import sweep_later
from s3mount.vfs.xattrs import Xattrs

STATFS = StatFs()


class FileSystem:
    """A bucket, or a prefix of it, as a POSIX file system."""

    def __init__(
        self,
        store: ObjectStore,
        storage: Storage,
        config: Config,
        nursery: trio.Nursery,
        *,
        removals: Removals,
        wall_ns: Callable[[], int] = time.time_ns,
        learnt: AttributeDb | None = None,
        owner: str = "",
        journaled: Journaled | None = None,
    ) -> None:
        self._tree = Tree(store, storage, config, nursery, removals=removals, wall_ns=wall_ns, owner=owner)
        if learnt is not None:
            self._tree.earlier = Recall(self._tree.told, learnt)
        self._tree.journaled = journaled
        self._inodes = self._tree.inodes
        self._handles = Handles(self._tree)
        self._changing = Changing(self._tree, self._handles)
        self._drainers: set[int] = set()
        self.failed = Failed(self._handles.closing, self._tree)
        self._readings = Readings(self._tree)
        self._exact = Exact(self._tree)
        self._xattrs = Xattrs(self._tree, self._changing, self._exact)
        self._tree.on_write = lambda directory: self._tree.background(pay_flag, self._tree, directory)
        # Who loses a lock file in the open looks for the winner's at once: the kernel must ask us then.
        self._negative_seconds = 0.0 if config.exclusive_create == "open" else config.negative_ttl_seconds

    async def start(self) -> None:
        """List the root once: the first look at the mount costs nothing, and a store that refuses is found before."""
        await fetch_page(self._tree, self._inodes.root.contents, FIRST_STEP)
        await self._exact.renew(self._inodes.root)

    async def recover(self) -> None:
        """Finish the renames of directories that an earlier daemon of this instance, told by `owner`, was killed in.
        Raises nothing."""
        for intent in await self._tree.undertakings.recover():
            # Known long ago: what was changed meanwhile is there still, and so is what was given up.
            self._tree.listings.prefix_removed(intent.former, -inf)
            self._tree.listings.shelf.clear()
            for inode in self._inodes:
                if inode.directory is not None:
                    inode.directory.forget_all()

    # names

    async def lookup(self, parent: int, name: bytes) -> Attributes:
        """The attributes of a name, counted as a lookup; ino 0 when there is none. Raises NameTooLong."""
        above = self._inodes.get(parent)
        text = decode(name)
        if text is None:
            return absent(self._negative_seconds)
        check_key(above.contents.prefix + text)
        inode, until = await self._exact.lookup(above, text)
        now = trio.current_time()
        if inode is None:
            return absent(min(max(until - now, 0.0), self._negative_seconds))
        inode.lookups += 1
        return self._tree.show(inode, self._tree.entry_seconds(until, now))

    def forget(self, counts: Sequence[tuple[int, int]]) -> None:
        """The kernel dropped references. Raises nothing."""
        for ino, count in counts:
            self._inodes.forget(ino, count)
        self._inodes.compact()
        sweep_later(self._tree)

    async def create(self, parent: int, name: bytes, mode: int, flags: int, caller: Caller) -> tuple[Fh, Attributes]:
        above, look = self._inodes.get(parent), self._exact.lookup
        fh, inode = await entries.create(self._tree, self._handles, look, above, name, mode, flags, caller)
        if not flags & os.O_EXCL and inode.known is not None:
            await self._opened(inode, fh, flags, caller)  # it was there
        return fh, self._counted(inode)

    async def mknod(self, parent: int, name: bytes, mode: int, caller: Caller, *, rdev: int = 0) -> Attributes:
        """A regular file, or by the type in `mode` a FIFO, a socket or a device."""
        above = self._inodes.get(parent)
        if stat.S_IFMT(mode) in (0, stat.S_IFREG):
            return self._tree.shown(await entries.mknod(self._tree, self._handles, above, name, mode, caller))
        return self._tree.shown(await make_node(self._tree, above, name, mode, rdev, caller))

    async def symlink(self, parent: int, name: bytes, target: bytes, caller: Caller) -> Attributes:
        return self._tree.shown(await symlink(self._tree, self._inodes.get(parent), name, target, caller))

    async def mkdir(self, parent: int, name: bytes, mode: int, caller: Caller) -> Attributes:
        return self._counted(await entries.mkdir(self._tree, self._inodes.get(parent), name, mode, caller))

    async def unlink(self, parent: int, name: bytes, caller: Caller) -> None:
        await entries.unlink(self._tree, self._inodes.get(parent), name, caller)

    async def rmdir(self, parent: int, name: bytes) -> None:
        await entries.rmdir(self._tree, self._inodes.get(parent), name)

    async def rename(
        self, old_parent: int, old_name: bytes, new_parent: int, new_name: bytes, *, no_replace: bool
    ) -> None:
        former, future = self._inodes.get(old_parent), self._inodes.get(new_parent)
        await rename(self._tree, former, old_name, future, new_name, no_replace=no_replace)

    # attributes

    async def getattr(self, ino: int) -> Attributes:
        """Out of memory, for a file's inode is one version; the attributes of a directory may have to be asked for
        again."""
        inode = self._inodes.get(ino)
        await self._exact.renew(inode)
        return self._tree.shown(inode)

    async def readlink(self, ino: int) -> bytes:
        return await read_link(self._tree, self._inodes.get(ino))

    async def setattr(self, ino: int, changes: Changes, fh: int | None, caller: Caller = PRIVILEGED) -> Attributes:
        """Change the size, mode, owner and times."""
        tree = self._tree
        inode = self._inodes.get(ino)
        tree.check_changeable()
        if changes.size is not None:
            if inode.children is not None:
                raise IsADirectory(inode.path)
            await self._handles.truncate(inode, changes.size, fh)
        await self._exact.renew(inode)
        await self._changing.change(inode, lessened(tree.shown(inode), changes, caller), fh)
        return tree.shown(inode)

    def statfs(self) -> StatFs:
        return STATFS

    def access(self, ino: int, mode: int, caller: Caller) -> bool:
        shown = self._tree.shown(self._inodes.get(ino))
        return may(shown.mode, shown.uid, shown.gid, caller, mode)

    # extended attributes, all of them `user.*`

    async def getxattr(self, ino: int, name: bytes) -> bytes:
        return await self._xattrs.get(self._inodes.get(ino), name)

    async def listxattr(self, ino: int) -> list[bytes]:
        return await self._xattrs.names(self._inodes.get(ino))

    async def setxattr(self, ino: int, name: bytes, value: bytes) -> None:
        await self._xattrs.set(self._inodes.get(ino), name, value)

    async def removexattr(self, ino: int, name: bytes) -> None:
        await self._xattrs.remove(self._inodes.get(ino), name)

    # files

    async def open(self, ino: int, flags: int, caller: Caller = PRIVILEGED) -> Fh:
        inode = self._inodes.get(ino)
        fh = await self._handles.open(inode, flags, caller)
        await self._opened(inode, fh, flags, caller)
        return fh

    async def read(self, fh: int, offset: int, size: int) -> Buffer:
        return await self._handles.read(fh, offset, size)

    async def write(self, fh: int, offset: int, data: Buffer) -> int:
        inode = self._handles.get(fh).inode
        count = await self._handles.write(fh, offset, data)
        if may_be_privileged(inode):
            shown = self._tree.shown(inode)
            await self._set_mode(inode, mode_after_write(shown.mode, shown.gid, self._handles.writers(inode)))
        return count

    async def flush(self, fh: int) -> None:
        await self._handles.flush(fh)
        self._changing.report(self._handles.get(fh).inode)

    async def fsync(self, fh: int) -> None:
        inode, _, caller = self._handles.get(fh)
        if caller.pid in self._drainers:
            return  # the kernel has sent what it held before it asked
        await self._handles.fsync(fh)
        await self._changing.settle(inode)
        if inode.linked:  # by the name it has now, whatever it was written under
            await self._tree.store.settle(inode.key)

    async def release(self, fh: int) -> None:
        await self._handles.release(fh)

    # directories

    async def opendir(self, ino: int) -> Fh:
        return self._readings.open(self._inodes.get(ino), self._handles.number())

    async def readdir(self, fh: int, start_id: int, emit: Emit) -> None:
        await self._readings.read(fh, start_id, emit)

    def releasedir(self, fh: int) -> None:
        self._readings.close(fh)

    async def fsyncdir(self, fh: int) -> None:
        """Names are in the bucket, those that were deleted are gone from it: now, if not when the call returned that
        made them so. Raises what kept one from it."""
        directory = self._readings.get(fh).inode.contents
        await self._tree.deleting.settle(directory)
        self._tree.deleting.tell(directory)
        if not directory.removed:
            await self._tree.store.settle_below(directory.prefix)

    # the mount's life

    def refuse_new_writers(self) -> None:
        """From now on opening for writing and creating answer EROFS."""
        self._tree.refuses_writers = True

    def refuse_writes(self) -> None:
        """From now on WRITE answers EIO."""
        self._tree.refuses_writes = True

    @property
    def stopping(self) -> bool:
        return self._tree.refuses_writers

    def last_write_seconds(self) -> float:
        """When the last WRITE came, on trio's clock."""
        return self._tree.last_write_seconds

    def paths_open_for_writing(self) -> list[str]:
        """Relative to the mount's root."""
        return self._handles.paths_open_for_writing()

    def paths_not_stored(self) -> list[str]:
        """What would be lost now; relative to the mount's root."""
        return sorted({*self._handles.paths_not_stored(), *self._changing.paths()})

    @contextmanager
    def drained_by(self, pid: int) -> Iterator[None]:
        """Inside the block an fsync by this process has the kernel hand over what it holds of a file, and stores
        nothing: the files are stored side by side afterwards, and their programs are told by their own calls."""
        self._drainers.add(pid)
        try:
            yield
        finally:
            self._drainers.discard(pid)

    def backlog(self) -> Backlog:
        """All that is to be stored and deleted now, for somebody to wait for."""
        return Backlog(self._tree, self._handles, self._changing)

    async def sync_all(self) -> list[str]:
        """Store every dirty file, and changes of attributes that are held, and delete what is pending; the paths of the
        files that failed."""
        failed = {*await self._handles.sync_all(), *await self._changing.store_all()}
        await self._tree.deleting.settle_below("")
        return sorted(failed)

    async def settle_all(self) -> None:
        """The bucket has all that was acknowledged, but what it refuses, or what is another client's by now: the log
        has told of those."""
        with suppress(S3MountError):
            await self._tree.store.settle_below(self._tree.config.prefix)

    @property
    def journaled(self) -> Journaled | None:
        """What was acknowledged and is not in the bucket yet; None without --write-back."""
        return self._tree.journaled

    @property
    def undeleted(self) -> tuple[Failure, ...]:
        """The latest files that are there again although their unlink had succeeded."""
        return self._tree.deleting.failures

    # for people who ask the daemon

    async def about(self, path: bytes) -> inspection.About:
        """What this mount and the store say of a path. Raises NoEntry."""
        return await inspection.about(self._tree, self._exact.lookup, path)

    async def key_of(self, path: bytes) -> tuple[str, inspection.State]:
        """The key of a stored file. Raises NoEntry, IsADirectory."""
        return await inspection.key_of(self._tree, self._exact.lookup, path)

    async def refresh(self, path: bytes) -> list[inspection.KernelName]:
        """Forget what is known of a path and all below it; the names that the kernel is to forget too."""
        return await inspection.forget(self._tree, path)

    async def rebuild_flags(self, path: bytes, progress: Callable[[Progress], None]) -> Progress:
        """Look at the attributes of all objects below a directory and set its flags right. Raises NotADirectory."""
        return await inspection.rebuild(self._tree, self._exact.lookup, path, progress)

    @property
    def figures(self) -> dict[str, object]:
        """What `s3mount status` shows of names and files."""
        return figures(self._tree, self._changing)

    @property
    def condition(self) -> Condition:
        """What of this mount is not in the bucket, in numbers."""
        return condition(self._tree, self._changing)

    @property
    def counts(self) -> dict[str, int]:
        """Handles, inodes, names in listings and versions remembered."""
        return counts(self._tree, len(self._handles) + len(self._readings))

    @property
    def hidden_count(self) -> int:
        """How many keys were met that cannot be paths, each time a listing met them."""
        return self._tree.hidden_count

    async def _opened(self, inode: Inode, fh: Fh, flags: int, caller: Caller) -> None:
        """Take the privileges of a file that an open has truncated."""
        if not flags & os.O_TRUNC or not may_be_privileged(inode):
            return
        try:
            shown = self._tree.shown(inode)
            await self._set_mode(inode, kept_mode(shown.mode, shown.gid, caller))
        except BaseException:
            self._tree.background(self._handles.release, fh)
            raise

    async def _set_mode(self, inode: Inode, mode: int) -> None:
        if mode != self._tree.shown(inode).mode:
            await self._changing.change(inode, Changes(mode=mode), None)

    def _counted(self, inode: Inode) -> Attributes:
        inode.lookups += 1
        return self._tree.shown(inode)
