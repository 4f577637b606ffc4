"""How many GETs side by side are found to pay."""

from collections.abc import Callable
from heapq import heappop, heappush

from s3mount.config import MIB
from s3mount.data.lanes import COUNTS, Lanes

GET = 4 * MIB


def transfer(
    lanes: Lanes, rate: Callable[[int], float], total: int, *, latency: float = 0.0, begin: float = 0.0
) -> tuple[float, list[int]]:
    """Fetch `total` bytes in GETs, each at `rate(GETs under way)`; when it is done, and the lanes as they went."""
    now, done, asked = begin, 0, 0
    flights: list[tuple[float, float]] = []
    counts = [lanes.count]
    while done < total:
        while len(flights) < lanes.count and asked < total:
            asked += GET
            # They do not begin together: the reader asks for one after another.
            began = now + latency + len(flights) * 0.001
            heappush(flights, (began + GET / rate(max(len(flights) + 1, lanes.count)), began))
        now, _ = heappop(flights)
        done += GET
        under_way = sum(GET * max(0.0, now - began) / (ends - began) for ends, began in flights)
        lanes.ended(done + int(under_way), len(flights), now)
        if lanes.count != counts[-1]:
            counts.append(lanes.count)
    return now, counts


def test_where_each_connection_has_a_rate_of_its_own_all_lanes_are_opened_within_a_second() -> None:
    lanes = Lanes()
    ended, counts = transfer(lanes, lambda _count: 60e6, 1024 * MIB, latency=0.02)
    assert counts == list(COUNTS)
    assert 1024 * MIB / ended > 550e6


def test_where_the_server_is_the_limit_few_are_used() -> None:
    lanes = Lanes()
    _, counts = transfer(lanes, lambda count: 600e6 / count, 4096 * MIB)
    assert lanes.count == COUNTS[0]
    assert set(counts) <= set(COUNTS[:2])


def test_a_link_that_is_full_with_some_lanes_gets_no_more() -> None:
    lanes = Lanes()
    transfer(lanes, lambda count: min(60e6, 480e6 / count), 4096 * MIB, latency=0.02)
    assert lanes.count == 8


def test_lanes_are_closed_again_when_they_pay_no_more() -> None:
    lanes = Lanes()
    now, _ = transfer(lanes, lambda _count: 60e6, 1024 * MIB, latency=0.02)
    assert lanes.count == COUNTS[-1]
    for _ in range(8):
        now, _ = transfer(lanes, lambda count: 300e6 / count, 16 * 1024 * MIB, latency=0.02, begin=now)
    assert lanes.count <= 8


def test_what_a_slow_reader_leaves_empty_says_nothing() -> None:
    lanes = Lanes()
    for number in range(1000):
        lanes.ended((number + 1) * GET, 1, number / 10)
    assert lanes.count == COUNTS[0]
