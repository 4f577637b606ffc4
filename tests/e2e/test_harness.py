"""The harness itself: the watchdog frees a test that hangs on a mount; the proxy counts and breaks as it is told."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import boto3
import botocore.config
import botocore.exceptions
import pytest

from tests.e2e.mounting import ROOT, Place, eventually
from tests.e2e.watchdog import Watchdog, connection_of, detach
from tests.proxy import FaultProxy, Rule
from tests.servers import Server

READ_SECONDS = 6.0
"""For a server on a machine that is busy; a fault that is silence takes as long."""
HANGS = """
import sys, pyfuse3, trio
class Hangs(pyfuse3.Operations):
    async def lookup(self, parent, name, ctx=None):
        await trio.sleep_forever()
pyfuse3.init(Hangs(), sys.argv[1], {"fsname=hangs"})
trio.run(pyfuse3.main)
"""


def test_the_watchdog_frees_a_hung_call(watchdog: Watchdog, tmp_path: Path) -> None:
    """A call that a file system never answers returns with an error once the watchdog has killed the daemon."""
    root = tmp_path / "mnt"
    root.mkdir()
    daemon = subprocess.Popen([sys.executable, "-c", HANGS, root], stderr=subprocess.DEVNULL)
    own = Watchdog(tmp_path / "report")
    try:
        assert eventually(lambda: connection_of(root) is not None)
        own.guard(daemon.pid, root, tmp_path / "stacks")
        own.arm("a hanging test", 1.0)
        began = time.monotonic()
        with pytest.raises(OSError):
            os.stat(root / "name")
        assert time.monotonic() - began < 20
        assert eventually(lambda: connection_of(root) is None)
        assert "a hanging test was late" in own.disarm()
    finally:
        own.stop()
        daemon.kill()
        daemon.wait(10)
        detach(root)


def test_the_watchdog_cleans_up_behind_a_killed_pytest(watchdog: Watchdog, tmp_path: Path) -> None:
    """When the process that started it is gone, so are the daemons and mounts it guarded."""
    root = tmp_path / "mnt"
    root.mkdir()
    daemon = subprocess.Popen([sys.executable, "-c", HANGS, root], stderr=subprocess.DEVNULL)
    code = (
        "import os, sys, pathlib, tests.e2e.watchdog as w; own = w.Watchdog(pathlib.Path(sys.argv[1]));"
        "own.guard(int(sys.argv[2]), pathlib.Path(sys.argv[3]), pathlib.Path(sys.argv[1])); os.kill(os.getpid(), 9)"
    )
    try:
        assert eventually(lambda: connection_of(root) is not None)
        words = [sys.executable, "-c", code, str(tmp_path / "report"), str(daemon.pid), str(root)]
        assert subprocess.run(words, cwd=ROOT).returncode == -9
        assert eventually(lambda: connection_of(root) is None)
        assert daemon.wait(10) == -9
    finally:
        daemon.kill()
        daemon.wait(10)
        detach(root)


def client_of(proxy: FaultProxy, server: Server) -> Any:
    """One that asks once."""
    return boto3.client(
        "s3",
        endpoint_url=proxy.endpoint_url,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        region_name=server.region,
        config=botocore.config.Config(
            retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}, read_timeout=READ_SECONDS
        ),
    )


def test_the_proxy_counts_and_breaks(seaweedfs: Server, proxy: FaultProxy, place: Place) -> None:
    """Each fault reaches a client as what it says, requests are counted by kind, rates are kept."""
    s3 = client_of(proxy, seaweedfs)
    there = {"Bucket": place.bucket, "Key": place.prefix + "f"}
    body = os.urandom(3_000_000)
    s3.put_object(**there, Body=body)
    assert s3.get_object(**there)["Body"].read() == body
    s3.list_objects_v2(Bucket=place.bucket, Prefix=place.prefix)
    assert proxy.counts() == {"put": 1, "get": 1, "list": 1}
    assert proxy.counts("f$") == {"put": 1, "get": 1}
    proxy.add(Rule(fault="cut_body", kind="get", cut_at_bytes=1000, times=1))
    with pytest.raises(botocore.exceptions.BotoCoreError):
        s3.get_object(**there)["Body"].read()
    proxy.add(Rule(fault="error", kind="head", status=503, code="SlowDown", times=1))
    with pytest.raises(botocore.exceptions.ClientError, match="503"):
        s3.head_object(**there)
    assert s3.head_object(**there)["ContentLength"] == len(body)
    proxy.add(Rule(fault="drop_reply", kind="delete", times=1))
    with pytest.raises(botocore.exceptions.BotoCoreError):
        s3.delete_object(**there)
    assert place.names() == []
    for fault, names in (("answer", []), ("replace", ["f"])):
        proxy.add(Rule(fault=fault, kind="put", status=200, etag='"made up"', times=1))  # type: ignore[arg-type]
        assert s3.put_object(**there, Body=b"x")["ETag"] == '"made up"'
        assert place.names() == names
    proxy.add(Rule(fault="black_hole", key="f$", times=1))
    with pytest.raises(botocore.exceptions.BotoCoreError):
        s3.get_object(**there)
    proxy.clear()
    proxy.limit(total=6e6)
    began = time.monotonic()
    s3.put_object(**there, Body=body)
    assert 0.4 < time.monotonic() - began < READ_SECONDS
    assert place.get("f") == body
    s3.close()


def test_the_proxy_storms_until_it_is_cleared(seaweedfs: Server, proxy: FaultProxy, place: Place) -> None:
    """What a storm does beyond the rules above: requests and replies that are cut anywhere, effects without an answer;
    and then nothing more."""
    s3 = client_of(proxy, seaweedfs)
    there = {"Bucket": place.bucket, "Key": place.prefix + "f"}
    body = os.urandom(3_000_000)
    proxy.add(Rule(fault="cut_request", kind="put", cut_share=0.5, times=1))
    with pytest.raises(botocore.exceptions.BotoCoreError):
        s3.put_object(**there, Body=body)
    assert place.names() == []
    proxy.add(Rule(fault="hang_reply", kind="put", times=1))
    with pytest.raises(botocore.exceptions.BotoCoreError):
        s3.put_object(**there, Body=body)
    assert place.get("f") == body

    def fetched() -> bytes | None:
        try:
            found: bytes = s3.get_object(**there)["Body"].read()
            return found
        except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError):
            return None

    # Of a head that ends early boto3 believes what has come.
    for fault in ("cut_head", "cut_body"):
        proxy.add(Rule(fault=fault, kind="get", cut_share=0.5, times=1))
        assert fetched() != body
    assert proxy.injected() == {}
    proxy.storm(seed=1, rate=1.0)
    for number in range(5):
        assert fetched() != body
        assert proxy.injected().total() == number + 1
    proxy.clear()
    assert fetched() == body
    assert proxy.injected().total() == 5
    s3.close()
