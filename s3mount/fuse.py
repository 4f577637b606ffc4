"""The kernel's edge: each handler decodes its request, makes one call into the vfs, encodes the answer.

The only place where an exception becomes an errno (`answered`). Knows no key, no etag, no rule of the file system.
Handlers that are not here answer ENOSYS or what `pyfuse3.Operations` answers. Those of extended
attributes are in a class of their own, for mounts with `--xattr`: while getxattr has an answer the kernel asks it for
`security.capability` before every write(2), and once it has answered ENOSYS never again."""

import errno
import logging
from collections.abc import Callable, Collection, Coroutine, Iterable, Sequence
from contextlib import suppress
from functools import partial, wraps
from time import perf_counter
from typing import Any, Concatenate, ParamSpec, TypeVar
from urllib.parse import quote

import pyfuse3
from pyfuse3 import EntryAttributes, FileInfo, FUSEError, ReaddirToken, RequestContext, SetattrFields, StatvfsData

from s3mount.calls import Calls
from s3mount.errors import NotPermitted, S3MountError
from s3mount.store.base import Buffer
from s3mount.underway import UnderWay
from s3mount.vfs.attributes import Attributes, Caller, Changes, absent
from s3mount.vfs.filesystem import FileSystem

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")
Ops = TypeVar("Ops", bound="Operations")
Handler = Callable[Concatenate[Ops, P], Coroutine[Any, Any, T]]  # what an `async def` makes

BLOCK_BYTES = 4096
USER_XATTRS = b"user."
NEVER_SET = (b"security.", b"trusted.")
"""Of these there is none: ENODATA, on which getcap, the kernel and overlayfs go on in silence. ACLs (`system.*`) and
what has no known prefix are not supported, which is what ls remembers for all files and cp takes chmod for."""
QUIET = frozenset(
    {errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY, errno.ESTALE, errno.ENAMETOOLONG}
    | {errno.EILSEQ, errno.EROFS, errno.EPERM, errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EBUSY, errno.EXDEV}
    | {errno.ENOSPC, errno.EFBIG, errno.ENODATA}
)
"""Answers that tell the program all there is to tell, or of which the file itself has left a line; others leave one
here."""


def answered(handler: Handler[Ops, P, T]) -> Handler[Ops, P, T]:
    """Turn what a handler raises into what pyfuse3 may see: any other exception would end the mount.

    FUSEError and Cancelled pass, ours become their errno, anything else is a bug: one traceback and EIO.
    """
    name = handler.__name__

    @wraps(handler)
    async def wrapper(self: Ops, /, *args: P.args, **kwargs: P.kwargs) -> T:
        number = self.under_way.begin(name)
        began = perf_counter()
        try:
            answer = await handler(self, *args, **kwargs)
        except FUSEError as error:
            self.calls.failed(name, began, error.errno)
            raise
        except S3MountError as error:
            self.calls.failed(name, began, error.errno)
            if error.errno not in QUIET:
                log.warning("request failed operation=%s errno=%s reason=%s", name, errno.errorcode[error.errno], error)
            raise FUSEError(error.errno) from error
        except Exception as error:
            self.calls.failed(name, began, errno.EIO)
            log.exception("request met a bug operation=%s", name)
            raise FUSEError(errno.EIO) from error
        else:
            kind = self.calls.kinds[name]
            kind.count += 1
            kind.seconds += perf_counter() - began
            return answer
        finally:
            self.under_way.end(number)

    return wrapper


def encoded(attributes: Attributes) -> EntryAttributes:
    """What the kernel is told of an inode; size -1 or mode 0 say name and type only."""
    entry = EntryAttributes()
    entry.st_ino = pyfuse3.InodeT(attributes.ino)
    entry.entry_timeout = attributes.entry_seconds
    entry.attr_timeout = attributes.attr_seconds
    entry.st_mode = pyfuse3.ModeT(attributes.mode)
    entry.st_nlink = attributes.nlink
    entry.st_uid = attributes.uid
    entry.st_gid = attributes.gid
    entry.st_rdev = attributes.rdev
    entry.st_size = attributes.size
    entry.st_blocks = (attributes.size + 511) // 512
    entry.st_blksize = BLOCK_BYTES
    entry.st_atime_ns = attributes.atime_ns
    entry.st_mtime_ns = attributes.mtime_ns
    entry.st_ctime_ns = attributes.ctime_ns
    return entry


def teller(reply: Callable[[bytes, EntryAttributes, int], bool]) -> Callable[[bytes, Attributes, int], bool]:
    """What tells the entries of a directory, by `reply`, which copies them: one record serves them all, and what
    neighbours have in common is written into it once."""
    entry, latest = EntryAttributes(), absent(0.0)

    def tell(name: bytes, attributes: Attributes, next_id: int) -> bool:
        nonlocal entry, latest
        if attributes[1:5] != latest[1:5] or attributes[9:] != latest[9:] or latest.ino == 0:
            entry = encoded(attributes)
        else:
            entry.st_ino = attributes[0]  # by number, which is quicker than by name
            entry.st_size = size = attributes[5]
            entry.st_blocks = (size + 511) // 512
            if attributes[6:9] != latest[6:9]:
                entry.st_mtime_ns, entry.st_ctime_ns, entry.st_atime_ns = attributes[6:9]
        latest = attributes
        return reply(name, entry, next_id)

    return tell


def caller(context: RequestContext) -> Caller:
    return Caller(context.uid, context.gid, context.pid, context.umask, partial(supplementary_groups, context.pid))


def supplementary_groups(pid: int) -> Collection[int]:
    """None of a process that is gone, or that is not seen from here."""
    try:
        return pyfuse3.get_sup_groups(pid)
    except (OSError, RuntimeError):
        return ()


class Operations(pyfuse3.Operations):
    """pyfuse3's view of a FileSystem."""

    supports_dot_lookup = False
    enable_writeback_cache = True
    enable_acl = False

    def __init__(
        self, filesystem: FileSystem, begun: Callable[[], None] = lambda: None, calls: Calls | None = None
    ) -> None:
        super().__init__()
        self._fs = filesystem
        self._begun = begun
        self.under_way = UnderWay()  # all the state there is, but for what is counted
        self.calls = Calls() if calls is None else calls

    def init(self) -> None:
        """The kernel's first request. It has the answer before another task runs."""
        self._begun()

    # names

    @answered
    async def lookup(self, parent_inode: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        return encoded(await self._fs.lookup(parent_inode, name))

    # pyfuse3 awaits what it is given, and nothing is fine: forgetting has no checkpoint.
    def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:  # type: ignore[override]
        try:
            self._fs.forget(inode_list)
        except Exception:  # an exception that leaves forget ends the mount
            log.exception("request met a bug operation=forget")

    @answered
    async def mkdir(self, parent_inode: int, name: bytes, mode: int, ctx: RequestContext) -> EntryAttributes:
        return encoded(await self._fs.mkdir(parent_inode, name, mode, caller(ctx)))

    @answered
    async def rmdir(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        await self._fs.rmdir(parent_inode, name)

    @answered
    async def unlink(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        await self._fs.unlink(parent_inode, name, caller(ctx))

    @answered
    async def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: RequestContext,
    ) -> None:
        if flags & ~pyfuse3.RENAME_NOREPLACE:
            raise FUSEError(errno.EINVAL)  # RENAME_EXCHANGE, RENAME_WHITEOUT
        no_replace = bool(flags & pyfuse3.RENAME_NOREPLACE)
        await self._fs.rename(parent_inode_old, name_old, parent_inode_new, name_new, no_replace=no_replace)

    @answered
    async def link(self, inode: int, new_parent_inode: int, new_name: bytes, ctx: RequestContext) -> EntryAttributes:
        raise NotPermitted("an object has one key: hard links do not exist")

    @answered
    async def readlink(self, inode: int, ctx: RequestContext) -> bytes:
        return await self._fs.readlink(inode)

    @answered
    async def symlink(self, parent_inode: int, name: bytes, target: bytes, ctx: RequestContext) -> EntryAttributes:
        return encoded(await self._fs.symlink(parent_inode, name, target, caller(ctx)))

    @answered
    async def mknod(self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: RequestContext) -> EntryAttributes:
        return encoded(await self._fs.mknod(parent_inode, name, mode, caller(ctx), rdev=rdev))

    # attributes

    @answered
    async def getattr(self, inode: int, ctx: RequestContext) -> EntryAttributes:
        return encoded(await self._fs.getattr(inode))

    @answered
    async def setattr(
        self, inode: int, attr: EntryAttributes, fields: SetattrFields, fh: int | None, ctx: RequestContext
    ) -> EntryAttributes:
        changes = Changes(
            mode=attr.st_mode if fields.update_mode else None,
            uid=attr.st_uid if fields.update_uid else None,
            gid=attr.st_gid if fields.update_gid else None,
            size=attr.st_size if fields.update_size else None,
            atime_ns=attr.st_atime_ns if fields.update_atime else None,
            mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
            ctime_ns=attr.st_ctime_ns if fields.update_ctime else None,
        )
        return encoded(await self._fs.setattr(inode, changes, fh, caller(ctx)))

    @answered
    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        known = self._fs.statfs()
        answer = StatvfsData()
        answer.f_bsize = answer.f_frsize = known.block_bytes
        answer.f_blocks = known.blocks
        answer.f_bfree = answer.f_bavail = known.blocks_free
        answer.f_files = known.files
        answer.f_ffree = answer.f_favail = known.files_free
        answer.f_namemax = known.name_max_bytes
        return answer

    @answered
    async def access(self, inode: int, mode: int, ctx: RequestContext) -> bool:
        return self._fs.access(inode, mode, caller(ctx))

    # files

    @answered
    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        fh, attributes = await self._fs.create(parent_inode, name, mode, flags, caller(ctx))
        return FileInfo(fh=pyfuse3.FileHandleT(fh), keep_cache=True), encoded(attributes)

    @answered
    async def open(self, inode: int, flags: int, ctx: RequestContext) -> FileInfo:
        fh = await self._fs.open(inode, flags, caller(ctx))
        return FileInfo(fh=pyfuse3.FileHandleT(fh), keep_cache=True)  # an inode is one version: its pages stay true

    @answered
    async def read(self, fh: int, off: int, size: int) -> Buffer:  # type: ignore[override] # any buffer: it is copied at once
        return await self._fs.read(fh, off, size)

    @answered
    async def write(self, fh: int, off: int, buf: bytes) -> int:
        return await self._fs.write(fh, off, buf)

    @answered
    async def flush(self, fh: int) -> None:
        await self._fs.flush(fh)

    @answered
    async def fsync(self, fh: int, datasync: bool) -> None:
        await self._fs.fsync(fh)

    @answered
    async def release(self, fh: int) -> None:
        await self._fs.release(fh)

    # directories

    @answered
    async def opendir(self, inode: int, ctx: RequestContext) -> int:
        return await self._fs.opendir(inode)

    @answered
    async def readdir(self, fh: int, start_id: int, token: ReaddirToken) -> None:
        await self._fs.readdir(fh, start_id, teller(partial(pyfuse3.readdir_reply, token)))

    @answered
    async def releasedir(self, fh: int) -> None:
        self._fs.releasedir(fh)

    @answered
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        await self._fs.fsyncdir(fh)


class OperationsWithXattrs(Operations):
    """The same with extended attributes, of which only `user.*` reach the FileSystem.

    What others may be asked for is answered as by a file system that has none of them. pyfuse3 keeps XATTR_CREATE and
    XATTR_REPLACE to itself: it calls `getxattr` before `setxattr`."""

    @answered
    async def getxattr(self, inode: int, name: bytes, ctx: RequestContext) -> bytes:
        if not is_user_xattr(name):
            raise FUSEError(errno.ENODATA if name.startswith(NEVER_SET) else errno.ENOTSUP)
        return await self._fs.getxattr(inode, name)

    @answered
    async def listxattr(self, inode: int, ctx: RequestContext) -> list[bytes]:
        return await self._fs.listxattr(inode)

    @answered
    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: RequestContext) -> None:
        if not is_user_xattr(name):
            raise FUSEError(errno.ENOTSUP)
        await self._fs.setxattr(inode, name, value)

    @answered
    async def removexattr(self, inode: int, name: bytes, ctx: RequestContext) -> None:
        if not is_user_xattr(name):
            raise FUSEError(errno.ENODATA if name.startswith(NEVER_SET) else errno.ENOTSUP)
        await self._fs.removexattr(inode, name)


def is_user_xattr(name: bytes) -> bool:
    """Whether the name is of the one namespace that programs have for themselves. Raises EINVAL for its bare prefix."""
    if name == USER_XATTRS:
        raise FUSEError(errno.EINVAL)
    return name.startswith(USER_XATTRS)


def invalidate(names: Iterable[tuple[int, bytes]]) -> None:
    """Have the kernel forget names of directories. Blocks while a request of such a directory is being answered: in a
    thread, never from a handler."""
    for parent, name in names:
        with suppress(OSError):  # it does not know the name, or not the directory
            pyfuse3.invalidate_entry(pyfuse3.InodeT(parent), pyfuse3.FileNameT(name))


def mount_options(*, source: str, allow_other: bool, read_only: bool, flags: Iterable[str] = ()) -> set[str]:
    """The options of mount(8) that every mount of ours has, and `flags`; `source` is made safe for mountinfo and the
    option parser."""
    label = quote(source, safe="/:!$&'()*+;=@?~")  # a comma or a backslash would end the option
    options = {f"fsname={label}", "subtype=s3mount", "default_permissions", "nosuid", "nodev", *flags}
    if allow_other:
        options.add("allow_other")
    if read_only:
        options.add("ro")
    return options
