"""What of the journal is held, as long as something may ask for it."""

from s3mount.writeback.needed import Holdings
from s3mount.writeback.records import Record


def recorded(holdings: Holdings, *seqs: int) -> None:
    for seq in seqs:
        holdings.add(seq, Record(seq, seq - 1, 1, 100 * seq, 50, 0, 0), {"put": f"key{seq}"}, None)


def test_what_ended_a_record_is_told_as_long_as_that_record_is() -> None:
    """A put that waited (1) and its deletion (3) leave nothing, and are over at once. The put is held for what came
    between: without the deletion a start would send it."""
    holdings = Holdings()
    holdings.segment(1, 1000)
    recorded(holdings, 1, 2, 3)
    for seq in (1, 3):
        holdings.over(seq, last_seq=3)
    holdings.let_go(durable_seq=3)
    assert holdings.live_ranges() == [[1, 3]]
    holdings.over(2, last_seq=4)
    holdings.let_go(durable_seq=4)
    assert holdings.releasable(current=0) == [1]
    assert holdings.live_ranges() == []


def test_what_came_to_be_over_at_another_time_is_held_for_itself_only() -> None:
    """Else a mount in which something waits for a person would give nothing back."""
    holdings = Holdings()
    holdings.segment(1, 1000)
    recorded(holdings, 1, 2, 3)
    holdings.over(1, last_seq=2)
    holdings.over(3, last_seq=3)
    holdings.let_go(durable_seq=3)
    assert holdings.live_ranges() == [[1, 2]]
