"""What containers and probes are told of a mount, in time, whatever state it is in (`s3mount healthcheck`)."""

import os
import time

import pytest

from tests.e2e.asking import refused, told
from tests.e2e.mounting import Mounts, Place, eventually
from tests.proxy import FaultProxy, Rule


def test_a_mount_that_serves_is_well_and_the_store_is_not_asked(
    mounts: Mounts, proxy: FaultProxy, place: Place
) -> None:
    place.put("d/file", b"x")
    mount = mounts.start("--read-only", endpoint_url=proxy.endpoint_url)
    proxy.forget()
    assert told("healthcheck", "--timeout=30s", mount.root) == ""
    assert told("healthcheck", "--timeout=30s", "--ready", mount.root) == ""
    assert proxy.requests() == []
    assert "is not mounted" in refused("healthcheck", mount.root / "d")
    assert "is not below a mount of s3mount" in refused("healthcheck", mount.root.parent)


def test_a_store_that_is_down_is_no_reason_to_restart_but_not_ready_until_it_answers_again(
    mounts: Mounts, proxy: FaultProxy, place: Place
) -> None:
    place.put("d/file", b"x")
    mount = mounts.start(
        "--read-only", "--metadata-ttl=0s", "--negative-ttl=0s", "--retry-timeout=6s", endpoint_url=proxy.endpoint_url
    )
    mount.expect("request failed", "store unreachable", "store reachable again")
    proxy.add(Rule(fault="error", status=503, code="SlowDown"))
    with pytest.raises(OSError, match="Input/output error"):
        os.stat(mount.root / "missing")
    assert told("healthcheck", "--timeout=30s", mount.root) == ""
    said = refused("healthcheck", "--timeout=30s", "--ready", mount.root)
    assert "the store was not reached for" in said
    assert "503" in said
    proxy.clear()
    assert eventually((mount.root / "d").is_dir, 60)
    assert told("healthcheck", "--timeout=30s", "--ready", mount.root) == ""


def test_a_mount_of_which_only_the_control_socket_answers_is_not_well_nor_is_one_whose_daemon_is_dead(
    mounts: Mounts,
) -> None:
    mount = mounts.start(plant="no-statfs")
    began = time.monotonic()
    assert "does not answer programs within 5 s" in refused("healthcheck", mount.root)
    assert time.monotonic() - began < 30
    mount.crash()
    assert "has died" in refused("healthcheck", mount.root)
