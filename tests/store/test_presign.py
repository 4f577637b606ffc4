"""Addresses that carry their permission: for one object and a time, plain without credentials, never a secret."""

import base64
import json
import sys
import time
import urllib.error
import urllib.request
from datetime import datetime, timedelta, timezone
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import trio

from s3mount.config import Config
from s3mount.errors import NotSupported
from s3mount.store.base import Headers
from tests.running import run_trio
from tests.servers import Server
from tests.store.places import opened

NAMES = ("plain", "a b+c%20?x=1&y#z", "d/e'\"/f~;,", "ü/\n\x01")


def config_of(server: Server, bucket: str, **options: object) -> Config:
    return Config(bucket=bucket, endpoint_url=server.endpoint_url, region=server.region, **options)  # type: ignore[arg-type]


@pytest.fixture
def credentials(seaweedfs: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", seaweedfs.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", seaweedfs.secret_key)


def fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=20) as reply:
        body: bytes = reply.read()
        return body


def status_of(url: str) -> int:
    try:
        fetch(url)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    return 200


@run_trio
@pytest.mark.usefixtures("credentials")
async def test_an_address_fetches_its_object_without_credentials_and_no_other(seaweedfs: Server, bucket: str) -> None:
    async with opened(config_of(seaweedfs, bucket)) as store:
        for name in NAMES:
            await store.put(name, (name.encode(),), Headers())
            before = store.counts.total()
            told = await store.presign(name, 60)
            assert store.counts.total() == before
            assert told.ends_seconds is not None
            assert 50 < told.ends_seconds - time.time() <= 60
            assert not told.temporary
            assert seaweedfs.secret_key not in told.url
            assert await trio.to_thread.run_sync(fetch, told.url) == name.encode()
        address = (await store.presign("plain", 60)).url
        for other in (address.replace("/plain?", "/other?"), address.partition("?")[0]):
            assert await trio.to_thread.run_sync(status_of, other) == 403
        for name in NAMES:
            await store.delete(name)


@run_trio
async def test_where_nothing_is_signed_an_address_is_plain(seaweedfs: Server, bucket: str) -> None:
    async with opened(config_of(seaweedfs, bucket, no_sign_request=True)) as store:
        told = await store.presign("a b", 60)
        assert told.url == f"{seaweedfs.endpoint_url}/{bucket}/a%20b"
        assert (told.ends_seconds, told.temporary) == (None, False)


@run_trio
@pytest.mark.usefixtures("credentials")
async def test_who_pays_is_in_the_address(seaweedfs: Server, bucket: str) -> None:
    config = config_of(seaweedfs, bucket, requester_pays=True, expected_bucket_owner="123456789012")
    async with opened(config) as store:
        query = parse_qs(urlsplit((await store.presign("k", 60)).url).query)
        assert query["x-amz-request-payer"] == ["requester"]
        assert query["X-Amz-SignedHeaders"] == ["host"]


@run_trio
@pytest.mark.usefixtures("credentials")
async def test_no_address_can_carry_a_customers_key(seaweedfs: Server, bucket: str, tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(base64.b64encode(bytes(32)))
    (tmp_path / "key").chmod(0o600)
    async with opened(config_of(seaweedfs, bucket, sse_customer_key_file=tmp_path / "key")) as store:
        with pytest.raises(NotSupported, match="--sse-customer-key-file"):
            await store.presign("k", 60)


@run_trio
async def test_an_address_tells_when_temporary_credentials_end_sooner(
    seaweedfs: Server, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = datetime.now(timezone.utc) + timedelta(hours=1)
    told = {
        "Version": 1,
        "AccessKeyId": "AKIDTEMPORARY",
        "SecretAccessKey": "hidden-secret",
        "SessionToken": "token+/=",
    }
    (tmp_path / "credentials.json").write_text(json.dumps({**told, "Expiration": ends.isoformat()}))
    (tmp_path / "config").write_text(
        "[default]\n"
        f"credential_process = {sys.executable} -c \"print(open('{tmp_path / 'credentials.json'}').read())\"\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    async with opened(config_of(seaweedfs, bucket)) as store:
        short, long = await store.presign("k", 60), await store.presign("k", 86400)
        assert (short.temporary, short.shortened, long.temporary, long.shortened) == (True, False, True, True)
        assert long.ends_seconds == pytest.approx(ends.timestamp(), abs=2)
        assert parse_qs(urlsplit(long.url).query)["X-Amz-Security-Token"] == ["token+/="]
        assert "hidden-secret" not in long.url
