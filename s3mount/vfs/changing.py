"""SETATTR: which change is worth a request, and when what is worth one is stored.

A dirty or new file, and one that is being uploaded, brings its changes along. Those of a clean one are acknowledged,
held for company, and stored by one copy of the object onto itself, by its File, so that no upload, rename or unlink
runs meanwhile. The first change in a directory is stored before it is answered: a missing permission is reported
then. A later failure is undone here, logged, and answered by the next fsync, flush or change of that file. A
directory's changes are stored at once.

The state: the inodes whose changes are held, each with a task that waits; those whose held changes are being stored;
the prefixes in which a change was stored; the latest failures of what had been answered, for `status`.
"""

import logging
import stat
from collections import OrderedDict, deque
from typing import Any

import trio

from s3mount.data.describe import describe
from s3mount.data.file import File
from s3mount.data.version import Changed, Version
from s3mount.errors import Busy, S3MountError, Stale, again
from s3mount.store.acknowledged import acknowledge
from s3mount.store.base import Headers, Listed
from s3mount.vfs.attributes import SECOND_NS, Attributes, Changes
from s3mount.vfs.carrying import (
    UNDATED,
    Fields,
    carry,
    dated,
    described,
    describes,
    headers_with,
    known_headers,
    show,
    undo,
)
from s3mount.vfs.deleting import Failure
from s3mount.vfs.directory_attributes import describe_directory, look_at_directory
from s3mount.vfs.handles import Handles
from s3mount.vfs.inodes import Inode, is_version
from s3mount.vfs.keys import escaped
from s3mount.vfs.lookup import resolve
from s3mount.vfs.tree import Tree

log = logging.getLogger(__name__)

HOLD_SECONDS = 1.0
HELD_MAX = 10_000
"""More than these are stored before they are answered."""
STORES_MAX = 16
TRIES_MAX = 4
"""How many versions of others a change is laid over."""
PREFIXES_MAX = 10_000
SHOWN_MAX = 100
NOTHING = Headers()


class Changing:
    """The changes of attributes of one mount."""

    def __init__(self, tree: Tree, handles: Handles) -> None:
        self._tree = tree
        self._handles = handles
        self._held: dict[int, Inode] = {}
        self._storing: dict[Inode, trio.Event] = {}
        self._proven: OrderedDict[str, None] = OrderedDict()
        self._limit = trio.Semaphore(STORES_MAX)
        self.failures: deque[Failure] = deque(maxlen=SHOWN_MAX)

    async def change(self, inode: Inode, changes: Changes, fh: int | None) -> None:
        """SETATTR but for the size. Raises what kept an earlier change of this file from being stored."""
        self.report(inode)
        tree, state = self._tree, inode.own
        if inode.special is None or (inode.children is None and not self._is_known(inode)):
            await self._look(inode)
        fields = changed_fields(tree.shown(inode), changes, tree.wall_ns(), by_kernel=fh is not None)
        await self.store_special(inode, fields)
        if inode.children is None or fields or changes.mtime_ns is not None:
            state.ctime_ns = tree.wall_ns() if changes.ctime_ns is None else changes.ctime_ns
        show(inode, {name: fields[name] for name in ("mode", "uid", "gid") if name in fields})
        if changes.atime_ns is not None:
            state.atime_ns = changes.atime_ns
        if changes.mtime_ns is not None:
            state.mtime_ns = changes.mtime_ns

    async def store_special(self, inode: Inode, fields: Fields) -> None:
        """Have these attributes stored, by the names of `Special`; None drops one. Whoever shows them does so when this
        has returned. Raises MetadataFull; what the store raises, if it was asked already."""
        if not fields or self._tree.config.attributes == "never" or not inode.linked:
            return
        if inode.children is None:
            await self._store_file_fields(inode, fields)
        elif any(value is not None or getattr(inode.special, name) is not None for name, value in fields.items()):
            await describe_directory(self._tree, inode, fields)

    def report(self, inode: Inode) -> None:
        """Raise, once, what kept a change from being stored after it was answered."""
        state = inode.state
        if state is not None and state.change_error is not None:
            error, state.change_error = state.change_error, None
            raise again(error)

    async def settle(self, inode: Inode) -> None:
        """What is held of the inode is stored on return."""
        while (storing := self._storing.get(inode)) is not None:
            await storing.wait()
        self.report(inode)
        try:
            await self._store_held(inode)
        except S3MountError as error:
            self._undo(inode, error)
            raise

    async def store_now(self, inode: Inode) -> None:
        """What is held of the inode is stored on return, for somebody who is not its program: what keeps it out is
        raised, and is told to the program, too."""
        state = inode.own
        while (storing := self._storing.get(inode)) is not None:
            await storing.wait()
        try:
            await self._store_held(inode)
        except S3MountError as error:
            self._undo(inode, error)
            state.change_error = error
        if state.change_error is not None:
            raise again(state.change_error)
        if inode.ino in self._held:
            raise Busy("its directory is being renamed, and the change goes along")

    def held(self) -> set[Inode]:
        """The files whose changes are held, or being stored."""
        return {inode for inode in (*self._held.values(), *self._storing) if inode.linked}

    def paths(self) -> list[str]:
        """Of files whose changes are held."""
        return [inode.path for inode in (*self._held.values(), *self._storing) if inode.linked]

    async def store_all(self) -> list[str]:
        """Store all that is held; the paths of those that failed."""
        failed: list[str] = []

        async def store(inode: Inode) -> None:
            try:
                await self.settle(inode)
            except S3MountError:
                failed.append(inode.path)

        async with trio.open_nursery() as nursery:
            for inode in {*self._held.values(), *self._storing}:
                nursery.start_soon(store, inode)
        return failed

    # inside

    def _is_known(self, inode: Inode) -> bool:
        """Whether what is known of a file is as fresh as a lookup of it makes it: who has it open sends none."""
        if not inode.linked or inode.changing or self._tree.config.attributes == "never":
            return True
        parent, now = inode.parent, trio.current_time()
        assert parent is not None
        if inode.fresh_until <= now:
            found = parent.contents.find(inode.name, now)
            if found is None or not isinstance(found[0], Listed) or not is_version(inode, found[0]):
                return False
        return self._tree.is_settled(inode)

    async def _look(self, inode: Inode) -> None:
        if inode.children is not None:
            await look_at_directory(self._tree, inode)
            return
        tree, asked, known = self._tree, trio.current_time(), inode.known
        assert known is not None
        try:
            info = await describe(tree.store, Version(known.key, known.etag, known.size))
        except Changed as changed:
            raise tree.remember(inode, changed.info) from changed
        if inode.known is known:
            tree.found_again(inode, info, asked)

    async def _store_file_fields(self, inode: Inode, fields: Fields) -> None:
        state, file = inode.own, inode.own.file
        former = state.pending
        state.pending = {**(former or {}), **fields, "ctime_ns": None}
        try:
            if file is None or not describes(file):
                headers_with(self._tree, NOTHING, state.pending)
            else:
                carry(self._tree, inode, file)
        except S3MountError:
            state.pending = former
            raise
        if (file is not None and rides(file)) or inode.ino in self._held:
            return
        assert inode.parent is not None
        prefix = inode.parent.contents.prefix
        if prefix in self._proven and len(self._held) < HELD_MAX:
            self._hold(inode)
            return
        state.changing += 1
        try:
            await self._store(inode)
        except S3MountError as error:
            undo(self._tree, inode)
            raise self._other_version(inode, error) from error
        finally:
            self._end(inode)
        self._proven[prefix] = None
        if len(self._proven) > PREFIXES_MAX:
            self._proven.popitem(last=False)

    def _hold(self, inode: Inode) -> None:
        if inode.ino in self._held:
            return
        inode.own.changing += 1
        self._held[inode.ino] = inode
        self._tree.background(self._store_later, inode)

    async def _store_later(self, inode: Inode) -> None:
        acknowledge()
        try:
            await trio.sleep(HOLD_SECONDS)
            while (ahead := self._storing.get(inode, inode.own.lent)) is not None:
                await ahead.wait()  # a rename takes them along, or gives them back
            await self._store_held(inode)
        except S3MountError as error:
            self._undo(inode, error)
            inode.own.change_error = error
        finally:
            self._end(inode)

    async def _store_held(self, inode: Inode) -> None:
        if self._held.pop(inode.ino, None) is None:
            return
        over = self._storing[inode] = trio.Event()
        try:
            await self._store_over(inode, TRIES_MAX)
        finally:
            del self._storing[inode]
            over.set()

    def _end(self, inode: Inode) -> None:
        inode.own.changing -= 1
        self._tree.inodes.release(inode)

    def _undo(self, inode: Inode, error: S3MountError) -> None:
        log.error("attributes not stored, undone path=%s reason=%s", escaped(inode.path), error)
        self.failures.append(Failure(inode.path, str(error)))
        undo(self._tree, inode)
        self._other_version(inode, error)

    def _other_version(self, inode: Inode, error: S3MountError) -> S3MountError:
        """What to raise; of another client's version nothing is believed any more."""
        if isinstance(error, Changed):
            return self._tree.remember(inode, error.info)
        if isinstance(error, Stale) and inode.linked and inode.parent is not None:
            self._tree.distrust(inode.parent, inode.name)
            self._tree.inodes.detach(inode)
        return again(error)

    async def _store(self, inode: Inode) -> None:
        """Copy the object onto itself with what is pending, unless bytes bring it. Raises Stale, Changed."""
        state = inode.own
        if inode.known is None and state.file is None:
            return
        if self._moves(inode):
            # The copy that moves it may be made already: of the same etag, and without these.
            self._hold(inode)
            return
        async with self._limit, self._handles.borrowed(inode) as file:
            if state.pending is not None and inode.linked and not rides(file) and not described(file):
                asked = trio.current_time()
                headers = await known_headers(self._tree, inode)
                if not describes(file) or not rides(file):
                    file.headers, file.described_at = headers, asked
            if state.lent is not None:
                self._hold(inode)
                return
            if state.pending is None or not inode.linked or rides(file):
                return
            pending = state.pending
            file.headers = headers_with(self._tree, file.headers, dated(self._tree, inode, pending, file.headers))
            await file.restate()
            self._look_again(inode, file, pending)

    def _look_again(self, inode: Inode, file: File, pending: Fields) -> None:
        """Hold what that copy may not have brought: to where a directory is moved, or because an open or a further
        change came between."""
        state = inode.own
        if self._moves(inode):
            state.pending = {**pending, **(state.pending or {})}
        if state.pending is not None and inode.linked and not rides(file):
            self._hold(inode)

    async def _store_over(self, inode: Inode, tries: int) -> None:
        """Store what is pending; if another version has come meanwhile, with that: the change was acknowledged. A time
        that was set before those bytes came is not theirs."""
        pending = inode.own.pending or {}
        try:
            await self._store(inode)
            return
        except (Changed, Stale) as error:
            if not inode.linked or self._tree.transits.leaves(inode.key):
                undo(self._tree, inode)  # a program here has taken it away, or is about to
                return
            if not tries or inode.held or (isinstance(error, Changed) and error.info is None):
                raise
            pending = {name: value for name, value in (inode.own.pending or pending).items() if name not in UNDATED}
            heir = await self._other_inode(inode, error)
            if heir is None:
                raise
        try:
            await self._take_on(heir, pending)
            await self._store_over(heir, tries - 1)
        except S3MountError:
            undo(self._tree, heir)
            raise
        finally:
            self._end(heir)

    async def _other_inode(self, inode: Inode, error: S3MountError) -> Inode | None:
        """The inode that has the name now that the object is another version, kept until `_end`; None: no file is
        there."""
        tree, parent = self._tree, inode.parent
        assert parent is not None
        undo(tree, inode)
        self._other_version(inode, error)
        heir, _ = await resolve(tree, parent, inode.name)
        if heir is not None and heir.children is None:
            heir.own.changing += 1
            return heir
        tree.inodes.release(heir)
        return None

    async def _take_on(self, inode: Inode, fields: Fields) -> None:
        if inode.known is not None and not self._is_known(inode):
            await self._look(inode)
        state, taken = inode.own, dict(fields)
        if "mode" in taken:
            taken["mode"] = stat.S_IFMT(self._tree.shown(inode).mode) | stat.S_IMODE(taken["mode"])
        if taken:
            state.pending = {**taken, "ctime_ns": None, **(state.pending or {})}
            show(inode, {name: value for name, value in taken.items() if name in state.pending})
        if state.file is not None and describes(state.file):
            carry(self._tree, inode, state.file)

    def _moves(self, inode: Inode) -> bool:
        """Whether a rename moves a directory above."""
        return any(inode.key.startswith(prefix) for prefix in self._tree.moving)


def rides(file: File) -> bool:
    """Whether an upload that has to come brings what the file carries, or what must follow the one under way."""
    return file.base is None or file.dirty or file.busy or file.parted


def changed_fields(shown: Attributes, changes: Changes, now_ns: int, *, by_kernel: bool) -> dict[str, Any]:
    """What of a SETATTR is to be stored: no value that is there already, no time that only follows from writing."""
    fields: dict[str, Any] = {}
    if changes.mode is not None and stat.S_IMODE(changes.mode) != stat.S_IMODE(shown.mode):
        fields["mode"] = stat.S_IFMT(shown.mode) | stat.S_IMODE(changes.mode)
    if changes.uid is not None and changes.uid != shown.uid:
        fields["uid"] = changes.uid
    if changes.gid is not None and changes.gid != shown.gid:
        fields["gid"] = changes.gid
    mtime_ns, atime_ns = changes.mtime_ns, changes.atime_ns
    # The kernel's own has a handle, comes with a size, or tells what we know.
    if mtime_ns is None or by_kernel or changes.size is not None or mtime_ns == shown.mtime_ns:
        return fields
    if atime_ns == mtime_ns and abs(mtime_ns - now_ns) <= SECOND_NS:
        fields |= {"mtime_ns": None, "atime_ns": None}  # touch: the time of the request that follows stands for it
    else:
        fields["mtime_ns"] = mtime_ns
        if atime_ns is not None:
            fields["atime_ns"] = atime_ns
    return fields
