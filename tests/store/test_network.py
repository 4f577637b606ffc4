"""S3Store on a real server when names, certificates and clocks are wrong: what a start says, and what it is later."""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from s3mount import errors
from s3mount.config import Config
from s3mount.store.base import Headers
from s3mount.store.endpoint import Access
from tests.proxy import FaultProxy
from tests.running import run_trio
from tests.servers import make_tls
from tests.store.places import opened
from tests.store.test_faults import refusal


def config_of(proxy: FaultProxy, bucket: str, **options: object) -> Config:
    base = Config(bucket=bucket, endpoint_url=proxy.endpoint_url, region="us-east-1")
    return replace(base, retry_seconds=0.0, backoff_base_seconds=0.01, **options)  # type: ignore[arg-type]


@run_trio
async def test_a_start_says_what_is_wrong_with_a_certificate(proxy: FaultProxy, bucket: str, tmp_path: Path) -> None:
    good, other = make_tls(tmp_path / "good"), make_tls(tmp_path / "other")
    ended = make_tls(tmp_path / "ended", ended=True)
    url = proxy.present(good)
    async with opened(config_of(proxy, bucket, endpoint_url=url, ca_bundle=good.ca)) as store:
        await store.check()
    words = await refusal(config_of(proxy, bucket, endpoint_url=url, ca_bundle=other.ca))
    assert "the certificate at https://" in words
    assert "AWS_CA_BUNDLE" in words
    proxy.present(ended)
    words = await refusal(config_of(proxy, bucket, endpoint_url=url, ca_bundle=ended.ca))
    assert "certificate has expired" in words


@run_trio
async def test_a_name_that_is_not_known_is_said_at_start_and_an_error_while_it_lasts(
    proxy: FaultProxy, bucket: str
) -> None:
    """DNS: a name that does not resolve at start, and one that stops to."""
    nowhere = "http://nowhere.invalid"
    words = await refusal(config_of(proxy, bucket, endpoint_url=nowhere))
    assert "nowhere.invalid" in words
    assert "--endpoint-url" in words
    async with opened(config_of(proxy, bucket)) as store:
        await store.put("k", (b"x",), Headers())
        access: Access = store._requests.access
        here = access.address
        access.address = replace(here, origin=nowhere)
        for call in (store.head("k"), store.list_page(""), store.get("k", 0, memoryview(bytearray(1)))):
            with pytest.raises(errors.Unavailable, match=r"nowhere\.invalid"):
                await call
        with pytest.raises(errors.Unavailable):  # nothing was sent: no reply was lost
            await store.put("k", (b"y",), Headers())
        access.address = here
        await store.put("k", (b"z",), Headers())
        await store.delete("k")


@run_trio
async def test_a_clock_that_jumps_is_an_error_in_words_until_it_jumps_back(proxy: FaultProxy, bucket: str) -> None:
    """D5, while running."""
    shift_seconds = 0
    async with opened(config_of(proxy, bucket), lambda: time.time_ns() + shift_seconds * 10**9) as store:
        await store.put("k", (b"x",), Headers())
        for shift_seconds in (1200, -1200):
            for call in (lambda: store.head("k"), lambda: store.list_page(""), lambda: store.delete("k")):
                with pytest.raises(errors.ClockSkew, match=r"the clock is 1(19|20)\d s off"):
                    await call()
            assert store.figures["outage"] is not None
            shift_seconds = 0
            await store.put("k", (b"z",), Headers())
            assert store.figures["outage"] is None
        await store.delete("k")
