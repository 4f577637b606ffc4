"""S3Store over TLS, without signatures, and with style and region resolved as boto3 does."""

import random
from pathlib import Path

import pytest
import trio
import trio.testing

from s3mount import errors
from s3mount.config import Config
from s3mount.store.base import Headers
from s3mount.store.endpoint import Access
from s3mount.store.retry import Backoff, Limiter
from tests.running import run_trio
from tests.servers import Tls, make_bucket, start_seaweedfs
from tests.store.places import opened


@run_trio
async def test_a_store_behind_tls_is_trusted_by_its_ca_alone(
    tls: Tls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start_seaweedfs(tmp_path / "weed", tls=tls)
    try:
        for variable, value in server.environment().items():
            monkeypatch.setenv(variable, value)
        make_bucket(server, "bucket")
        async with opened(Config(bucket="bucket")) as store:
            await store.check()
            await store.put("k", (b"x",), Headers())
            assert (await store.head("k")).size == 1
        monkeypatch.delenv("AWS_CA_BUNDLE")
        async with opened(Config(bucket="bucket")) as store:
            with pytest.raises(errors.StartError):
                await store.check()
    finally:
        server.stop()


@run_trio
async def test_amazon_is_addressed_by_virtual_host_and_others_by_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden-secret")

    async def where(config: Config) -> tuple[str, str, str]:
        access = Access(config)
        await access.open()
        assert "hidden" not in repr(access) + repr(vars(access))
        return access.address.origin, access.address.path, access.address.region

    assert await where(Config(bucket="plain", region="eu-west-1")) == (
        "https://plain.s3.eu-west-1.amazonaws.com",
        "",
        "eu-west-1",
    )
    assert await where(Config(bucket="with.dots", region="eu-west-1")) == (
        "https://s3.eu-west-1.amazonaws.com",
        "/with.dots",
        "eu-west-1",
    )
    other = "http://store.example:9000"
    assert await where(Config(bucket="with.dots", endpoint_url=other)) == (other, "/with.dots", "us-east-1")
    assert await where(Config(bucket="plain", endpoint_url=other, force_path_style=False)) == (
        "http://plain.store.example:9000",
        "",
        "us-east-1",
    )
    with pytest.raises(errors.StartError, match="Express"):
        await where(Config(bucket="fast--use1-az4--x-s3"))


def test_waits_grow_are_drawn_and_honour_retry_after() -> None:
    backoff, draw = Backoff(0.1, 1.0, 6), random.Random(1)
    for failures, most in ((1, 0.1), (2, 0.2), (4, 0.8), (9, 1.0)):
        waits = [backoff.wait_seconds(failures, draw) for _ in range(200)]
        assert max(waits) <= most
        assert max(waits) > most * 0.8
        assert min(waits) < most * 0.2
    assert 3 <= backoff.wait_seconds(1, draw, "3") <= 3.1
    assert backoff.wait_seconds(1, draw, "99999") <= 30.1
    assert backoff.wait_seconds(1, draw, "Sat, 21 Nov 2026 09:30:00 GMT") <= 0.1


@run_trio
async def test_a_limiter_hands_slots_over_and_slows_down() -> None:
    limiter, order = Limiter(4), list[int]()
    for _ in range(4):
        await limiter.acquire()

    async def wait(number: int) -> None:
        await limiter.acquire()
        order.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(wait, number)
            await trio.testing.wait_all_tasks_blocked()
        limiter.slower(10.0)
        limiter.slower(10.5)
        for _ in range(2):
            limiter.release()
        await trio.testing.wait_all_tasks_blocked()
        assert order == []  # two slots are left of four, and both are held
        for _ in range(2):
            limiter.release()
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(order) == [0, 1]
        limiter.release()
    assert order[2] == 2
    for _ in range(20):
        limiter.better()
    assert repr(limiter).startswith("<Limiter 2/4.0 of 4")
