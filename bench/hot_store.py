"""A process that GETs and PUTs small objects through S3Store when told to, and counts what that takes.

Started as a script, so that `s3mount` is the one that PYTHONPATH names. Each line of its standard input is an order,
`get N` or `put N` (answered with the CPU seconds that N of them by TASKS took) or the same behind `calls` (answered
with the Python functions that were called). Knows no other process.
"""

import json
import os
import sys
import time
from collections.abc import Awaitable, Callable

import trio

from s3mount.config import Config
from s3mount.store.base import Headers
from s3mount.store.s3 import S3Store

SMALL_BYTES = 16 * 1024
TASKS = 16
KEYS = 500
HEADERS = Headers("application/octet-stream")
BODY = bytes(range(256)) * (SMALL_BYTES // 256)


def key_of(number: int) -> str:
    return f"objects/{number % KEYS:06}"


async def together(count: int, work: Callable[[int], Awaitable[None]]) -> None:
    async def some(first: int) -> None:
        for number in range(first, count, TASKS):
            await work(number)

    async with trio.open_nursery() as nursery:
        for task in range(TASKS):
            nursery.start_soon(some, task)


async def get(store: S3Store, count: int) -> None:
    memory = [memoryview(bytearray(SMALL_BYTES)) for _ in range(TASKS)]

    async def work(number: int) -> None:
        assert await store.get(key_of(number), 0, memory[number % TASKS]) is not None

    await together(count, work)


async def put(store: S3Store, count: int) -> None:
    async def work(number: int) -> None:
        await store.put(key_of(number), (BODY,), HEADERS)

    await together(count, work)


OPERATIONS = {"get": get, "put": put}


async def calls_of(operation: Callable[[S3Store, int], Awaitable[None]], store: S3Store, count: int) -> int:
    calls = 0

    def note(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(note)
    try:
        await operation(store, count)
    finally:
        sys.setprofile(None)
    return calls


async def serve() -> None:
    store = S3Store(Config(bucket=os.environ["HOT_BUCKET"], endpoint_url=os.environ["AWS_ENDPOINT_URL"]))
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        while line := await trio.to_thread.run_sync(sys.stdin.readline):
            *how, name, count = line.split()
            if how:
                answer: float = await calls_of(OPERATIONS[name], store, int(count))
            else:
                began = time.process_time()
                await OPERATIONS[name](store, int(count))
                answer = time.process_time() - began
            print(json.dumps(answer), flush=True)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(serve)
