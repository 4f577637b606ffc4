"""What options have requests carry, and the customer's key: where it may come from, where it is never seen."""

import base64
import os
from pathlib import Path

import pytest
import trio

from s3mount.config import Config
from s3mount.errors import StartError
from s3mount.store.carried import carried_by, check_secrecy, read_customer_key
from s3mount.store.exchange import Request, WireOptions
from s3mount.store.order import Order
from s3mount.store.retry import Limiter
from s3mount.store.s3 import S3Store
from s3mount.store.wire import Wire
from tests.running import run_trio

KEY = bytes(range(1, 33))
ENCODED = base64.b64encode(KEY).decode()


def written(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(StartError) as refused:
        read_customer_key(path)
    words = str(refused.value)
    assert "--sse-customer-key-file" in words
    assert "\n" not in words
    return words


@pytest.mark.parametrize("content", [KEY, ENCODED.encode(), f"{ENCODED}\n".encode(), b"\n" * 32])
def test_a_key_is_32_bytes_or_their_base64(tmp_path: Path, content: bytes) -> None:
    assert read_customer_key(written(tmp_path / "key", content)) == (content if len(content) == 32 else KEY)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        KEY[:31],
        KEY + b"\n",
        base64.b64encode(KEY[:31]),
        base64.b64encode(KEY + b"x"),
        b"*" + ENCODED.encode(),
        b"x" * 2000,
    ],
)
def test_anything_else_is_refused_without_being_shown(tmp_path: Path, content: bytes) -> None:
    words = refusal(written(tmp_path / "key", content))
    assert "32 bytes" in words
    assert not content or content.decode("latin-1")[:16] not in words


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o610])
def test_a_key_that_others_could_read_is_refused(tmp_path: Path, mode: int) -> None:
    words = refusal(written(tmp_path / "key", KEY, mode))
    assert "chmod 600" in words
    assert f"{mode:04o}" in words


def test_a_key_file_that_is_none_is_refused(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "missing")
    os.mkfifo(tmp_path / "fifo", 0o600)
    assert "is no file" in refusal(tmp_path / "fifo")
    assert "is no file" in refusal(tmp_path)


def test_the_key_is_in_the_lines_and_in_no_repr(tmp_path: Path) -> None:
    carried = carried_by(Config(bucket="b", sse_customer_key_file=written(tmp_path / "key", KEY)))
    lines = carried.by("put")
    assert ("x-amz-server-side-encryption-customer-key", ENCODED) in lines
    order = Order(
        name="put",
        method="PUT",
        path="/k",
        carried=lines,
        limiter=Limiter(1),
        wire=Wire(WireOptions()),
        deadline_seconds=1,
        stall_seconds=1,
    )
    request = Request(method="PUT", url="https://h/k", headers=[*order.headers, *order.carried])
    assert ENCODED not in repr(carried) + repr(order) + repr(request)


def test_without_options_nothing_is_carried_and_nothing_is_looked_up_twice() -> None:
    carried = carried_by(Config(bucket="b"))
    assert (dict(carried.by_operation), carried.by_others) == ({}, ())
    assert carried.by("put") == ()


@pytest.mark.parametrize(
    ("origin", "proxy", "secret"),
    [
        ("https://s3.example.com", None, True),
        ("https://s3.example.com", "http://proxy:3128", True),
        ("http://127.0.0.1:8333", None, True),
        ("http://[::1]:8333", None, True),
        ("http://localhost:8333", None, True),
        ("http://127.0.0.1:8333", "http://proxy:3128", False),
        ("http://10.0.0.1:9000", None, False),
        ("http://s3.example.com", None, False),
        ("http://127.0.0.1.example.com", None, False),
        ("http://localhost.example.com", None, False),
    ],
)
def test_a_customers_key_is_not_sent_where_it_could_be_read_on_the_way(
    tmp_path: Path, origin: str, proxy: str | None, secret: bool
) -> None:
    carried = carried_by(Config(bucket="b", sse_customer_key_file=written(tmp_path / "key", KEY)))
    if secret:
        check_secrecy(carried, origin, proxy)
    else:
        with pytest.raises(StartError, match=r"--sse-customer-key-file.*https://"):
            check_secrecy(carried, origin, proxy)
    check_secrecy(carried_by(Config(bucket="b")), origin, proxy)


@pytest.mark.parametrize(("mode", "words"), [(0o644, "chmod 600"), (0o600, "https://")])
@run_trio
async def test_a_mount_whose_key_would_not_be_secret_does_not_start(tmp_path: Path, mode: int, words: str) -> None:
    config = Config(
        bucket="b",
        endpoint_url="http://s3.example.com",
        no_sign_request=True,
        sse_customer_key_file=written(tmp_path / "key", KEY, mode),
    )
    refused = ""
    async with trio.open_nursery() as nursery:
        try:
            await nursery.start(S3Store(config).run)
        except StartError as error:
            refused = str(error)
    assert words in refused
    assert ENCODED not in refused
