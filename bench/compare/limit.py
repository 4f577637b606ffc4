"""The limit: what boto3's threads reach for the same transfers without a file system, their imports and client made
before the clock starts. Eight threads for what is large, as many as the readers for what is small.

Bytes that come are dropped at once, and checksums are off but for what the store insists on: as fast as boto3 goes.
"""

import io
from typing import Any

from bench.compare import load as names
from bench.compare.load import KIB, MIB, SMALL_BYTES, STREAMS, block, offsets
from bench.compare.threads import in_threads

THREADS = 8
RANGE_BYTES = 8 * MIB
PIECE_BYTES = MIB


def _client(bucket: str, threads: int) -> Any:
    import boto3
    import botocore.config

    s3 = boto3.client(
        "s3",
        config=botocore.config.Config(
            s3={"addressing_style": "path", "payload_signing_enabled": False},
            max_pool_connections=threads,
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            proxies={},
        ),
    )
    s3.head_bucket(Bucket=bucket)
    return s3


def _fetch(bucket: str, keys: list[str], size: int) -> tuple[float, float]:
    """All bytes of each key, in ranges."""
    s3 = _client(bucket, THREADS)

    def fetch(piece: tuple[str, int]) -> None:
        key, start = piece
        stop = min(start + RANGE_BYTES, size)
        body = s3.get_object(Bucket=bucket, Key=key, Range=f"bytes={start}-{stop - 1}")["Body"]
        assert sum(len(part) for part in body.iter_chunks(PIECE_BYTES)) == stop - start

    return in_threads(fetch, [(key, start) for start in range(0, size, RANGE_BYTES) for key in keys], THREADS)


def fetch_one(bucket: str, *, name: str, size: int) -> tuple[float, float]:
    return _fetch(bucket, [name], size)


def fetch_streams(bucket: str, *, size: int) -> tuple[float, float]:
    return _fetch(bucket, [f"stream{number}" for number in range(STREAMS)], size)


def fetch_random(bucket: str, *, size: int, count: int, threads: int) -> tuple[float, float]:
    s3 = _client(bucket, threads)

    def fetch(offset: int) -> None:
        said = f"bytes={offset}-{offset + 4 * KIB - 1}"
        assert len(s3.get_object(Bucket=bucket, Key=names.BIG, Range=said)["Body"].read()) == 4 * KIB

    return in_threads(fetch, offsets(count, size), threads)


def fetch_first(bucket: str) -> tuple[float, float]:
    s3 = _client(bucket, 1)

    def fetch(key: str) -> None:
        assert len(s3.get_object(Bucket=bucket, Key=key, Range="bytes=0-0")["Body"].read()) == 1

    return in_threads(fetch, [names.BIG], 1)


def fetch_small(bucket: str, *, count: int, threads: int) -> tuple[float, float]:
    s3 = _client(bucket, threads)

    def fetch(number: int) -> None:
        key = f"{names.SMALL}/{names.small_name(number)}"
        assert len(s3.get_object(Bucket=bucket, Key=key)["Body"].read()) == SMALL_BYTES

    return in_threads(fetch, range(count), threads)


def store_one(bucket: str, *, name: str, size: int) -> tuple[float, float]:
    from boto3.s3.transfer import TransferConfig

    s3 = _client(bucket, THREADS)
    body = io.BytesIO(block() * (size // MIB))
    how = TransferConfig(multipart_chunksize=RANGE_BYTES, max_concurrency=THREADS)
    return in_threads(lambda key: s3.upload_fileobj(body, bucket, key, Config=how), [name], 1)


def store_small(bucket: str, *, name: str, count: int, threads: int) -> tuple[float, float]:
    s3 = _client(bucket, threads)
    body = block()[:SMALL_BYTES]

    def store(number: int) -> None:
        s3.put_object(Bucket=bucket, Key=f"{name}/{names.small_name(number)}", Body=body)

    return in_threads(store, range(count), threads)


WORKERS = (fetch_one, fetch_streams, fetch_random, fetch_first, fetch_small, store_one, store_small)
