"""The oracle: which states of the bucket it takes for kept promises."""

import pytest

from tests.memory_store import MemoryStore
from tests.sim.oracle import Broken, Oracle


def broken(oracle: Oracle) -> bool:
    try:
        oracle.check()
    except Broken:
        return True
    return False


def test_while_a_sync_is_under_way_the_object_is_the_old_or_the_new_one_and_never_a_third() -> None:
    bucket = MemoryStore()
    bucket.place("k", b"old")
    oracle = Oracle(bucket)
    oracle.attempt("k", b"new")
    assert not broken(oracle)
    bucket.place("k", b"new")
    assert not broken(oracle)
    bucket.place("k", b"ne")
    assert broken(oracle)


def test_once_acknowledged_the_old_object_and_its_absence_are_broken_promises() -> None:
    bucket = MemoryStore()
    bucket.place("k", b"old")
    oracle = Oracle(bucket)
    oracle.attempt("k", b"new")
    oracle.acknowledge("k", b"new")
    assert broken(oracle)
    bucket.remove("k")
    assert broken(oracle)
    bucket.place("k", b"new")
    assert not broken(oracle)


@pytest.mark.parametrize(
    ("old", "new", "fine"),
    [
        (b"moved", b"replaced", True),
        (b"moved", b"moved", True),
        (None, b"moved", True),
        (None, b"replaced", False),
        (None, None, False),
        (b"moved", None, False),
    ],
)
def test_a_rename_under_way_leaves_the_content_at_one_name_or_both_and_the_target_never_empty(
    old: bytes | None, new: bytes | None, fine: bool
) -> None:
    bucket = MemoryStore()
    bucket.place("old", b"moved")
    bucket.place("new", b"replaced")
    oracle = Oracle(bucket)
    oracle.attempt_rename("old", "new")
    for key, content in (("old", old), ("new", new)):
        if content is None:
            bucket.remove(key)
        else:
            bucket.place(key, content)
    assert broken(oracle) is not fine


def test_an_acknowledged_rename_leaves_nothing_at_the_old_name() -> None:
    bucket = MemoryStore()
    bucket.place("old", b"moved")
    oracle = Oracle(bucket)
    oracle.attempt_rename("old", "new")
    bucket.place("new", b"moved")
    assert not broken(oracle)
    oracle.acknowledge_rename("old", "new")
    assert broken(oracle)
    bucket.remove("old")
    assert not broken(oracle)


def test_an_object_that_nobody_wrote_is_found() -> None:
    bucket = MemoryStore()
    oracle = Oracle(bucket)
    bucket.place("stray")
    assert broken(oracle)


def test_what_was_left_for_later_must_be_stored_in_the_end() -> None:
    bucket = MemoryStore()
    oracle = Oracle(bucket)
    oracle.attempt("k", b"later")
    oracle.pending["k"] = b"later"
    oracle.check()
    with pytest.raises(Broken):
        oracle.check_stored()
    bucket.place("k", b"later")
    oracle.check_stored()
