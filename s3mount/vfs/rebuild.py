"""Flags set right below a directory: `s3mount refresh --attributes`, for buckets that other programs have written.

Every object is listed and asked for its attributes by a HEAD. A directory in which an entry is special gets its flag,
conditional on absence; a subdirectory is an entry, and what its marker or its own flag carries are its attributes. The
flag has a body where an entry is a link or a node, and none elsewhere. A flag under which nothing is special goes,
unless it carries attributes of its directory, is all there is of it, or something there could not be asked for. Nothing
else in the bucket is touched, and a second run finds nothing to do.

Other mounts write meanwhile, and one that saw the flag stores special entries without a second look for as long as its
listings hold. So a directory whose flag was taken, or lost its body, is looked at once more when that time is over, and
gets it back if anything special is there; also if the run fails or is cancelled before. Killed in those seconds, a run
can leave an entry unseen that was stored in them: the next run finds it.

It knows no inodes. The mutable state of a run is in `_Run` and in one `_Seen` for each directory that the walk is in or
whose HEADs are on their way.
"""

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

import trio

from s3mount.data.removal import speaks_of_others
from s3mount.errors import (
    AccessDenied,
    KeyTooLong,
    NotFound,
    NotImplementedByStore,
    PreconditionFailed,
    S3MountError,
    Unavailable,
)
from s3mount.store.base import ABSENT, Condition, ObjectInfo, ObjectStore
from s3mount.vfs.attributedb import directory_of
from s3mount.vfs.flags import FLAG, FLAG_HEADERS, NODES, TRIES_MAX, flag_body
from s3mount.vfs.keys import escaped, is_name, is_reserved
from s3mount.vfs.metadata import special_of
from s3mount.vfs.told import is_node, special_from

log = logging.getLogger(__name__)

REQUESTS_MAX = 32
"""On the way at the same time: half of what the store sends of such requests, the rest is for programs."""
PUT_BACK_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Progress:
    """What a run has done so far."""

    objects: int = 0
    directories: int = 0
    flags_put: int = 0
    flags_removed: int = 0
    flags_changed: int = 0
    """That speak of links and nodes now, or no more."""
    unknown: int = 0
    """Objects that could not be asked for: their directories keep the flags they have."""


@dataclass(eq=False, slots=True)
class _Seen:
    """What is known of one directory so far. `others`: there is more than the flag."""

    prefix: str
    asking: int = 0
    left: bool = False
    special: bool = False
    nodes: bool = False
    unknown: bool = False
    others: bool = False
    flag: ObjectInfo | None = None


async def rebuild_flags(
    store: ObjectStore,
    prefix: str,
    *,
    root: str,
    settle_seconds: float,
    progress: Callable[[Progress], None],
    learnt: Callable[[ObjectInfo], None],
) -> Progress:
    """Set the flags of the directory at `prefix` and all below it, in a mount whose prefix is `root`.

    `settle_seconds` is how long a mount believes that a flag is there. `progress` is told after each page, `learnt` of
    each object as its HEAD describes it. Raises the store's error that ended the run: what was done until then is
    right, and a new run does the rest.
    """
    assert prefix.startswith(root), prefix
    run = _Run(store, prefix, root, progress, learnt)
    try:
        await run.gather(run.walk)
        if run.removed:
            await trio.sleep(settle_seconds)
            await run.gather(run.look_again)
    except BaseException:
        with trio.move_on_after(PUT_BACK_SECONDS) as last:
            last.shield = True
            await run.put_back()
        raise
    progress(run.progress)
    return run.progress


class _Run:
    """See the module. `removed`: the directories whose flag was taken (True), or its body, and that were not looked at
    again."""

    def __init__(
        self,
        store: ObjectStore,
        prefix: str,
        root: str,
        tell: Callable[[Progress], None],
        learnt: Callable[[ObjectInfo], None],
    ) -> None:
        self.progress = Progress()
        self.removed: dict[str, bool] = {}
        self._store = store
        self._prefix = prefix
        self._root = root
        self._tell = tell
        self._learnt = learnt
        self._turns = trio.Semaphore(REQUESTS_MAX)
        self._failure: S3MountError | None = None

    async def gather(self, look: Callable[[trio.Nursery], Awaitable[None]]) -> None:
        """Look, and wait for all requests that this starts. The first error ends them."""
        async with trio.open_nursery() as nursery:
            await self._guarded(nursery, partial(look, nursery))
        if self._failure is not None:
            raise self._failure

    async def walk(self, nursery: trio.Nursery) -> None:
        """All keys in order: a directory's lie together, so it is left when a key comes that is not below it."""
        within = [_Seen(self._prefix)]
        if self._prefix != self._root:
            # Of the directory above only one entry is seen: its flag may be missing, never superfluous.
            within.insert(0, _Seen(directory_of(self._prefix), unknown=True))
        token: str | None = None
        while True:
            page = await self._store.list_page(self._prefix, token=token)
            for listed in page.objects:
                if self._is_entry(listed.key):
                    while not listed.key.startswith(within[-1].prefix):
                        await self._leave(nursery, within.pop(), self._decide)
                    self._enter(within, listed.key)
                    await self._ask_entry(nursery, within, listed.key)
            self._tell(self.progress)
            token = page.token
            if token is None:
                break
        while within:
            await self._leave(nursery, within.pop(), self._decide)

    async def look_again(self, nursery: trio.Nursery) -> None:
        """The directories whose flag was taken, entry by entry; what was stored in them meanwhile is found here."""
        for prefix in list(self.removed):
            directory = _Seen(prefix)
            token: str | None = None
            while True:
                page = await self._store.list_page(prefix, delimiter="/", token=token)
                asked = [listed.key for listed in page.objects if listed.key != prefix]
                for below in page.prefixes:
                    asked += [below, below + FLAG]
                for key in asked:
                    if self._is_entry(key):
                        await self._ask(nursery, key, (directory,), None, self._decide_again)
                token = page.token
                if token is None:
                    break
            await self._leave(nursery, directory, self._decide_again)

    async def put_back(self) -> None:
        """All flags that were taken and not looked after, because the run ends here."""
        for prefix in list(self.removed):
            try:
                await self._put(prefix, nodes=True)
                del self.removed[prefix]
            except S3MountError as error:
                log.warning("flag was not put back directory=%s reason=%s", escaped(prefix), error)

    # directories

    def _is_entry(self, key: str) -> bool:
        *above, name = key[len(self._root) :].split("/")
        if not all(is_name(one) and not is_reserved(one) for one in above):
            return False
        return name in ("", FLAG) or (is_name(name) and not is_reserved(name))

    @staticmethod
    def _enter(within: list[_Seen], key: str) -> None:
        """Go down to the directory of a key, which for a marker is the marker's own."""
        directory = key[: key.rfind("/") + 1]
        while len(within[-1].prefix) < len(directory):
            within[-1].others = True
            within.append(_Seen(key[: key.index("/", len(within[-1].prefix)) + 1]))

    async def _ask_entry(self, nursery: trio.Nursery, within: list[_Seen], key: str) -> None:
        directory = within[-1]
        name = key[len(directory.prefix) :]
        directory.others |= name != FLAG
        self._count(objects=1)
        above = tuple(within[-2:-1])
        if name == FLAG:
            await self._ask(nursery, key, above, directory, self._decide)
        else:
            await self._ask(nursery, key, (directory,) if name else above, None, self._decide)

    async def _leave(self, nursery: trio.Nursery, directory: _Seen, decide: Callable[[_Seen], Awaitable[None]]) -> None:
        directory.left = True
        if not directory.asking:
            await self._start(nursery, partial(decide, directory))

    async def _decide(self, directory: _Seen) -> None:
        self._count(directories=1)
        flag = directory.flag
        if flag is None:
            if directory.special and await self._put(directory.prefix, nodes=directory.nodes or directory.unknown):
                self._count(flags_put=1)
        elif directory.nodes:
            if not flag.size and await self._put(directory.prefix, nodes=True):
                self._count(flags_changed=1)
        elif directory.unknown or not directory.others:
            return
        elif not directory.special and not _is_special(flag):
            await self._remove(directory.prefix, flag)
        elif flag.size and self._store.keeps_conditions:
            await self._empty(directory.prefix, flag)

    async def _decide_again(self, directory: _Seen) -> None:
        prefix = directory.prefix
        nodes = directory.nodes or directory.unknown
        if (directory.special or directory.unknown) and await self._put(prefix, nodes=nodes):
            self._count(**{"flags_removed" if self.removed[prefix] else "flags_changed": -1})
        del self.removed[prefix]

    # requests

    async def _ask(
        self,
        nursery: trio.Nursery,
        key: str,
        entry_of: tuple[_Seen, ...],
        flag_of: _Seen | None,
        decide: Callable[[_Seen], Awaitable[None]],
    ) -> None:
        concerned = (*entry_of, flag_of) if flag_of is not None else entry_of
        for directory in concerned:
            directory.asking += 1

        async def ask() -> None:
            info = None
            try:
                info = await self._store.head(key)
            except NotFound:
                pass
            except AccessDenied:
                self._count(unknown=1)
                for directory in concerned:
                    directory.unknown = True
            if info is not None:
                self._learnt(info)
                if flag_of is not None:
                    flag_of.flag = info
                for directory in entry_of:
                    directory.special |= _is_special(info)
                    directory.nodes |= not speaks_of_others(key) and is_node(special_from(info))
            for directory in concerned:
                directory.asking -= 1
                if directory.left and not directory.asking:
                    await decide(directory)

        await self._start(nursery, ask)

    async def _put(self, prefix: str, *, nodes: bool) -> bool:
        """Whether there was no flag, or none that speaks of `nodes`, and there is one now. It is asked for first: not
        every store keeps the condition, and one that has come meanwhile may have metadata."""
        key, body = prefix + FLAG, flag_body(self._store, nodes=nodes)
        for _ in range(TRIES_MAX):
            headers, condition = FLAG_HEADERS, ABSENT
            with suppress(NotFound):
                flag = await self._store.head(key)
                if flag.size or not nodes:
                    return False
                headers, condition = flag.headers, Condition(etag=flag.etag)
            try:
                await self._store.put(key, body, headers, condition)
            except (NotFound, PreconditionFailed):
                continue
            except NotImplementedByStore:
                await self._store.put(key, NODES, headers)
            except KeyTooLong:
                log.warning("directory has a key too long for a flag directory=%s", escaped(prefix))
                return False
            return True
        raise Unavailable(f"{prefix}: others change its flag again and again")

    async def _remove(self, prefix: str, seen: ObjectInfo) -> None:
        """Take the flag, if it still is the one that was seen: all have one etag, so what it carries is asked again."""
        with suppress(NotFound, AccessDenied, PreconditionFailed, NotImplementedByStore):
            flag = await self._store.head(prefix + FLAG)
            if flag.etag == seen.etag and not _is_special(flag):
                self.removed[prefix] = True  # before it is gone: an error may come after the effect
                await self._store.delete(prefix + FLAG, Condition(etag=flag.etag))
                self._count(flags_removed=1)

    async def _empty(self, prefix: str, seen: ObjectInfo) -> None:
        """Take the body of the flag, if it still is the one that was seen."""
        with suppress(NotFound, AccessDenied, PreconditionFailed, NotImplementedByStore):
            flag = await self._store.head(prefix + FLAG)
            if flag.etag == seen.etag:
                self.removed[prefix] = False
                await self._store.put(prefix + FLAG, (), flag.headers, Condition(etag=flag.etag))
                self._count(flags_changed=1)

    async def _start(self, nursery: trio.Nursery, act: Callable[[], Awaitable[None]]) -> None:
        await self._turns.acquire()
        nursery.start_soon(self._guarded, nursery, act, self._turns.release)

    async def _guarded(
        self, nursery: trio.Nursery, act: Callable[[], Awaitable[None]], after: Callable[[], None] = lambda: None
    ) -> None:
        try:
            await act()
        except S3MountError as error:
            self._failure = self._failure or error
            nursery.cancel_scope.cancel()
        finally:
            after()

    def _count(self, **more: int) -> None:
        self.progress = replace(self.progress, **{name: getattr(self.progress, name) + by for name, by in more.items()})


def _is_special(info: ObjectInfo) -> bool:
    return bool(special_of(info.headers.metadata))
