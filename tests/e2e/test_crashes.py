"""kill -9 of the daemon while programs write: what close and fsync had acknowledged is in the bucket."""

import random
import time

import pytest

from tests.e2e.mounting import Mounted, finish, hear, python
from tests.proxy import FaultProxy

KILLS = 10
SEED = 20
LINK_BYTES_PER_SECOND = 40e6
STAMP_BYTES = 8
WRITER = """
import os, random, sys

root, serial = sys.argv[1], int(sys.argv[2])
draws = random.Random(serial)
contents = {}

def say(verb, name, content):
    print(verb, name, ",".join(f"{serial}:{count}" for serial, count in content), flush=True)

def put(fd, serial, count):
    body = memoryview(serial.to_bytes(8, "big") * count)
    for start in range(0, len(body), 1 << 20):
        os.write(fd, body[start : start + (1 << 20)])

try:
    while True:
        serial += 1
        name = f"file{draws.randrange(4)}"
        count = draws.choice((10, 3000, 1_600_000))
        if name in contents and draws.random() < 0.4:
            content, flags = [*contents[name], (serial, count)], os.O_APPEND
        else:
            content, flags = [(serial, count)], os.O_CREAT | os.O_TRUNC
        fd = os.open(os.path.join(root, name), os.O_WRONLY | flags, 0o644)
        put(fd, serial, count)
        say("try", name, content)
        if draws.random() < 0.5:
            os.fsync(fd)
            say("done", name, content)
        os.close(fd)
        say("done", name, content)
        contents[name] = content
except OSError as error:
    print("end", error.errno, flush=True)
"""

Content = tuple[tuple[int, int], ...]
"""Serial numbers, each so many times over."""


def body_of(content: Content) -> bytes:
    return b"".join(serial.to_bytes(STAMP_BYTES, "big") * count for serial, count in content)


def brief(body: bytes) -> str:
    return f"{len(body)} bytes from {body[:STAMP_BYTES].hex()} to {body[-STAMP_BYTES:].hex()}"


class Told:
    """What the writers have told: for each name the contents that it may have; None is absence."""

    def __init__(self) -> None:
        self.serial = 0
        self.acknowledged = 0
        self._allowed: dict[str, list[Content | None]] = {}

    def hear(self, line: str) -> None:
        verb, name, *rest = line.split(" ")
        if verb == "end":
            return
        pairs = [pair.split(":") for pair in rest[0].split(",")]
        content = tuple((int(serial), int(count)) for serial, count in pairs)
        self.serial = max(self.serial, content[-1][0])
        if verb == "done":
            self.acknowledged += 1
            self._allowed[name] = [content]
        else:
            self._allowed.setdefault(name, [None]).append(content)

    def check(self, mount: Mounted) -> None:
        """Every name has one of its contents, whole, in the bucket and in the mount; from now on it is that one."""
        names = set(mount.place.names())
        assert names <= self._allowed.keys()
        for name, allowed in self._allowed.items():
            body = mount.place.get(name) if name in names else None
            found = [content for content in allowed if (None if content is None else body_of(content)) == body]
            assert found, f"{name} is {'absent' if body is None else brief(body)}; allowed: {allowed}"
            self._allowed[name] = found
            if body is None:
                assert not (mount.root / name).exists()
            else:
                assert (mount.root / name).read_bytes() == body


def test_a_mount_that_died_a_moment_ago_is_taken_over(mount: Mounted) -> None:
    """The kernel still believes what it knows of the root: the next start asks for something that it does not know."""
    (mount.root / "f").write_bytes(b"stored")
    mount.root.stat()
    mount.crash()
    mount.root.stat()
    mount.start()
    assert (mount.root / "f").read_bytes() == b"stored"


@pytest.mark.slow
@pytest.mark.seconds(240)
def test_a_daemon_killed_at_any_moment_has_stored_what_it_acknowledged_and_the_next_one_goes_on(
    proxied: Mounted, proxy: FaultProxy
) -> None:
    """Ten kills at moments drawn from a seed, each amid writes of files from 80 bytes to 12 MiB."""
    proxy.limit(total=LINK_BYTES_PER_SECOND)
    draws, told = random.Random(SEED), Told()
    for _ in range(KILLS):
        writer = python(WRITER, proxied.root, str(told.serial))
        told.hear(hear(writer))
        time.sleep(draws.uniform(0.0, 1.5))
        proxied.crash()
        assert writer.stdout is not None
        for line in writer.stdout.read().splitlines():
            told.hear(line)
        assert finish(writer) == 0
        proxied.start()
        told.check(proxied)
    assert told.acknowledged > 3 * KILLS, "too few writes to say anything"
