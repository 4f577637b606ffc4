"""What the daemon answers about bytes that are not in the bucket yet: `sync`, and `failed` in its four ways.

Nothing that is begun here ends with its client. The content of a kept file goes to the client over the socket, in
pieces, and the client writes it with its own rights: the daemon, which may be root, writes no file for anybody.
"""

import base64
from collections.abc import Awaitable, Callable

import trio

from s3mount import errors
from s3mount.config import MIB
from s3mount.control.protocol import Request, number, paths_of, whole
from s3mount.control.server import Progress, Verb
from s3mount.errors import Invalid, S3MountError
from s3mount.vfs.failed import Failed, Held
from s3mount.vfs.filesystem import FileSystem
from s3mount.vfs.refused import NUMBERS_FROM

WAIT_MAX_SECONDS = 30 * 86400.0
PIECE_MAX_BYTES = 4 * MIB
NUMBERS_MAX = 1 << 53
RETRIES_MAX = 32

Drain = Callable[[list[str]], Awaitable[None]]

REMEDIES: tuple[tuple[type[S3MountError], str], ...] = (
    (errors.AccessDenied, "give these credentials s3:PutObject on the key, or renew them"),
    (errors.ClockSkew, "set the clock of this machine"),
    (errors.NoSuchBucket, "the bucket is gone: export the file, then drop it"),
    (errors.KeyTooLong, "the store takes no name of this length: export the file, then drop it"),
    (errors.NotImplementedByStore, "the store cannot do this: export the file, then drop it"),
    (errors.BadReply, "what stands between us and the store garbles its replies: look at proxies"),
    (errors.LostReply, "look whether the store is reached: what became of the upload is found out by the next try"),
    (errors.Unavailable, "look whether the store is well and reached"),
)
"""The most special first."""


class Keeping:
    """See the module."""

    def __init__(self, filesystem: FileSystem, *, drain: Drain) -> None:
        self._fs = filesystem  # no state of its own
        self._drain = drain

    def table(self) -> dict[str, Verb]:
        return {
            "sync": self.sync,
            "failed_list": self.listed,
            "failed_retry": self.retry,
            "failed_drop": self.drop,
            "failed_read": self.read,
        }

    async def sync(self, request: Request, progress: Progress) -> object:
        """Store everything, and say what could not be stored, or was not in time."""
        seconds = number(request, "timeout_seconds", least=0.0, most=WAIT_MAX_SECONDS)
        backlog = self._fs.backlog()
        progress.follow(
            lambda: (
                backlog.done,
                backlog.total,
                {"bytes": backlog.bytes_done, "bytes_total": backlog.bytes_total},
            )
        )
        with trio.move_on_after(WAIT_MAX_SECONDS if seconds is None else seconds) as scope:
            await backlog.store(self._drain)
        return {
            "count": backlog.total,
            "bytes": backlog.bytes_total,
            "failed": [failure._asdict() for failure in backlog.failures],
            "waiting": backlog.waiting,
            "in_time": not scope.cancelled_caught,
        }

    async def listed(self, request: Request, _progress: Progress) -> object:
        """What is kept, and under which limit."""
        failed = self._fs.failed
        return {"files": [_described(held) for held in _found(failed, request)], "max_bytes": failed.bytes_max}

    async def retry(self, request: Request, progress: Progress) -> object:
        """Try each at once."""
        return await self._each(request, progress, self._fs.failed.retry)

    async def drop(self, request: Request, progress: Progress) -> object:
        """Drop each. Raises Invalid when neither paths nor `all` are given."""
        if not paths_of(request) and request.get("all") is not True:
            raise Invalid("say what is to be dropped: paths, or all of it")
        return await self._each(request, progress, self._fs.failed.drop)

    async def read(self, request: Request, _progress: Progress) -> object:
        """A piece of a kept file; `changed_ns` is the same in each, or they do not belong together."""
        chosen = whole(request, "number", least=0, most=NUMBERS_MAX)
        offset = whole(request, "offset", least=0, most=NUMBERS_MAX)
        size = whole(request, "size", least=1, most=PIECE_MAX_BYTES)
        held, data = await self._fs.failed.read(chosen, offset, size)
        return {
            "data": base64.b64encode(data).decode("ascii"),
            "size": held.size,
            "changed_ns": held.changed_ns,
        }

    async def _each(
        self, request: Request, progress: Progress, act: Callable[[Held], Awaitable[None]]
    ) -> dict[str, object]:
        chosen = _found(self._fs.failed, request)
        told: list[dict[str, object]] = []
        limit = trio.Semaphore(RETRIES_MAX)

        async def one(held: Held) -> None:
            path = held.path
            async with limit:
                try:
                    await act(held)
                except S3MountError as error:
                    told.append({"path": path, "outcome": None, "reason": str(error), "remedy": ""})
                else:
                    reason, remedy = ("", "") if held.outcome == "stored" else (str(held.error), remedy_of(held.error))
                    told.append({"path": path, "outcome": held.outcome, "reason": reason, "remedy": remedy})
            progress(len(told), len(chosen))

        async with trio.open_nursery() as nursery:
            for held in chosen:
                nursery.start_soon(one, held)
        return {"files": sorted(told, key=lambda file: str(file["path"]))}


def remedy_of(error: S3MountError) -> str:
    """What an operator may do about it."""
    return next((words for kind, words in REMEDIES if isinstance(error, kind)), "the log has the store's own words")


def _found(failed: Failed, request: Request) -> list[Held]:
    return failed.find([path.strip("/") for path in paths_of(request)])


def _described(held: Held) -> dict[str, object]:
    return {
        "number": held.number,
        "path": held.path,
        "size": held.size,
        "kept_bytes": held.staged_bytes,
        "since_ns": held.since_ns,
        "reason": str(held.error),
        "remedy": remedy_of(held.error),
        "tries": held.tries,
        "change": held.change,
        "waits_for_you": held.number >= NUMBERS_FROM,
        "next_seconds": None if held.next_at is None else round(max(0.0, held.next_at - trio.current_time()), 1),
    }
