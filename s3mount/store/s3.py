"""S3Store: the ObjectStore that speaks to S3. Signs, sends, retries, and tells a lost reply from a refusal.

The operations, each a few lines over `Requests`; uploads by parts are in `multipart.py`. It knows nothing of the
mount. Facts about stores (SeaweedFS 4.48, moto 5.2): both take `UNSIGNED-PAYLOAD` over plain http and CRC32 checksums
(moto does not verify them). SeaweedFS honours every condition used here, and refuses keys with `.` or `..`
components. moto ignores conditions on copies and If-Match on completions.

After a repetition, a refusal is first compared with the object (`_own_*`): it may be our own first request that
succeeded.
"""

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import trio

from s3mount import errors
from s3mount.config import S3_COPY_MAX_BYTES, Config
from s3mount.store import multipart, renaming
from s3mount.store.abilities import Abilities
from s3mount.store.aborting import Aborting
from s3mount.store.base import (
    ALWAYS,
    Body,
    Condition,
    Headers,
    ObjectInfo,
    Page,
    Part,
    Stored,
    Undeleted,
    Unlogged,
    Upload,
    UploadLog,
)
from s3mount.store.deletion import Deletions
from s3mount.store.dispatch import SKEW_MAX_SECONDS, digest_of
from s3mount.store.download import Download, Listing
from s3mount.store.outage import Outage
from s3mount.store.parts import list_parts
from s3mount.store.presign import Presigned, presigned
from s3mount.store.replies import info_of
from s3mount.store.requests import Requests, condition_lines, etag_in, lines_of, new_token, refused
from s3mount.store.signature import quote_key, quote_query
from s3mount.store.wire import CertificateRefused

CHECK_ATTEMPTS_MAX = 3
SECOND_NS = 1_000_000_000
UNLOGGED = Unlogged()
BAD_KEY_CODES = frozenset({"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken"})


class S3Store:
    """An S3 bucket as an ObjectStore. `run` must be running; `counts` has the requests sent by operation, repeats
    included."""

    away = False
    """What it knows is what the bucket answers."""

    def __init__(
        self,
        config: Config,
        *,
        clock_ns: Callable[[], int] = time.time_ns,
        random: random.Random | None = None,
        upload_log: UploadLog = UNLOGGED,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._config = config
        self._requests = Requests(
            config, clock_ns=clock_ns, draw=random or _system_random(), counts=self.counts, upload_log=upload_log
        )
        self._deletions = Deletions(self._requests, self.delete)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Resolve endpoint and credentials, start the wires, leave when cancelled. Raises StartError."""
        await self._requests.run(task_status=task_status)

    def believe(self, found: Abilities) -> None:
        """Ask for what was found out that the store can do, and for nothing it cannot."""
        self._requests.believe(found)
        self._deletions.believe(found)

    def now_ns(self) -> int:
        """The time by the server's clock, as well as it is known."""
        return self._requests.dispatcher.now_ns()

    @property
    def aborting(self) -> Aborting:
        """The requests under way, for who has to end them."""
        return self._requests.dispatcher.aborting

    @property
    def outage(self) -> Outage:
        """Whether the store is of any use at present."""
        return self._requests.dispatcher.outage

    @property
    def figures(self) -> dict[str, object]:
        """What `s3mount status` shows of the store: where it is, and what was asked and answered. No secret."""
        access = self._requests.access
        return {
            "endpoint": access.address.origin,
            "region": access.address.region,
            "signed": access.signer is not None,
            "clock_skew_seconds": self._requests.dispatcher.skew_seconds,
            "outage": self._requests.dispatcher.outage.figure,
            "requests": dict(sorted(self.counts.items())),
            **self._requests.dispatcher.tally.figures,
        }

    @property
    def connections(self) -> dict[str, dict[str, object]]:
        """How many requests of each kind are under way, and how many may be."""
        return {kind: limiter.figures for kind, limiter in self._requests.limiters.items()}

    async def check(self) -> None:
        """Ask for one key below the prefix, as all a mount may be allowed is there. Raises StartError in one line."""
        config, access = self._config, self._requests.access
        order = self._requests.one_key("list")
        order.attempts_max = CHECK_ATTEMPTS_MAX
        where = f"at {access.address.origin}"
        dispatcher = self._requests.dispatcher
        try:
            await self._requests.send(order)
        except errors.NoSuchBucket as error:
            raise errors.StartError(f"there is no bucket {config.bucket!r} {where}: create or name another") from error
        except errors.StoreError as error:
            if not isinstance(error, errors.ClockSkew):
                raise errors.StartError(self._words(error, where)) from error
        if abs(dispatcher.skew_seconds) > SKEW_MAX_SECONDS:
            raise errors.StartError(
                f"the clock is {abs(dispatcher.skew_seconds)} s off the store's: set it, S3 refuses more than 900"
            )

    def _words(self, error: errors.StoreError, where: str) -> str:
        config = self._config
        if error.code in BAD_KEY_CODES:
            return f"the store {where} does not know these credentials ({error.code}): check access key and secret key"
        if isinstance(error, errors.AccessDenied):
            how = "--no-sign-request, if the bucket is not public" if config.no_sign_request else "other credentials"
            if config.expected_bucket_owner is not None:
                how += ", or another --expected-bucket-owner"
            return (
                f"listing {config.source} is not allowed ({error.code or 403}): grant s3:ListBucket, or drop/use {how}"
            )
        if isinstance(error.__cause__, CertificateRefused):
            return f"the certificate {where} is not good, or AWS_CA_BUNDLE names other authorities: {error.__cause__}"
        if isinstance(error, errors.Unavailable):
            return f"no usable answer {where}: check --endpoint-url, network and proxy ({error})"
        return f"{config.source} {where} cannot be used: {error}"

    # Reading.

    async def head(self, key: str) -> ObjectInfo:
        generation = self._requests.access.generation
        try:
            return (await self._requests.head(key))[0]
        except errors.StoreError as error:
            # A HEAD has no error document: 403 may mean absent where listing is forbidden, 400 that a token expired.
            if error.status not in (400, 403) or isinstance(error, errors.ClockSkew):
                raise
            page = await self._list_for(key, error)
            if self._requests.access.generation != generation:
                return (await self._requests.head(key))[0]
            if any(listed.key == key for listed in page.objects):
                if error.status == 400:
                    words = f"HEAD {key!r}: encrypted with a customer's key that is not ours, or not with ours"
                    raise errors.AccessDenied(words, code=error.code, status=error.status) from error
                raise
            raise errors.NotFound(f"HEAD {key!r}: not listed", code="NoSuchKey", status=404) from error

    async def _list_for(self, key: str, refusal: errors.StoreError) -> Page:
        try:
            return await self.list_page(key, max_keys=1)
        except errors.AccessDenied as error:
            raise errors.AccessDenied(f"HEAD {key!r}: {error}", code=error.code, status=error.status) from refusal

    async def tags(self, key: str) -> str:
        return await multipart.tags(self._requests, key)

    async def get(
        self,
        key: str,
        start: int,
        into: memoryview,
        *,
        if_match: str | None = None,
        if_none_match: str | None = None,
        version_id: str | None = None,
        arrived: Callable[[int], None] | None = None,
    ) -> ObjectInfo | None:
        download = Download(start, into, if_match=if_match, if_none_match=if_none_match, arrived=arrived)
        query = "" if version_id is None else quote_query([("versionId", version_id)])
        while True:
            filled = download.filled
            order = self._requests.read(key, query, len(into))
            order.prepare, order.received_bytes = download.prepare, download.received_bytes
            reply = await self._requests.send(order)
            if reply.status == 304:
                return None
            if download.complete:
                date_ns = self._requests.dispatcher.date_ns(reply.headers)
                return info_of(key, download.headers, download.size, date_ns)
            if download.filled == filled:
                raise errors.BadReply(f"GET {key!r}: nothing of the range asked for came", status=reply.status)

    async def presign(self, key: str, seconds: int) -> Presigned:
        """An address at which anybody can GET the object for so long. Raises NotSupported."""
        return await presigned(self._requests, key, seconds)

    async def list_page(
        self, prefix: str, *, delimiter: str = "", start_after: str = "", token: str | None = None, max_keys: int = 1000
    ) -> Page:
        query = [("list-type", "2"), ("encoding-type", "url"), ("max-keys", str(max_keys)), ("prefix", prefix)]
        if delimiter:
            query.append(("delimiter", delimiter))
        if token is not None:
            query.append(("continuation-token", token))
        elif start_after:
            query.append(("start-after", start_after))
        listing = Listing()
        order = self._requests.metadata("list", "GET", None, quote_query(query))
        order.prepare = listing.prepare
        try:
            reply = await self._requests.send(order)
        except errors.NotFound as error:
            raise errors.NoSuchBucket(str(error), code=error.code, status=error.status) from error
        page = listing.page(self._requests.dispatcher.date_ns(reply.headers))
        if token is not None and page.token == token:
            raise errors.BadReply(f"LIST of {prefix!r} repeats its continuation token", status=reply.status)
        return page

    # Changing.

    async def put(self, key: str, body: Body, headers: Headers, condition: Condition = ALWAYS) -> Stored:
        return await self._requests.conditional("put", key, condition, partial(self._put, key, body, headers))

    async def _put(self, key: str, body: Body, headers: Headers, condition: Condition) -> Stored:
        requests = self._requests
        token = requests.token_for(condition)
        order = requests.upload("put", key, "", [*lines_of(headers, token), *condition_lines(condition)], body)
        try:
            reply = await requests.send_checked(order, key)
        except (errors.PreconditionFailed, errors.NotFound) as error:
            if isinstance(error, errors.NotFound) and condition.etag is None:
                raise
            if order.repeated:
                own = await self._own_put(key, body, token)
                if own is not None:
                    return own
            raise refused(error, f"PUT {key!r}") from error
        return requests.stored(reply)

    async def _own_put(self, key: str, body: Body, token: str | None) -> Stored | None:
        """What our own first PUT stored, if it did: by the token of a creation, else by the digest of the body."""
        seen = await self._requests.look(key)
        if seen is None:
            return None
        info, theirs = seen
        ours = theirs == token if token is not None else info.etag == f'"{(await digest_of(body, "md5")).hex()}"'
        return Stored(info.etag, info.last_modified_ns, info.version_id) if ours else None

    async def delete(self, key: str, condition: Condition = ALWAYS) -> None:
        await self._requests.settled(key, condition, partial(self._delete, key))

    async def _delete(self, key: str, condition: Condition) -> None:
        if condition.absent:
            return
        order = self._requests.metadata("delete", "DELETE", key, "", condition_lines(condition), mutating=True)
        try:
            await self._requests.mutate(key, order)
        except (errors.PreconditionFailed, errors.NotFound) as error:
            if condition.etag is None and isinstance(error, errors.NotFound):
                return
            # Gone after a repetition: our own first request did it, and gone is what was asked for.
            if order.repeated and await self._requests.look(key) is None:
                return
            raise refused(error, f"DELETE {key!r}") from error

    async def delete_many(self, versions: Sequence[tuple[str, str | None]]) -> tuple[Undeleted, ...]:
        return await self._deletions.delete_many(versions)

    async def delete_batch(self, versions: Sequence[tuple[str, str | None]]) -> tuple[Undeleted, ...]:
        return await self._deletions.delete_batch(versions)

    async def copy(
        self,
        source: str,
        target: str,
        *,
        source_etag: str,
        source_size: int | None = None,
        headers: Headers | None = None,
        condition: Condition = ALWAYS,
    ) -> Stored:
        act = partial(self._copy, source, target, source_etag, headers)
        return await self._requests.conditional("copy", target, condition, act)

    async def _copy(
        self, source: str, target: str, source_etag: str, headers: Headers | None, condition: Condition
    ) -> Stored:
        requests = self._requests
        # A creation is recognised by a token in its metadata, so these cannot be left to the server to keep.
        if (headers is None and condition.absent) or self._config.copy_max_bytes < S3_COPY_MAX_BYTES:
            info = await self._source(source, source_etag)
            if info.size > self._config.copy_max_bytes:
                return await multipart.copy_by_parts(requests, info, target, headers, condition)
            if headers is None and condition.absent:
                headers = info.headers
        token = new_token() if condition.absent else None
        lines = [
            ("x-amz-copy-source", f"/{self._config.bucket}/{quote_key(source)}"),
            ("x-amz-copy-source-if-match", source_etag),
            *condition_lines(condition),
        ]
        if headers is not None:
            lines += [("x-amz-metadata-directive", "REPLACE"), *lines_of(replace(headers, tags=""), token)]
        order = requests.slow("copy", "PUT", target, "", lines)
        started_ns = requests.dispatcher.now_ns() // SECOND_NS * SECOND_NS
        try:
            reply = await requests.mutate(target, order)
        except (errors.PreconditionFailed, errors.NotFound):
            if order.repeated:
                own = await self._own_copy(target, source_etag, headers, token, started_ns)
                if own is not None:
                    return own
            raise
        except errors.StoreError as error:
            if error.code not in ("InvalidRequest", "EntityTooLarge"):
                raise
            info = await self._source(source, source_etag)
            if info.size <= self._config.copy_max_bytes:
                raise
            return await multipart.copy_by_parts(requests, info, target, headers, condition)
        return requests.stored(reply, etag_in(order.document, f"copy of {source!r}"))

    async def _source(self, source: str, source_etag: str) -> ObjectInfo:
        info = await self.head(source)
        if info.etag != source_etag:
            raise errors.PreconditionFailed(f"{source!r} is {info.etag} now", code="PreconditionFailed", status=412)
        return info

    async def _own_copy(
        self, target: str, source_etag: str, headers: Headers | None, token: str | None, started_ns: int
    ) -> Stored | None:
        """What our own first copy made, if it did. Only an object as young as our request can be that."""
        seen = await self._requests.look(target)
        if seen is None:
            return None
        info, theirs = seen
        if token is not None:
            ours = theirs == token
        else:
            # The copy of a multipart object has an etag of its own, and so has what is encrypted with a key.
            etag_is_new = "-" in source_etag or self._requests.opaque_etags
            ours = info.last_modified_ns >= started_ns and (info.etag == source_etag or etag_is_new)
            ours = ours and (headers is None or dict(info.headers.metadata) == dict(headers.metadata))
        return Stored(info.etag, info.last_modified_ns, info.version_id) if ours else None

    @property
    def keeps_conditions(self) -> bool:
        return self._requests.keeps_conditions

    @property
    def renames(self) -> bool:
        return self._requests.renames and renaming.permits(self._config)

    @property
    def ghosts(self) -> bool:
        return self._requests.ghosts

    async def rename(
        self,
        source: str,
        target: str,
        *,
        source_etag: str,
        source_size: int | None = None,
        condition: Condition = ALWAYS,
    ) -> None:
        act = partial(renaming.rename, self._requests, source, target, source_etag)
        await self._requests.settled(target, condition, act)

    # Uploads by parts.

    async def create_upload(self, key: str, headers: Headers, condition: Condition = ALWAYS) -> Upload:
        return await multipart.create(self._requests, key, headers, condition)

    async def upload_part(self, upload: Upload, number: int, body: Body) -> Part:
        return await multipart.upload_part(self._requests, upload, number, body)

    async def copy_part(
        self, upload: Upload, number: int, source: str, start: int, stop: int, *, source_etag: str
    ) -> Part:
        return await multipart.copy_part(self._requests, upload, number, source, start, stop, source_etag)

    async def complete_upload(self, upload: Upload, parts: Sequence[Part], condition: Condition = ALWAYS) -> Stored:
        act = partial(multipart.complete, self._requests, upload, parts)
        return await self._requests.conditional("complete", upload.key, condition, act)

    async def abort_upload(self, upload: Upload) -> None:
        await multipart.abort(self._requests, upload)

    async def has_parts(self, upload: Upload) -> bool:
        return await multipart.has_parts(self._requests, upload)

    async def list_parts(self, upload: Upload) -> tuple[Part, ...]:
        return await list_parts(self._requests, upload)

    async def list_uploads(self, prefix: str, *, exactly: bool = False) -> tuple[Upload, ...]:
        return await multipart.list_uploads(self._requests, prefix, exactly=exactly)

    async def settle(self, key: str) -> None:
        await trio.lowlevel.checkpoint()

    async def settle_below(self, prefix: str) -> None:
        await trio.lowlevel.checkpoint()


def _system_random() -> random.Random:
    return random.SystemRandom()
