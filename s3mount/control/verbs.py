"""What the daemon answers: one method per verb; what it says is plain JSON, which `commands` turns into text.

Knows the file system by its paths and the store by its addresses. `status` is gathered from the `figures` of whoever
has some: a new part of the mount adds its own to the table it is given. The state is when the mount began.
"""

import stat
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, fields
from typing import Protocol

import trio

from s3mount.config import Config
from s3mount.control.protocol import Request, path_of, whole
from s3mount.control.server import Progress, Verb
from s3mount.store.base import Headers, ObjectInfo
from s3mount.store.presign import PRESIGN_MAX_SECONDS, Presigned
from s3mount.store.signature import quote_key
from s3mount.vfs.attributes import PLAIN, Attributes, Special
from s3mount.vfs.filesystem import FileSystem
from s3mount.vfs.inspection import KernelName

Figures = Callable[[], object]
Invalidate = Callable[[Iterable[KernelName]], None]
"""Has the kernel forget names; blocks."""
NAMES_AT_ONCE = 1000
KERNEL_THREADS = 4
KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
}

HEADERS = [field.name for field in fields(Headers) if field.name not in ("metadata", "tags")]


class Presigner(Protocol):
    """A store that gives addresses."""

    async def presign(self, key: str, seconds: int) -> Presigned:
        """Raises NotSupported."""


class Verbs:
    """See the module."""

    def __init__(
        self,
        filesystem: FileSystem,
        store: Presigner,
        config: Config,
        *,
        figures: Mapping[str, Figures],
        invalidate: Invalidate,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._fs = filesystem
        self._store = store
        self._config = config
        self.figures = {"uptime_seconds": self._uptime_seconds, **figures}
        self._invalidate = invalidate
        self._clock = clock
        self._began = clock()
        # It may wait for a program's request, which may wait for a thread: not for one of these.
        self._kernel_threads = trio.CapacityLimiter(KERNEL_THREADS)

    def table(self) -> dict[str, Verb]:
        return {"stat": self.stat, "url": self.url, "refresh": self.refresh, "status": self.status}

    async def stat(self, request: Request, _progress: Progress) -> object:
        """One object, as the store has it and as the mount shows it."""
        about = await self._fs.about(path_of(request))
        return {
            "path": about.path,
            "source": self._config.source,
            "bucket": self._config.bucket,
            "key": about.key,
            "kind": KINDS.get(stat.S_IFMT(about.shown.mode), "unknown"),
            "state": about.state,
            "version_shown": about.version,
            "flag": about.flag,
            "object": None if about.info is None else _object(about.info),
            "shown": _shown(about.shown),
            "special": _special(about.special),
        }

    async def url(self, request: Request, _progress: Progress) -> object:
        """An address of a file: the CDN's, or one that carries its permission for a while."""
        seconds = whole(request, "expires_seconds", least=1, most=PRESIGN_MAX_SECONDS)
        key, state = await self._fs.key_of(path_of(request))
        if self._config.public_url is not None:
            return {"url": f"{self._config.public_url}/{quote_key(key)}", "signed": False, "state": state}
        signed = await self._store.presign(key, seconds)
        return {
            "url": signed.url,
            "signed": signed.ends_seconds is not None,
            "ends_seconds": signed.ends_seconds,
            "temporary_credentials": signed.temporary,
            "shortened": signed.shortened,
            "state": state,
        }

    async def refresh(self, request: Request, progress: Progress) -> object:
        """Forget, so that the next look asks the store: first here, then in the kernel, or that would learn it again.
        With `attributes` the flags of the directory are set right before."""
        flags: object = None
        if request.get("attributes") is True:
            flags = asdict(await self._fs.rebuild_flags(path_of(request), lambda so_far: progress(so_far.objects)))
        names = await self._fs.refresh(path_of(request))
        over = False

        def invalidate(batch: list[KernelName]) -> None:
            self._invalidate(name for name in batch if not over)

        try:
            for start in range(0, len(names), NAMES_AT_ONCE):
                progress(start, len(names))
                batch = names[start : start + NAMES_AT_ONCE]
                # The kernel may let it wait for a program's request; nobody shall wait for that when the mount ends.
                await trio.to_thread.run_sync(invalidate, batch, abandon_on_cancel=True, limiter=self._kernel_threads)
        finally:
            over = True
        return {"kernel_names": len(names), "flags": flags}

    def _uptime_seconds(self) -> float:
        return round(self._clock() - self._began, 1)

    async def status(self, _request: Request, _progress: Progress) -> object:
        """Everything that is known without asking anybody."""
        return {name: figures() for name, figures in self.figures.items()}


def _object(info: ObjectInfo) -> dict[str, object]:
    headers = {name.replace("_", "-"): getattr(info.headers, name) for name in HEADERS}
    return {
        "size": info.size,
        "etag": info.etag,
        "version_id": info.version_id,
        "storage_class": info.storage_class,
        "last_modified_ns": info.last_modified_ns,
        "headers": {name: value for name, value in headers.items() if value is not None},
        "metadata": dict(info.headers.metadata),
        "tags": info.tag_count,
    }


def _shown(shown: Attributes) -> dict[str, object]:
    return {
        "mode": f"{shown.mode:06o}",
        "permissions": stat.filemode(shown.mode),
        "uid": shown.uid,
        "gid": shown.gid,
        "size": shown.size,
        "mtime_ns": shown.mtime_ns,
        "ctime_ns": shown.ctime_ns,
        "atime_ns": shown.atime_ns,
        "inode": shown.ino,
    }


def _special(special: Special) -> dict[str, object]:
    """Only what is special; {}: everything is the default. Of extended attributes the names and lengths."""
    if special == PLAIN:
        return {}
    found = {field.name: getattr(special, field.name) for field in fields(Special) if field.name != "xattrs"}
    told: dict[str, object] = {name: value for name, value in found.items() if value is not None}
    if special.mode is not None:
        told["mode"] = f"{special.mode:06o}"
    if special.xattrs:
        told["xattrs"] = {name: len(value) for name, value in special.xattrs.items()}
    return told
