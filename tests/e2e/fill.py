"""Puts very many empty objects into a bucket, quickly: threads in a few processes, SigV4 in 20 lines."""

import datetime as dt
import hashlib
import hmac
import http.client
import json
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote, urlsplit

from tests.e2e.mounting import ROOT, Place

PROCESSES = 2
THREADS = 6
EMPTY = hashlib.sha256(b"").hexdigest()


def fill(place: Place, names: Sequence[str]) -> None:
    """An empty object for each name below the place's prefix."""
    server = place.server
    about = [server.endpoint_url, server.access_key, server.secret_key, server.region]
    started = []
    for number in range(PROCESSES):
        paths = [f"/{place.bucket}/{quote(place.prefix + name)}" for name in names[number::PROCESSES]]
        process = subprocess.Popen([sys.executable, "-m", "tests.e2e.fill"], stdin=subprocess.PIPE, text=True, cwd=ROOT)
        assert process.stdin is not None
        process.stdin.write(json.dumps([*about, paths]))
        process.stdin.close()
        started.append(process)
    assert [process.wait(300) for process in started] == [0] * PROCESSES


def _keyed(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def _put(endpoint: str, access_key: str, secret_key: str, region: str, paths: list[str]) -> None:
    host = urlsplit(endpoint).netloc
    connection = http.client.HTTPConnection(host, timeout=60)
    date = ""
    key = b""
    for path in paths:
        stamp = dt.datetime.now(dt.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
        if stamp[:8] != date:
            date = stamp[:8]
            key = f"AWS4{secret_key}".encode()
            for word in (date, region, "s3", "aws4_request"):
                key = _keyed(key, word)
        scope = f"{date}/{region}/s3/aws4_request"
        signed = "host;x-amz-content-sha256;x-amz-date"
        canonical = f"PUT\n{path}\n\nhost:{host}\nx-amz-content-sha256:{EMPTY}\nx-amz-date:{stamp}\n\n{signed}\n{EMPTY}"
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        signature = _keyed(key, f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}").hex()
        word = f"AWS4-HMAC-SHA256 Credential={access_key}/{scope}, SignedHeaders={signed}, Signature={signature}"
        connection.request(
            "PUT",
            path,
            headers={
                "x-amz-content-sha256": EMPTY,
                "x-amz-date": stamp,
                "Authorization": word,
                "Content-Length": "0",
            },
        )
        reply = connection.getresponse()
        said = reply.read()
        if reply.status != 200:
            raise RuntimeError(f"{reply.status}: {said[:300]!r}")
    connection.close()


def main() -> None:
    endpoint, access_key, secret_key, region, paths = json.load(sys.stdin)
    with ThreadPoolExecutor(THREADS) as pool:
        list(
            pool.map(
                lambda number: _put(endpoint, access_key, secret_key, region, paths[number::THREADS]), range(THREADS)
            )
        )


if __name__ == "__main__":
    main()
