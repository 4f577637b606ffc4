"""Reading large files through a mount: which bytes are fetched, how often, and that they are right."""

import os
import re
from pathlib import Path

import pytest

from tests.e2e.asking import asked
from tests.e2e.material import MIB, in_threads, write_pattern
from tests.e2e.mounting import Mounts, Place
from tests.e2e.test_requests import listed, paid
from tests.proxy import FaultProxy

SIZE = 96 * MIB + 12_345


@pytest.fixture
def local(tmp_path: Path, place: Place) -> Path:
    """A file, and the object `large` with the same bytes."""
    path = tmp_path / "local"
    write_pattern(path, SIZE)
    place.put("large", path.read_bytes())
    return path


def ranges(proxy: FaultProxy) -> list[tuple[int, int]]:
    """What the GETs asked for, in order."""
    found = [re.fullmatch(r"bytes=(\d+)-(\d+)", request.range) for request in proxy.requests() if request.kind == "get"]
    return sorted((int(match[1]), min(int(match[2]) + 1, SIZE)) for match in found if match is not None)


def test_the_first_byte_of_a_large_file_is_one_get(mounts: Mounts, proxy: FaultProxy, local: Path) -> None:
    """Opening a large file and reading its first byte is one GET of one block after the lookup."""
    proxied = mounts.start(endpoint_url=proxy.endpoint_url)
    listed(proxied, proxy)
    fd = os.open(proxied.root / "large", os.O_RDONLY)
    assert os.pread(fd, 1, 0) == local.read_bytes()[:1]
    (fetched,) = ranges(proxy)
    assert fetched == (0, 128 * 1024)
    assert paid(proxy) == {"get": 1}
    os.close(fd)


def test_four_streams_of_one_file_read_right_bytes_and_each_byte_is_fetched_once(
    mounts: Mounts, proxy: FaultProxy, local: Path
) -> None:
    """Four readers of one file, each from a place of its own, get the object's bytes, each fetched once, and ahead."""
    proxied = mounts.start(endpoint_url=proxy.endpoint_url)
    listed(proxied, proxy)
    quarter = -(-SIZE // 4)

    with local.open("rb") as expected, (proxied.root / "large").open("rb", buffering=0) as found:

        def read(number: int) -> None:
            stop = min((number + 1) * quarter, SIZE)
            for offset in range(number * quarter, stop, MIB):
                count = min(MIB, stop - offset)
                assert os.pread(found.fileno(), count, offset) == os.pread(expected.fileno(), count, offset)

        in_threads(read, range(4), threads=4)
    told = asked("status", proxied.root)["storage"]["read_ahead"]
    fetched = ranges(proxy)
    reached = again = 0
    for start, stop in fetched:
        assert start <= reached, "no gap"
        again += start < reached
        reached = max(reached, stop)
    assert reached == SIZE
    assert again <= told["asked_again"], "no overlap, but where a machine was so busy that a GET seemed lost"
    assert len(fetched) < SIZE / MIB, "in GETs that are larger than the kernel's reads"
    assert told["fetched_bytes"] > SIZE // 2
    assert (told["unread_bytes"], told["wasted_bytes"]) == (0, 0)


def test_a_backward_reader_gets_right_bytes_in_large_gets(mounts: Mounts, proxy: FaultProxy, local: Path) -> None:
    """Reading a file from its end to its beginning costs far fewer GETs than there are reads."""
    proxied = mounts.start(endpoint_url=proxy.endpoint_url)
    listed(proxied, proxy)
    with local.open("rb") as expected, (proxied.root / "large").open("rb", buffering=0) as found:
        for offset in range(SIZE // MIB * MIB, -1, -MIB):
            assert os.pread(found.fileno(), MIB, offset) == os.pread(expected.fileno(), MIB, offset)
    fetched = ranges(proxy)
    assert len(fetched) < SIZE / MIB
    assert sum(stop - start for start, stop in fetched) < 1.1 * SIZE


def test_random_reads_pay_a_block_each(mounts: Mounts, proxy: FaultProxy, local: Path) -> None:
    """4 KiB here and there cost one GET of one block each, and nothing is fetched ahead."""
    proxied = mounts.start(endpoint_url=proxy.endpoint_url)
    listed(proxied, proxy)
    body = local.read_bytes()
    places = sorted({7919 * number * number % (SIZE // 4096) * 4096 for number in range(1, 30)}, key=hash)
    fd = os.open(proxied.root / "large", os.O_RDONLY)
    for place in places:
        assert os.pread(fd, 4096, place) == body[place : place + 4096]
    os.close(fd)
    block = 128 * 1024
    assert ranges(proxy) == [
        (number * block, min((number + 1) * block, SIZE)) for number in sorted({0, *[at // block for at in places]})
    ]
