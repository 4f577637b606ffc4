"""One multipart upload: opened with its first part, parts in any order and again, completed or aborted.

Knows no file: it is told what to send by number. Nothing it does is visible in the bucket before `complete`.
"""

import hashlib
import logging
from collections.abc import Awaitable, Callable

import trio

from s3mount.errors import NoSuchUpload, NotImplementedByStore, S3MountError, Unavailable, again
from s3mount.store.acknowledged import acknowledge
from s3mount.store.base import Body, Condition, Headers, ObjectStore, Part, Stored, Upload
from s3mount.store.replies import multipart_etag

log = logging.getLogger(__name__)


async def nothing() -> None:
    """What has to be done before an upload when nobody says otherwise."""


class CopiesRefused(NotImplementedByStore):
    """The upload is open, and the store refuses to copy a part into it."""


class Multipart:
    """See the module. The key and the headers are those of its start, `condition` is what it is completed on."""

    def __init__(
        self,
        store: ObjectStore,
        nursery: trio.Nursery,
        key: str,
        headers: Headers,
        condition: Condition,
        *,
        before_opening: Callable[[], Awaitable[None]] = nothing,
    ) -> None:
        # The mutable state: the upload once opened, or the error; the parts that are stored; whether it is over. No
        # part is sent twice at a time: the callers see to it.
        self._store = store
        self._nursery = nursery
        self.key = key
        self.headers = headers
        self.condition = condition
        self._before_opening = before_opening
        self._upload: Upload | None = None
        self._opening: trio.Event | None = None
        self._error: S3MountError | None = None
        self.parts: dict[int, Part] = {}
        self.over = False

    def __repr__(self) -> str:
        state = "over" if self.over else "open" if self._upload is not None else "not begun"
        return f"<Multipart of {self.key!r}, {state}, {len(self.parts)} parts>"

    async def send(self, number: int, body: Body) -> None:
        """Store part `number`, replacing an earlier one."""
        self.parts[number] = await self._store.upload_part(await self._opened(), number, body)

    async def copy(self, number: int, source: str, start: int, stop: int, *, source_etag: str) -> None:
        """Store `[start, stop)` of the object `source` as part `number`. Raises CopiesRefused."""
        upload = await self._opened()
        try:
            self.parts[number] = await self._store.copy_part(
                upload, number, source, start, stop, source_etag=source_etag
            )
        except NotImplementedByStore as error:
            raise CopiesRefused(str(error), code=error.code, status=error.status) from error

    def forget(self, number: int) -> None:
        """What was stored as part `number` is not what it should be any more."""
        self.parts.pop(number, None)

    async def complete(self, count: int) -> Stored:
        """Publish parts 1 to `count`."""
        if self._upload is None or self.over:
            raise NoSuchUpload(f"the upload of {self.key!r} was given up")
        chosen = [self.parts[number] for number in range(1, count + 1)]
        stored = await self._store.complete_upload(self._upload, chosen, self.condition)
        self.over = True
        return stored

    def expected_etag(self, count: int) -> str | None:
        """The etag that the object will have, where the server makes it of the parts' MD5 as S3 does."""
        return multipart_etag([self.parts[number] for number in range(1, count + 1)])

    def abort(self) -> None:
        """Have the upload and its parts forgotten, in the background; a failure is logged, not raised."""
        if not self.over:
            self.over = True
            if self._upload is not None:
                self._nursery.start_soon(self._abort, self._upload)

    async def _opened(self) -> Upload:
        if self._upload is None:
            if self._opening is None:
                self._opening = trio.Event()
                # A task of its own: whoever waits for it may be cancelled, and the upload must not be left behind.
                self._nursery.start_soon(self._open)
            await self._opening.wait()
        if self._upload is None:
            assert self._error is not None
            raise again(self._error)
        return self._upload

    async def _open(self) -> None:
        opening = self._opening
        assert opening is not None
        try:
            await self._before_opening()
            self._upload = await self._store.create_upload(self.key, self.headers, self.condition)
        except S3MountError as error:
            self._error = error
            self._opening = None
        except Exception as error:
            log.exception("opening a multipart upload failed by a bug key=%r", self.key)
            self._error = Unavailable(f"the upload of {self.key!r} could not be opened")
            self._error.__cause__ = error
            self._opening = None
        finally:
            opening.set()
        if self.over and self._upload is not None:
            await self._abort(self._upload)

    async def _abort(self, upload: Upload) -> None:
        acknowledge()
        try:
            await self._store.abort_upload(upload)
        except S3MountError as error:
            log.warning("multipart upload was left behind key=%r upload=%s reason=%s", upload.key, upload.id, error)
        except Exception:
            log.exception("multipart upload was left behind by a bug key=%r upload=%s", upload.key, upload.id)


def put_etag(body: Body) -> str:
    """The etag of an object stored by one PUT, where the server makes it of the MD5 as S3 does."""
    digest = hashlib.md5(usedforsecurity=False)
    for piece in body:
        digest.update(piece)
    return f'"{digest.hexdigest()}"'
