"""Credentials that are looked for: seldom when there are no others, never without end, by one task at a time."""

import threading
from datetime import datetime, timedelta, timezone
from pathlib import Path

import botocore.credentials
import botocore.exceptions
import pytest
import trio

from s3mount.config import Config
from s3mount.errors import StartError
from s3mount.store import endpoint
from s3mount.store.endpoint import Access
from s3mount.store.signature import Credentials
from tests.running import run_trio


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[Credentials | threading.Event]:
    """What is found, in turn, the last for good; an event: nothing until it is set."""
    found: list[Credentials | threading.Event] = []
    address = endpoint.Address("http://store", "store", "/b", "us-east-1", None, Path())

    def resolve(_config: Config, _region: str | None) -> tuple[endpoint.Address, None, Credentials | None]:
        answer = found.pop(0) if len(found) > 1 else found[0]
        if isinstance(answer, threading.Event):
            answer.wait(60)
            raise OSError("too late")
        return address, None, answer

    monkeypatch.setattr(endpoint, "_resolve", resolve)
    return found


OLD, NEW = Credentials("old", "secret", None), Credentials("new", "secret", None)


@run_trio
async def test_credentials_that_did_not_change_are_not_looked_for_by_each_request(
    answers: list[Credentials | threading.Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "RENEW_SECONDS", 1000.0)
    answers += [OLD, OLD, NEW]
    access = Access(Config(bucket="b"))
    await access.open()
    for _ in range(10):
        assert not await access.renew(access.generation)
    assert answers == [NEW], "they were looked for once since the start"
    monkeypatch.setattr(access, "_renew_at", 0.0)
    assert await access.renew(access.generation)
    assert access.credentials == NEW


@run_trio
async def test_a_thousand_refused_requests_are_one_renewal(answers: list[Credentials | threading.Event]) -> None:
    answers += [OLD, NEW]
    access = Access(Config(bucket="b"))
    await access.open()
    generation, renewed = access.generation, []

    async def renew() -> None:
        renewed.append(await access.renew(generation))

    async with trio.open_nursery() as nursery:
        for _ in range(1000):
            nursery.start_soon(renew)
    assert renewed == [True] * 1000
    assert access.generation == generation + 1


@run_trio
async def test_a_source_of_credentials_that_hangs_is_left_behind(
    answers: list[Credentials | threading.Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "RESOLVE_SECONDS", 0.05)
    monkeypatch.setattr(endpoint, "RENEW_SECONDS", 0.0)
    hung = threading.Event()
    answers.append(hung)
    access = Access(Config(bucket="b"))
    with pytest.raises(StartError, match="no credentials were found within"):
        await access.open()
    answers[:] = [OLD]
    monkeypatch.setattr(endpoint, "RESOLVE_SECONDS", 30.0)
    await access.open()
    answers[:] = [hung]
    monkeypatch.setattr(endpoint, "RESOLVE_SECONDS", 0.05)
    assert not await access.renew(access.generation)
    answers[:] = [NEW]
    monkeypatch.setattr(endpoint, "RESOLVE_SECONDS", 30.0)
    assert await access.renew(access.generation)
    hung.set()


@pytest.mark.parametrize("well", [True, False])
@run_trio
async def test_credentials_that_are_about_to_expire_are_renewed_before_they_do(
    answers: list[Credentials | threading.Event], *, well: bool
) -> None:
    """As a machine's role gives them: botocore asks for others ahead; a source that is down then costs nothing yet."""
    ends = datetime.now(timezone.utc) + timedelta(minutes=5)

    def ask() -> dict[str, str]:
        if not well:
            raise botocore.exceptions.MetadataRetrievalError(error_msg="down")
        later = ends + timedelta(hours=1)
        return {"access_key": "new", "secret_key": "secret", "token": "token", "expiry_time": later.isoformat()}

    answers.append(OLD)
    access = Access(Config(bucket="b"))
    await access.open()
    access._expiring = botocore.credentials.RefreshableCredentials("old", "secret", "token", ends, ask, "role")
    generation = access.generation
    await access.look()
    assert access.look_at is not None
    assert access.look_at > trio.current_time()
    assert access.credentials == (Credentials("new", "secret", "token") if well else OLD)
    assert access.generation == generation + well
