"""The requests of one bucket: orders with the right limit, wire and deadline; checksums; keys in doubt.

What `s3.py` and `multipart.py` share. The mutable state: the two wires, the three limiters, which checksum the store
takes, whether etags are digests, which conditions the store keeps, whether it renames or has ghosts, and the keys
whose last mutation may still have an effect that nobody has seen. What the options have requests carry is known once
`run` has begun.
"""

import logging
import random
import secrets
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from math import inf
from typing import Literal, TypeVar

import trio

from s3mount import errors
from s3mount.config import KIB, Config
from s3mount.store import carried
from s3mount.store.abilities import CONDITIONS, Abilities
from s3mount.store.base import ABSENT, ALWAYS, Body, Condition, Headers, ObjectInfo, Stored, UploadLog
from s3mount.store.checksums import checksum_lines
from s3mount.store.dispatch import Dispatcher
from s3mount.store.endpoint import Access
from s3mount.store.order import Order
from s3mount.store.outage import watch
from s3mount.store.replies import header_lines, info_of, quoted_etag, version_of, write_token_of
from s3mount.store.retry import Limiter
from s3mount.store.signature import quote_key, quote_query
from s3mount.store.wire import Reply, Wire, WireOptions

log = logging.getLogger(__name__)

SMALL_BYTES = 256 * KIB
"""Bodies up to here travel with the metadata, so that they need not queue behind large ones."""
DOUBTS_MAX = 10_000
DOUBT_ROUNDS_MAX = 3
CHECKSUM_REFUSALS = frozenset({"NotImplemented", "InvalidRequest", "InvalidArgument", "UnsupportedArgument"})

Line = tuple[str, str]
T = TypeVar("T")


class Requests:
    """See the module."""

    def __init__(
        self,
        config: Config,
        *,
        clock_ns: Callable[[], int],
        draw: random.Random,
        counts: Counter[str],
        upload_log: UploadLog,
    ) -> None:
        self.config = config
        self.upload_log = upload_log
        self.access = Access(config)
        self.dispatcher = Dispatcher(config, self.access, clock_ns, draw, counts)
        self._metadata = Limiter(config.metadata_requests_max)
        self._reads = Limiter(config.read_requests_max)
        self._uploads = Limiter(config.upload_requests_max)
        self.limiters = {"metadata": self._metadata, "read": self._reads, "upload": self._uploads}
        self._metadata_wire: Wire
        self._bulk_wire: Wire
        self._checksum: Literal["crc32", "md5", "off"] = "crc32" if config.checksum else "off"
        self._doubts: OrderedDict[str, None] = OrderedDict()
        self.carried = carried.NOTHING
        self.opaque_etags = config.sse_customer_key_file is not None or _by_kms(config.sse)
        self._keeps: dict[str, bool] = {}
        self.renames = False
        self.ghosts = False

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Resolve the endpoint, then drive the wires until cancelled. Raises StartError before it has started."""
        self.carried = carried.carried_by(self.config)
        await self.access.open()
        carried.check_secrecy(self.carried, self.access.address.origin, self.access.address.proxy)
        options = WireOptions(
            ca=self.access.address.ca,
            proxy=self.access.address.proxy,
            connect_timeout_seconds=self.config.connect_timeout_seconds,
            idle_connections_max=self.config.idle_connections_max,
            idle_connection_seconds=self.config.idle_connection_seconds,
        )
        self._metadata_wire, self._bulk_wire = self.dispatcher.aborting.wires = Wire(options), Wire(options)
        async with trio.open_nursery() as nursery:
            await nursery.start(self._metadata_wire.run)
            await nursery.start(self._bulk_wire.run)
            nursery.start_soon(watch, self.dispatcher.outage, self._probe)
            task_status.started()

    async def _probe(self) -> None:
        order = self.one_key("probe")
        order.attempts_max, order.urgent = 1, False
        await self.send(order)

    # Orders.

    def one_key(self, name: str) -> Order:
        """Asks for one key below the prefix: what every mount may do."""
        query = quote_query([("list-type", "2"), ("max-keys", "1"), ("prefix", self.config.prefix)])
        order = self.metadata("list", "GET", None, query)
        order.name = name
        return order

    def metadata(
        self,
        name: str,
        method: str,
        key: str | None,
        query: str = "",
        headers: list[Line] | None = None,
        *,
        mutating: bool = False,
    ) -> Order:
        """A request without much of a body, about `key` or the bucket; it has one deadline over all attempts."""
        return Order(
            name=name,
            method=method,
            path="" if key is None else "/" + quote_key(key),
            query=query,
            headers=headers if headers is not None else [],
            carried=self.carried.by(name),
            mutating=mutating,
            urgent=not mutating,
            limiter=self._metadata,
            wire=self._metadata_wire,
            deadline_seconds=self.config.metadata_deadline_seconds,
            stall_seconds=self.config.stall_timeout_seconds,
        )

    def slow(self, name: str, method: str, key: str, query: str, headers: list[Line], body: Body = ()) -> Order:
        """A copy or completion: the server may work for minutes before it says a word."""
        order = self.metadata(name, method, key, query, headers, mutating=True)
        order.body = body
        order.limiter = self._uploads  # thousands of copied parts must not keep `ls` waiting
        order.deadline_seconds = inf
        order.stall_seconds = max(self.config.metadata_deadline_seconds, self.config.stall_timeout_seconds)
        return order

    def read(self, key: str, query: str, size: int) -> Order:
        """A GET of up to `size` bytes; it may take as long as bytes move."""
        return Order(
            name="get",
            method="GET",
            path="/" + quote_key(key),
            query=query,
            carried=self.carried.by("get"),
            limiter=self._reads,
            wire=self._metadata_wire if size <= SMALL_BYTES else self._bulk_wire,
            deadline_seconds=inf,
            stall_seconds=self.config.stall_timeout_seconds,
        )

    def upload(self, name: str, key: str, query: str, headers: list[Line], body: Body) -> Order:
        """A PUT of a body; it may take as long as bytes move."""
        return Order(
            name=name,
            method="PUT",
            path="/" + quote_key(key),
            query=query,
            headers=headers,
            carried=self.carried.by(name),
            body=body,
            mutating=True,
            limiter=self._uploads,
            wire=self._metadata_wire if size_of(body) <= SMALL_BYTES else self._bulk_wire,
            deadline_seconds=inf,
            stall_seconds=self.config.stall_timeout_seconds,
        )

    def send(self, order: Order) -> Awaitable[Reply]:
        return self.dispatcher.send(order)

    async def mutate(self, key: str, order: Order) -> Reply:
        """Send; whatever may have had its effect unseen leaves the key in doubt."""
        try:
            reply = await self.dispatcher.send(order)
        except BaseException as error:
            # A refusal after a lost reply is judged by the caller; then the key's state is known.
            if order.in_doubt and not isinstance(
                error, errors.PreconditionFailed | errors.NotFound | errors.NoSuchUpload
            ):
                self.doubt(key)
            raise
        return reply

    async def send_checked(self, order: Order, key: str | None) -> Reply:
        """Send a body with a checksum of the kind the store takes, finding out once which that is.

        With `key` the order changes that key; without, it is a part, which changes nothing visible.
        """
        bare = order.headers
        kind = self._checksum
        while True:
            lines = await checksum_lines(order.body, kind)
            order.headers = bare + lines
            try:
                reply = await (self.send(order) if key is None else self.mutate(key, order))
            except errors.StoreError as error:
                if kind != "crc32" or error.status not in (400, 501) or error.code not in CHECKSUM_REFUSALS:
                    raise
                kind = "md5"
                continue
            self._checksum = kind
            theirs = reply.headers.get("x-amz-checksum-crc32")
            if kind == "crc32" and theirs is not None and lines and theirs != lines[0][1]:
                raise errors.BadReply(f"PUT {order.path}: the store has other bytes: {theirs} instead of {lines[0][1]}")
            return reply

    @property
    def sends_crc32(self) -> bool:
        return self._checksum == "crc32"

    def without_crc32(self) -> None:
        self._checksum = "md5"

    def token_for(self, condition: Condition) -> str | None:
        """What recognises our own PUT after a lost reply; None where the etag does."""
        return new_token() if condition.absent or (condition.etag and self.opaque_etags) else None

    def _learn(self, headers: Mapping[str, str]) -> None:
        """A bucket may encrypt by itself; then too an etag is no digest of the bytes."""
        self.opaque_etags = self.opaque_etags or _by_kms(headers.get("x-amz-server-side-encryption"))

    # What replies mean.

    def stored(self, reply: Reply, etag: str | None = None) -> Stored:
        etag = quoted_etag(etag if etag is not None else reply.headers.get("etag", ""))
        if not etag:
            raise errors.BadReply("the store told no etag of what it has stored", status=reply.status)
        self._learn(reply.headers)
        return Stored(etag, self.dispatcher.date_ns(reply.headers), version_of(reply.headers))

    async def head(self, key: str, *, urgent: bool = True) -> tuple[ObjectInfo, str | None]:
        """A HEAD, and the token of ours that created the object. A 403 is not settled here."""
        order = self.metadata("head", "HEAD", key)
        order.urgent = urgent
        reply = await self.send(order)
        length = reply.headers.get("content-length", "")
        if not length.isdigit():
            raise errors.BadReply(f"HEAD {key!r}: no size")
        self._learn(reply.headers)
        date_ns = self.dispatcher.date_ns(reply.headers)
        return info_of(key, reply.headers, int(length), date_ns), write_token_of(reply.headers)

    async def look(self, key: str) -> tuple[ObjectInfo, str | None] | None:
        """A HEAD to judge a change by, as patient as that is; None when the object is absent."""
        try:
            return await self.head(key, urgent=False)
        except errors.NotFound:
            return None

    # Conditions the store does not keep.

    def believe(self, found: Abilities) -> None:
        """From now on conditions that were found lacking are not sent; for those found kept no refusal counts."""
        for name in CONDITIONS:
            kept = getattr(found, name)
            if kept is not None:
                self._keeps[name] = kept
        self.renames = self.renames if found.rename is None else found.rename
        self.ghosts = self.ghosts if found.ghosts is None else found.ghosts

    @property
    def keeps_conditions(self) -> bool:
        """Whether no condition of a PUT was found lacking."""
        return self._keeps.get("put_if_absent", True) and self._keeps.get("put_if_match", True)

    def conditional(
        self, operation: str, key: str, condition: Condition, act: Callable[[Condition], Awaitable[T]]
    ) -> Awaitable[T]:
        """As `settled`, without conditions that the store does not keep: by what was found out, and where nothing was,
        by its own word (501, NotImplemented). Any other refusal may be of the request, and without its condition the
        request would replace what it must not."""

        async def known(condition: Condition) -> T:
            if condition == ALWAYS:
                return await act(ALWAYS)
            kind = "absent" if condition.absent else "match"
            name = f"{operation}_if_{kind}"
            # What is lacking for a PUT, nobody has for the rarer operations, which are not all tried.
            if not self._keeps.get(name, self._keeps.get(f"put_if_{kind}") is not False):
                return await act(ALWAYS)
            try:
                return await act(condition)
            except errors.StoreError as error:
                if name in self._keeps or (error.status != 501 and error.code != "NotImplemented"):
                    raise
                refusal = error
            done = await act(ALWAYS)
            level = logging.WARNING if all(self._keeps.values()) else logging.INFO
            log.log(level, "store refuses conditions, they are not sent any more refused=%s reason=%s", name, refusal)
            self._keeps[name] = False
            return done

        return self.settled(key, condition, known)

    # Keys in doubt.

    def doubt(self, key: str) -> None:
        self._doubts[key] = None
        self._doubts.move_to_end(key)
        if len(self._doubts) > DOUBTS_MAX:
            self._doubts.popitem(last=False)

    def doubts(self, key: str) -> bool:
        return key in self._doubts

    def settled(self, key: str, condition: Condition, act: Callable[[Condition], Awaitable[T]]) -> Awaitable[T]:
        """Do `act`; when `key` is in doubt and the caller asks no condition, on condition of what is there now.

        So an earlier request that has its effect late is found instead of being mixed up with this one.
        """
        return self._settle(key, condition, act) if key in self._doubts else act(condition)

    async def _settle(self, key: str, condition: Condition, act: Callable[[Condition], Awaitable[T]]) -> T:
        for _ in range(DOUBT_ROUNDS_MAX - 1):
            if condition != ALWAYS:
                break
            seen = await self.look(key)
            try:
                done = await act(ABSENT if seen is None else Condition(etag=seen[0].etag))
            except errors.PreconditionFailed:
                continue
            self._doubts.pop(key, None)
            return done
        done = await act(condition)
        self._doubts.pop(key, None)
        return done


def _by_kms(encryption: str | None) -> bool:
    return encryption is not None and encryption.startswith("aws:kms")


def lines_of(headers: Headers, token: str | None = None) -> list[Line]:
    try:
        return header_lines(headers, token)
    except ValueError as error:
        raise errors.StoreError(str(error), code="InvalidArgument", status=400) from error


def condition_lines(condition: Condition) -> list[Line]:
    if condition.etag is not None:
        return [("if-match", condition.etag)]
    return [("if-none-match", "*")] if condition.absent else []


def new_token() -> str:
    """What recognises our own creation: two hosts must never draw the same one."""
    return secrets.token_hex(8)


def size_of(body: Body) -> int:
    return sum(map(len, body))


def refused(error: errors.StoreError, words: str) -> errors.PreconditionFailed:
    """A condition that does not hold, in one class, however the store has put it."""
    if isinstance(error, errors.PreconditionFailed):
        return error
    failed = errors.PreconditionFailed(f"{words}: {error}", code=error.code, status=error.status)
    failed.__cause__ = error
    return failed


def etag_in(document: Mapping[str, str], words: str) -> str:
    etag = document.get("ETag", "")
    if not etag:
        raise errors.BadReply(f"{words}: the reply names no etag")
    return quoted_etag(etag)
