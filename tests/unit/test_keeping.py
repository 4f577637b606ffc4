"""The verbs that keep a mount going, asked as a client asks them: what they answer, refuse, and leave going on."""

import base64
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from s3mount.control import keeping_texts
from s3mount.control.keeping import Keeping, remedy_of
from s3mount.control.rescue import ABORT_SECONDS, FOLLOWING_SECONDS, Rescue
from s3mount.control.server import Progress, Verb
from s3mount.errors import (
    AccessDenied,
    BadReply,
    Invalid,
    LostReply,
    NoEntry,
    S3MountError,
    Unavailable,
)
from s3mount.store.aborting import Aborting
from s3mount.underway import UnderWay
from tests.kernel_model import Kernel, mounted
from tests.memory_store import MemoryStore
from tests.running import run_virtual

DENIED = AccessDenied("403, AccessDenied", status=403)


async def nothing(_paths: list[str]) -> None:
    await trio.lowlevel.checkpoint()


@asynccontextmanager
async def kept(tmp_path: Path) -> AsyncIterator[tuple[Kernel, MemoryStore, dict[str, Verb]]]:
    """A mount that keeps `a` and `d/b` for a store that refuses them, and its verbs."""
    store = MemoryStore()
    store.place("d/", b"")
    async with mounted(store, tmp_path) as kernel:
        store.fail("put", DENIED, times=1000)
        for name in ("a", "d/b"):
            fh = await kernel.open(name, os.O_WRONLY | os.O_CREAT)
            await kernel.fs.write(fh, 0, name.encode() * 1000)
            await kernel.fs.release(fh)
        await trio.testing.wait_all_tasks_blocked()
        yield kernel, store, Keeping(kernel.fs, drain=nothing).table()


async def asked(verb: Verb, **request: object) -> dict[str, Any]:
    answer = await verb(request, Progress())
    assert isinstance(answer, dict)
    return answer


def reach(progress: Progress) -> object:
    return progress.reach


@run_virtual
async def test_the_list_says_all_that_there_is_to_say(tmp_path: Path) -> None:
    async with kept(tmp_path) as (_, _, verbs):
        answer = await asked(verbs["failed_list"], paths=[])
        assert answer["max_bytes"] == 512 << 20  # half of the staging log
        first, second = answer["files"]
        assert (first["path"], second["path"]) == ("a", "d/b")
        assert (second["size"], second["kept_bytes"], second["tries"], second["next_seconds"]) == (3000, 3000, 1, 1.0)
        assert "AccessDenied" in second["reason"]
        text = keeping_texts.kept(answer)
        for words in ("3000 (2.9 KiB)", "next in 1s", "s3:PutObject", "403, AccessDenied", " UTC"):
            assert words in text


@run_virtual
async def test_what_cannot_be_understood_is_refused_and_drops_nothing(tmp_path: Path) -> None:
    async with kept(tmp_path) as (_, _, verbs):
        for verb, request in (
            ("failed_drop", {"paths": []}),
            ("failed_drop", {"paths": [], "all": "yes"}),
            ("failed_drop", {"all": True}),
            ("failed_drop", {"paths": "a"}),
            ("failed_retry", {"paths": [1]}),
            ("failed_read", {"number": 1, "offset": -1, "size": 1}),
            ("failed_read", {"number": 1, "offset": 0, "size": 1 << 30}),
            ("failed_read", {"number": True, "offset": 0, "size": 1}),
            ("sync", {"timeout_seconds": "soon"}),
            ("sync", {"timeout_seconds": -1}),
            ("sync", {"timeout_seconds": float("nan")}),
        ):
            with pytest.raises(Invalid):
                await asked(verbs[verb], **request)
        with pytest.raises(NoEntry):
            await asked(verbs["failed_drop"], paths=["a", "nothing"])
        assert len((await asked(verbs["failed_list"], paths=[]))["files"]) == 2


@run_virtual
async def test_a_try_says_of_each_what_became_of_it(tmp_path: Path) -> None:
    async with kept(tmp_path) as (_, store, verbs):
        store.heal()
        store.fail("put", DENIED, key="a")
        assert await asked(verbs["failed_retry"], paths=["/a/", "d"]) == {
            "files": [
                {"path": "a", "outcome": None, "reason": "403, AccessDenied", "remedy": remedy_of(DENIED)},
                {"path": "d/b", "outcome": "stored", "reason": "", "remedy": ""},
            ]
        }
        assert store.body("d/b") == b"d/b" * 1000
        assert await asked(verbs["failed_drop"], paths=[], all=True) == {
            "files": [{"path": "a", "outcome": "dropped", "reason": "403, AccessDenied", "remedy": remedy_of(DENIED)}]
        }
        assert await asked(verbs["failed_retry"], paths=[]) == {"files": []}


@run_virtual
async def test_content_comes_in_pieces_that_tell_of_which_content_they_are(tmp_path: Path) -> None:
    async with kept(tmp_path) as (kernel, _, verbs):
        (file,) = (await asked(verbs["failed_list"], paths=["d"]))["files"]
        read = partial(asked, verbs["failed_read"], number=file["number"], size=2000)
        first, second = await read(offset=0), await read(offset=2000)
        assert base64.b64decode(str(first["data"])) + base64.b64decode(str(second["data"])) == b"d/b" * 1000
        assert (
            (first["size"], first["changed_ns"])
            == (second["size"], second["changed_ns"])
            == (3000, first["changed_ns"])
        )
        fh = await kernel.open("d/b", os.O_WRONLY)
        await kernel.fs.write(fh, 0, b"changed")
        assert (await read(offset=2000))["changed_ns"] != first["changed_ns"]


@run_virtual
async def test_a_sync_says_what_is_not_stored_in_time_and_how_far_it_is(tmp_path: Path) -> None:
    async with kept(tmp_path) as (_, store, verbs):
        progress = Progress()
        assert reach(progress) == (0, None, {})
        store.latency_seconds = 20
        answer = await verbs["sync"]({"timeout_seconds": 5}, progress)
        assert answer == {"count": 2, "bytes": 4000, "failed": [], "waiting": ["a", "d/b"], "in_time": False}
        assert reach(progress) == (0, 2, {"bytes": 0, "bytes_total": 4000})
        assert isinstance(answer, dict)
        assert list(keeping_texts.not_stored(answer, "5s")) == [
            "a: not stored within 5s; it goes on",
            "d/b: not stored within 5s; it goes on",
        ]
        store.heal()
        await trio.sleep(100)
        answer = await asked(verbs["sync"])
        assert (answer["failed"], answer["in_time"]) == ([], True)
        assert store.body("a") == b"a" * 1000


def test_a_sync_that_ran_out_of_time_says_so_whatever_it_was_waiting_for() -> None:
    answer = {"failed": [{"path": "a", "reason": "403"}], "waiting": [], "in_time": False}
    assert list(keeping_texts.not_stored(answer, "5s")) == [
        "a: 403",
        "the mount: the kernel has not handed over what it holds within 5s",
    ]


def test_what_is_said_is_one_line_that_a_terminal_does_not_act_on() -> None:
    assert keeping_texts.failure("a\nb", "c\n  d\x1b[2J", "e") == "a\\nb: c d\\x1b[2J; e"
    assert keeping_texts.failure("", "why") == "the mount: why"
    assert keeping_texts.bar(1, 4, {}) == "[#####...............] 1 of 4 stored"
    more = {"bytes": 3 << 20, "bytes_total": 4 << 20}
    assert keeping_texts.bar(0, 1, more) == "[###############.....] 0 of 1 stored, 3.0 of 4.0 MiB"
    assert keeping_texts.reach(2, None, {}) == "2 stored"


@pytest.mark.parametrize("error", [DENIED, Unavailable("x"), LostReply("x"), BadReply("x"), S3MountError("x")])
def test_every_reason_has_a_remedy(error: S3MountError) -> None:
    assert remedy_of(error)


def rescue(aborting: Aborting, under_way: UnderWay, outage: dict[str, object] | None = None) -> dict[str, Verb]:
    return Rescue(aborting, under_way, is_stopping=lambda: False, outage=lambda: outage).table()


@run_virtual
async def test_health_tells_of_an_outage_and_asks_nobody() -> None:
    outage: dict[str, object] = {"since_seconds": 7.0, "reason": "nobody is there"}
    for state in (None, outage):
        verbs = rescue(Aborting(), UnderWay(), state)
        assert await asked(verbs["health"]) == {"stopping": False, "outage": state}


@run_virtual
async def test_abort_waits_until_those_of_its_time_have_their_answers_and_refuses_no_longer() -> None:
    aborting, under_way = Aborting(), UnderWay()
    verbs = rescue(aborting, under_way)
    numbers = [under_way.begin(name) for name in ("lookup", "flush", "release")]

    async def answer() -> None:
        await trio.sleep(1)
        under_way.begin("read")  # later than the call
        for number in numbers[:2]:
            under_way.end(number)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        assert await asked(verbs["abort"]) == {"count": 2, "left": {}}
    assert trio.current_time() == 1 + FOLLOWING_SECONDS
    assert not aborting.refused


@run_virtual
async def test_abort_fails_what_the_kernel_held_back_behind_what_failed() -> None:
    aborting, under_way = Aborting(), UnderWay()
    verbs = rescue(aborting, under_way)
    number = under_way.begin("lookup")
    refused = []

    async def kernel() -> None:
        await trio.sleep(1)
        under_way.end(number)
        for _ in range(3):
            following = under_way.begin("lookup")
            await trio.sleep(FOLLOWING_SECONDS / 2)
            refused.append(aborting.refused)
            under_way.end(following)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(kernel)
        assert await asked(verbs["abort"]) == {"count": 1, "left": {}}
    assert refused == [True] * 3
    assert not aborting.refused


@run_virtual
async def test_two_who_abort_at_once_both_return_when_the_answers_are_there() -> None:
    aborting, under_way = Aborting(), UnderWay()
    verbs = rescue(aborting, under_way)
    numbers = [under_way.begin(name) for name in ("lookup", "flush")]
    told: list[tuple[object, float]] = []

    async def abort() -> None:
        told.append((await asked(verbs["abort"]), trio.current_time()))

    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(abort)
        for number in numbers:
            await trio.sleep(1)
            under_way.end(number)
    assert told == [({"count": 2, "left": {}}, 2 + FOLLOWING_SECONDS)] * 2


@run_virtual
async def test_abort_tells_what_does_not_wait_for_the_store_in_the_end() -> None:
    aborting, under_way = Aborting(), UnderWay()
    verbs = rescue(aborting, under_way)
    assert await asked(verbs["abort"]) == {"count": 0, "left": {}}
    for name in ("lookup", "rmdir", "rmdir"):
        under_way.begin(name)
    assert await asked(verbs["abort"]) == {"count": 0, "left": {"lookup": 1, "rmdir": 2}}
    assert trio.current_time() == ABORT_SECONDS
    assert not aborting.refused
