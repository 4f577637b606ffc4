"""Sends one S3 request until it is answered: signing, limits, retries, expired credentials, other regions, the clock.

Knows HTTP and S3's way of refusing, but no operation: an `Order` says what to send and where the reply goes. What an
operation means by a refusal, above all after a repetition, is `s3.py`'s to judge; `Order.repeated` and
`Order.in_doubt` tell it.

A failure that may pass is asked again until `retry_seconds` are over since the store began to be of no use, and several
times at least (`retry.Tries`); a metadata request besides has a deadline over all, its wait for a turn included. Reads
and uploads have none while bytes move; how long they wait for their turn in an outage is limited all the same.

The mutable state: the offset of the server's clock, how payloads are signed, the counts; each changes between
checkpoints.
"""

import hashlib
import logging
import random
from collections import Counter
from collections.abc import Callable, Mapping
from math import inf

import trio

from s3mount import errors
from s3mount.config import Config
from s3mount.store.aborting import Aborting
from s3mount.store.base import Body
from s3mount.store.endpoint import Access
from s3mount.store.order import Course, Order
from s3mount.store.outage import Outage
from s3mount.store.replies import (
    EXPIRED_CODES,
    REDIRECT_CODES,
    RETRIED_CODES,
    RETRIED_STATUSES,
    SLOW_STATUSES,
    THROTTLED_CODES,
    error_of,
    fields_of,
    parse_date_ns,
)
from s3mount.store.retry import SILENCES_MIN, Backoff, Tries
from s3mount.store.signature import EMPTY_SHA256, UNSIGNED_PAYLOAD
from s3mount.store.tally import CANCELLED, OK, Tally, outcome_of_failure, outcome_of_status
from s3mount.store.wire import (
    BadHttp,
    CertificateRefused,
    DeadlineExceeded,
    Reply,
    Request,
    SmallBody,
    Stalled,
    WireClosed,
    WireError,
)

log = logging.getLogger(__name__)

SKEW_MIN_SECONDS = 2
SKEW_MAX_SECONDS = 15 * 60
"""S3 refuses a request that is older or younger."""
HASH_IN_LOOP_BYTES = 64 * 1024
REFUSALS = frozenset({400, 401, 403})
"""No sign that the store is of use again: of expired credentials a HEAD is told no more than this."""
PAGE_STARTS = (b"<!doctype html", b"<html")
PROGRESS_BYTES = 64 * 1024
"""An attempt that brought so much was no failure in a row."""


class Dispatcher:
    """Sends orders over an `Access`. Safe for any number of tasks."""

    def __init__(
        self, config: Config, access: Access, clock_ns: Callable[[], int], draw: random.Random, counts: Counter[str]
    ) -> None:
        self._access = access
        self._backoff = Backoff(
            config.backoff_base_seconds, config.backoff_max_seconds, config.attempts_min, config.retry_seconds
        )
        self._patience_seconds = max(config.retry_seconds, config.metadata_deadline_seconds)
        self._clock_ns = clock_ns
        self._draw = draw
        self._counts = counts
        self.outage = Outage(clock_ns)
        self.aborting = Aborting()
        self.tally = Tally()
        self._date = ""
        self._date_ns = 0
        self._offset_seconds = 0
        self._skew_seconds = 0
        self._sign_payloads = False

    @property
    def skew_seconds(self) -> int:
        """How far the server's clock is ahead of ours, by its latest reply."""
        return self._skew_seconds

    def now_ns(self) -> int:
        """The time by the server's clock, as well as we know it."""
        return self._clock_ns() + self._offset_seconds * 1_000_000_000

    def date_ns(self, headers: Mapping[str, str]) -> int:
        """The Date of a reply; our own time when it has none."""
        text = headers.get("date", "")
        if text != self._date:
            self._note_date(text)
        return self._date_ns if text else self.now_ns()

    async def send(self, order: Order) -> Reply:
        """The first reply that is no failure to be asked again: 2xx or 304. Raises StoreError for everything else."""
        if order.urgent and self.outage.since is not None and self.outage.silent:
            raise errors.Unavailable(f"{order.method} {order.path[:200]}: {self.outage.reason}")
        course = Course(self._backoff, order)
        course.usable_at_first = self.outage.usable
        try:
            while True:
                course.generation = self._access.generation
                course.usable = self.outage.usable
                course.received = order.received_bytes() if order.received_bytes is not None else 0
                outcome = await self._attempt(order, course)
                if isinstance(outcome, Reply) and (outcome.status < 300 or outcome.status == 304):
                    order.limiter.better()
                    self.outage.answered()
                    return outcome
                if not course.waiting:
                    course.waiting = True
                    self.outage.waiting += 1
                await self._judged(order, course, outcome)
        finally:
            self.outage.waiting -= course.waiting

    async def _judged(self, order: Order, course: Course, outcome: Reply | WireError | errors.BadReply) -> None:
        """Wait until the next attempt; not if the last one was sent wrongly and is sent otherwise. Raises StoreError
        when there is no next one."""
        retry_after, silent = None, False
        if isinstance(outcome, WireError):
            failure: errors.StoreError = _failure_of(order, outcome)
            again = not isinstance(outcome, CertificateRefused | WireClosed)
            passing = again and not isinstance(outcome, BadHttp)
            silent = isinstance(outcome, Stalled | DeadlineExceeded)
            order.in_doubt |= order.mutating and outcome.sent
        elif isinstance(outcome, Reply):
            failure = self._refusal_of(order, outcome)
            retry_after = outcome.headers.get("retry-after")
            if outcome.status in SLOW_STATUSES or failure.code == "SlowDown":
                order.limiter.slower(trio.current_time())
            if await self._sent_otherwise(order, course, outcome, failure):
                return
            passing = outcome.status in RETRIED_STATUSES or failure.code in THROTTLED_CODES
            again = passing or failure.code in RETRIED_CODES
            refused = failure.code == "ConditionalRequestConflict" or (
                order.throttled_is_refused and (outcome.status == 429 or failure.code in THROTTLED_CODES)
            )
            order.in_doubt |= order.mutating and again and not refused
        else:
            failure, again, passing = outcome, True, False
        tries, since = course.tries, trio.current_time()
        progressed = order.received_bytes is not None and order.received_bytes() - course.received >= PROGRESS_BYTES
        if progressed:
            self.outage.answered()
        else:
            since = self._note_outage(order, course, outcome, failure, passing=passing, silent=silent)
        tries.failed(since, silent=silent, progressed=progressed)
        wait = self._backoff.wait_seconds(tries.failures, self._draw, retry_after)
        hopeless = order.urgent and self.outage.lasts(self._patience_seconds)
        over = not again or tries.over(trio.current_time() + wait, passing=passing, hopeless=hopeless)
        if over or not await self.aborting.pause(wait):
            if passing and course.usable_at_first == self.outage.usable:
                self.outage.given_up()
            if again and order.in_doubt and not isinstance(failure, errors.LostReply):
                # The last failure says nothing of the attempts before it.
                raise errors.LostReply(str(failure), code=failure.code, status=failure.status) from failure
            raise failure
        order.repeated = True

    async def _sent_otherwise(self, order: Order, course: Course, outcome: Reply, failure: errors.StoreError) -> bool:
        """Whether a refusal was about how the request was sent, and that was changed: region, credentials, payload."""
        region = _other_region(order, outcome, failure.code)
        if region is not None and region != self._access.address.region and not course.moved:
            course.moved = True
            await self._access.move_to(region)
            return True
        if not course.renewed and failure.code in (*EXPIRED_CODES, "InvalidAccessKeyId"):
            course.renewed = True
            if await self._access.renew(course.generation):
                return True
        return self._payload_must_be_signed(order, failure, outcome)

    def _note_outage(
        self,
        order: Order,
        course: Course,
        outcome: Reply | WireError | errors.BadReply,
        failure: errors.StoreError,
        *,
        passing: bool,
        silent: bool,
    ) -> float:
        """What the failure of an attempt says of the store at large; since when it is of no use."""
        refuses_all = isinstance(failure, errors.ClockSkew) or failure.code in (*EXPIRED_CODES, "InvalidAccessKeyId")
        lasting = refuses_all or isinstance(outcome, CertificateRefused)
        if passing or lasting:
            words = str(failure)
            return self.outage.failed(
                words.partition(": ")[2] or words,  # without the name of the one object
                silent_seconds=order.stall_seconds if silent else 0.0,
                usable_before=course.usable,
                lasting=lasting,
            )
        if isinstance(outcome, Reply) and outcome.status not in REFUSALS:
            self.outage.answered()
        return trio.current_time()

    async def _turn(self, order: Order, tries: Tries) -> WireError | None:
        """Wait for a slot; why none was got in time."""
        patience = self._backoff.retry_seconds + SILENCES_MIN * order.stall_seconds
        while True:
            # In an outage each slot is held for a stall time-out: a long queue would wait that many times.
            now, since = trio.current_time(), self.outage.since
            ends = min(tries.deadline, max(tries.began, now if since is None else since) + patience)
            if ends <= now:
                what = f"{order.method} {order.path[:200]}"
                return DeadlineExceeded(f"{what}: no turn within {now - tries.began:.0f} s", sent=False)
            with trio.move_on_at(ends):
                await order.limiter.acquire()
                return None

    async def _attempt(self, order: Order, course: Course) -> Reply | WireError | errors.BadReply:
        """One request on the wire. What the wire or the sink found wrong is returned, for `send` to judge."""
        access = self._access
        if access.look_at is not None and access.look_at <= trio.current_time():
            await access.look()
        sink = order.prepare(order) if order.prepare is not None else SmallBody()
        payload = EMPTY_SHA256 if not order.body else UNSIGNED_PAYLOAD
        if self._sign_payloads and order.body:
            payload = (await digest_of(order.body, "sha256")).hex()
        tries = course.tries
        if not order.limiter.take():
            late = await self._turn(order, tries)
            if late is not None:
                return late
        try:
            # Signed with the slot in hand: a signature gets old in the queue.
            address, path = access.address, access.address.path + order.path or "/"
            headers = [*order.headers, *order.carried] if order.carried else order.headers
            if access.signer is not None:
                now_seconds = self._clock_ns() // 1_000_000_000 + self._offset_seconds
                headers = access.signer.headers(
                    order.method, path, order.query, address.host, headers, payload, now_seconds
                )
            request = Request(
                method=order.method,
                url=f"{address.origin}{path}?{order.query}" if order.query else address.origin + path,
                headers=headers,
                body=order.body,
                mutating=order.mutating,
                deadline_seconds=inf if tries.deadline == inf else max(0.001, tries.deadline - trio.current_time()),
                stall_seconds=order.stall_seconds,
            )
            if self.aborting.refusals and self.aborting.refused:
                return WireClosed("given up by `s3mount abort`", sent=False)
            self._counts[order.name] += 1
            began = self.tally.clock()
            try:
                reply = await order.wire.perform(request, sink)
            except (WireError, errors.BadReply) as error:
                self._note(order, outcome_of_failure(error), began, _sent(error), course)
                return error
            except trio.Cancelled:
                self._note(order, CANCELLED, began, 0, course)
                order.in_doubt |= order.mutating
                raise
        finally:
            order.limiter.release()
        outcome, lie = OK if 200 <= reply.status < 300 else outcome_of_status(reply.status), b""
        if isinstance(sink, SmallBody) and reply.status == 200 and sink.content:
            order.document = fields_of(sink.content)
            if order.document.get("") == "Error" or sink.content.lstrip()[:15].lower().startswith(PAGE_STARTS):
                # Whoever reads the status alone would take this for a success. Copies and completions answer 200 first
                # and tell an error in the body; what stands between us and the store answers anything with a page.
                outcome, lie = "bad_reply", bytes(sink.content)
        sent_bytes = sum(map(len, order.body)) if order.body else 0
        self.tally.note(order.name, reply.status, outcome, began, sent_bytes, reply.received)
        if lie:
            return Reply(500, reply.headers, reply.received, lie)
        return reply

    def _note(self, order: Order, outcome: str, began: float, sent_bytes: int, course: Course) -> None:
        """An attempt ended without a reply; of its body so much is there as its order tells."""
        received = 0 if order.received_bytes is None else order.received_bytes() - course.received
        self.tally.note(order.name, 0, outcome, began, sent_bytes, received)

    def _refusal_of(self, order: Order, reply: Reply) -> errors.StoreError:
        if reply.status == 403:
            self._date = ""  # our clock may have jumped since this Date was looked at, within its second
        self.date_ns(reply.headers)
        order.document = fields = fields_of(reply.error) if reply.error else {}
        code = fields.get("Code", "")
        action = f"{order.method} {order.path[:200]}"
        if reply.status == 403 and (code == "RequestTimeTooSkewed" or abs(self._skew_seconds) > SKEW_MAX_SECONDS):
            return errors.ClockSkew(
                f"{action}: the clock is {abs(self._skew_seconds)} s off", code="RequestTimeTooSkewed", status=403
            )
        if code in EXPIRED_CODES:
            return errors.AccessDenied(f"{action}: the credentials have expired", code=code, status=reply.status)
        return error_of(action, reply.status, code, fields.get("Message", ""))

    def _payload_must_be_signed(self, order: Order, failure: errors.StoreError, reply: Reply) -> bool:
        """Whether the store has just refused UNSIGNED-PAYLOAD; from then on every body is hashed."""
        if self._sign_payloads or not order.body or reply.status not in (400, 403, 501):
            return False
        text = f"{failure.code} {order.document.get('Message', '')}".lower()
        if "contentsha256mismatch" not in text and "unsigned-payload" not in text and "content-sha256" not in text:
            return False
        log.info("the store wants payloads signed")
        self._sign_payloads = True
        return True

    def _note_date(self, text: str) -> None:
        self._date = text
        try:
            self._date_ns = parse_date_ns(text)
        except ValueError:
            self._date = ""
            return
        self._skew_seconds = skew = (self._date_ns - self._clock_ns()) // 1_000_000_000
        # Within a second or two it is the road, not the clock; beyond the limit S3 refuses, in words (`check`).
        self._offset_seconds = skew if SKEW_MIN_SECONDS < abs(skew) <= SKEW_MAX_SECONDS else 0


def _other_region(order: Order, reply: Reply, code: str) -> str | None:
    """The region the store says the bucket is in, when that is why it refused."""
    if (
        reply.status not in (301, 307)
        and code not in REDIRECT_CODES
        and not (order.method == "HEAD" and reply.status == 400)
    ):
        return None
    return reply.headers.get("x-amz-bucket-region") or order.document.get("Region")


def _sent(error: WireError | errors.BadReply) -> int:
    return error.sent_bytes if isinstance(error, WireError) else 0


def _failure_of(order: Order, error: WireError) -> errors.StoreError:
    if order.mutating and (error.sent or order.in_doubt):
        failure: errors.StoreError = errors.LostReply(f"the reply was lost: {error}")
    else:
        failure = errors.Unavailable(str(error))
    failure.__cause__ = error
    return failure


async def digest_of(body: Body, algorithm: str) -> bytes:
    """MD5 or SHA-256 of a body; in a thread, where it releases the GIL, when it takes long."""

    def digest() -> bytes:
        hasher = hashlib.new(algorithm, usedforsecurity=False)
        for piece in body:
            hasher.update(piece)
        return hasher.digest()

    if sum([len(piece) for piece in body]) <= HASH_IN_LOOP_BYTES:
        return digest()
    return await trio.to_thread.run_sync(digest)
