"""What is in the bucket: files that the workloads read, copies for those that change them, and the server's counts.

The mutable state is what has been put there already, a number for each name that one turn consumes, and how many
requests of its own it has made to look at a turn's outcome: they are none of the system's.
"""

import io
import re
import urllib.request
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from bench.compare import load as names
from bench.compare.load import MIB, SMALL_BYTES, STREAMS, Load, block
from tests.e2e.fill import fill
from tests.e2e.mounting import Place
from tests.servers import Server, boto, make_bucket

BUCKET = "bench"
SOURCE = "edited"
"""What `copied` copies."""
PUTS = 16
METRIC = re.compile(r'^SeaweedFS_s3_request_total\{.*type="(\w+)"\} (\S+)$', re.MULTILINE)
BODIES = re.compile(r'^SeaweedFS_s3_time_to_first_byte_millisecond_count\{.*type="GET"\} (\S+)$', re.MULTILINE)


def counted(metrics: str) -> Counter[str]:
    """SeaweedFS's page of metrics as requests by kind; it calls a HEAD a GET, but one without a first byte."""
    kinds: Counter[str] = Counter()
    for kind, number in METRIC.findall(metrics):
        kinds[kind] += int(float(number))
    gets = sum(int(float(number)) for number in BODIES.findall(metrics))
    kinds["HEAD"] += kinds["GET"] - gets
    kinds["GET"] = gets
    return +kinds


class Bucket:
    """The bucket of one run, on the server itself, whatever distance the systems see it from."""

    def __init__(self, server: Server, load: Load) -> None:
        self.server, self.load = server, load
        self.client: Any = boto(server)
        self._there: set[str] = set()
        self._made = 0
        self._own: Counter[str] = Counter()
        make_bucket(server, BUCKET)
        self.client.put_object(Bucket=BUCKET, Key="warm", Body=b"warm")  # grows the volumes

    def requests(self) -> Counter[str]:
        """What the server has answered so far, by kind, but for our own looks."""
        with urllib.request.urlopen(self.server.metrics_url, timeout=20) as reply:
            found = counted(reply.read().decode())
        found.subtract(self._own)
        return found

    def provide(self, what: str) -> None:
        """Put what a workload reads into the bucket, once."""
        if what not in self._there:
            self._there.add(what)
            self._makers()[what]()

    def _makers(self) -> dict[str, Callable[[], None]]:
        load = self.load
        return {
            names.BIG: lambda: self._put_large(names.BIG, load.big_bytes),
            names.AGAIN: lambda: self._put_large(names.AGAIN, load.again_bytes),
            names.CACHED: lambda: self._put_large(names.CACHED, load.cached_bytes),
            SOURCE: lambda: self._put_large(SOURCE, load.edited_bytes),
            "streams": self._put_streams,
            names.SMALL: self._put_small,
            names.LISTED: lambda: self.fill(names.LISTED, ["", *map(names.small_name, range(load.listed))]),
            names.NESTED: lambda: self.fill(names.NESTED, names.nested_names(load)),
        }

    def _put_streams(self) -> None:
        for number in range(STREAMS):
            self._put_large(f"stream{number}", self.load.stream_bytes)

    def _put_large(self, key: str, size: int) -> None:
        assert size % MIB == 0
        self.client.upload_fileobj(io.BytesIO(block() * (size // MIB)), BUCKET, key)

    def _put_small(self) -> None:
        body = block()[:SMALL_BYTES]
        self.client.put_object(Bucket=BUCKET, Key=f"{names.SMALL}/", Body=b"")

        def put(number: int) -> None:
            self.client.put_object(Bucket=BUCKET, Key=f"{names.SMALL}/{names.small_name(number)}", Body=body)

        with ThreadPoolExecutor(PUTS) as pool:
            list(pool.map(put, range(self.load.small_files)))

    def fill(self, directory: str, below: Sequence[str]) -> None:
        """Empty objects below a directory."""
        fill(Place(self.server, BUCKET, ""), [f"{directory}/{name}" for name in below])

    def new_name(self, kind: str) -> str:
        self._made += 1
        return f"{kind}{self._made}"

    def copied(self) -> str:
        """A file of its own for one turn, copied on the server; its key."""
        self.provide(SOURCE)
        key = self.new_name("copy")
        self.client.copy_object(Bucket=BUCKET, Key=key, CopySource=f"{BUCKET}/{SOURCE}")
        return key

    def size(self, key: str) -> int | None:
        """Of an object; None while it is not there."""
        self._own["HEAD"] += 1
        try:
            found: int = self.client.head_object(Bucket=BUCKET, Key=key)["ContentLength"]
        except self.client.exceptions.ClientError as error:
            if error.response["Error"]["Code"] != "404":
                raise
            return None
        return found

    def below(self, prefix: str) -> int:
        """How many keys there are below it, at most one page."""
        self._own["LIST"] += 1
        found: int = self.client.list_objects_v2(Bucket=BUCKET, Prefix=prefix)["KeyCount"]
        return found

    def piece(self, key: str, start: int, stop: int) -> bytes:
        """The bytes of an object in `[start, stop)`."""
        self._own["GET"] += 1
        body = self.client.get_object(Bucket=BUCKET, Key=key, Range=f"bytes={start}-{stop - 1}")["Body"]
        found: bytes = body.read()
        return found

    def forget(self, key: str) -> None:
        """Remove what a turn has made, so that the disk of all turns is that of one."""
        while True:
            self._own["LIST"] += 1
            page = self.client.list_objects_v2(Bucket=BUCKET, Prefix=key)
            found = [{"Key": each["Key"]} for each in page.get("Contents", ())]
            if not found:
                return
            self._own["DELETE"] += 1
            self.client.delete_objects(Bucket=BUCKET, Delete={"Objects": found, "Quiet": True})
