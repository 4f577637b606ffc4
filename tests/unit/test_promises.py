"""The books of the kill rounds find each way in which a promise can be broken, and nothing else."""

from typing import Any

import pytest

from tests.load.promises import EMPTY, Promises, Version, version_of

A, B = version_of(b"a" * 100), version_of(b"b" * 50)


def store(name: str, version: Version, mode: int = 0o644) -> list[Any]:
    return ["store", name, version.size, version.digest, mode]


def told(*calls: list[Any], flying: list[Any] | None = None) -> Promises:
    """After these calls have returned, and one more has begun."""
    promises = Promises()
    for call in calls:
        promises.hear(["begin", *call])
        promises.hear(["done", 1.0])
    if flying is not None:
        promises.hear(["begin", *flying])
    return promises


def test_what_was_acknowledged_must_be_there() -> None:
    promises = told(store("f", A), store("f", B))
    assert promises.check({"f": B}) == []
    assert promises.check({})[0].startswith("lost: f is absent")
    assert promises.check({"f": A})[0].startswith("stale: f is 100 bytes")
    assert promises.check({"f": version_of(b"ab")})[0].startswith("torn: f is 2 bytes")
    assert (promises.acknowledged, promises.acknowledged_bytes) == (2, 150)


def test_what_nobody_wrote_must_not_be_there() -> None:
    assert told().check({"f": A})[0].startswith("torn: f")
    assert told(store("f", A), ["unlink", "f"]).check({"f": A})[0].startswith("stale: f")


def test_what_was_in_flight_may_be_there_whole_or_not_at_all() -> None:
    promises = told(store("f", A), flying=store("f", B))
    assert promises.check({"f": A}) == promises.check({"f": B}) == []
    assert promises.check({"f": EMPTY})[0].startswith("stale: f")
    assert promises.check({})[0].startswith("lost: f")
    assert told(store("f", A), flying=["unlink", "f"]).check({}) == []


def test_an_empty_file_is_stored_soon_after_its_close() -> None:
    promises = told(["empty", "f"])
    assert promises.check({}) == promises.check({"f": EMPTY}) == []
    assert told(store("f", A), ["empty", "f"]).check({}) != []


@pytest.mark.parametrize(
    ("found", "allowed"),
    [
        ({"f": A, "g": B}, True),
        ({"f": A, "g": A}, True),
        ({"g": A}, True),
        ({}, False),
        ({"g": B}, False),
        ({"f": A}, False),
        ({"f": B, "g": A}, False),
    ],
)
def test_a_rename_in_flight_leaves_the_old_name_the_new_one_or_both(found: dict[str, Version], allowed: bool) -> None:
    promises = told(store("f", A), store("g", B), flying=["rename", "f", "g"])
    assert (promises.check(found) == []) == allowed


def test_a_rename_that_was_acknowledged_leaves_the_new_name() -> None:
    promises = told(store("f", A), ["rename", "f", "g"])
    assert promises.check({"g": A}) == []
    assert promises.check({"f": A, "g": A}) != []
    assert promises.check({"f": A}) != []


def test_a_new_file_that_is_renamed_before_it_is_stored_leaves_what_it_replaces_until_then() -> None:
    promises = told(store("g", B), ["rename", "new", "g"])
    assert promises.check({"g": B}) == []
    assert promises.check({}) != []


def test_a_directory_is_at_one_name_after_the_recovery() -> None:
    calls = (["mkdir", "d"], store("d/f", A), store("d/g", B))
    promises = told(*calls, flying=["move", "d", "e"])
    assert promises.check({"d/": EMPTY, "d/f": A, "d/g": B}) == []
    assert promises.check({"e/": EMPTY, "e/f": A, "e/g": B}) == []
    assert promises.check({"d/f": A, "e/f": A, "e/g": B}) != []
    assert promises.check({"e/f": A}) != []
    done = told(*calls, ["move", "d", "e"])
    assert done.check({"e/f": A, "e/g": B}) == []
    assert done.check({"e/f": A, "e/g": B, "d/": EMPTY}) == ["directory d is still there"]


def test_directories_do_not_vanish() -> None:
    assert told(["mkdir", "d"]).check({}) == ["directory d has vanished"]
    assert told(["mkdir", "d"], ["rmdir", "d"]).check({"d/": EMPTY}) == ["directory d is still there"]


def test_a_mode_may_be_held_until_the_next_sync() -> None:
    promises = told(store("f", A), ["chmod", "f", 0o600])
    assert promises.check_modes({"f": 0o600}) == promises.check_modes({"f": 0o644}) == []
    assert promises.check_modes({"f": 0o755}) != []
    synced = told(store("f", A), ["chmod", "f", 0o600], store("f", B, 0o600))
    assert synced.check_modes({"f": 0o644}) != []


def test_what_was_found_is_what_the_next_round_begins_with() -> None:
    promises = told(store("f", A), ["mkdir", "d"], store("d/g", A), flying=["unlink", "f"])
    promises.settle({"d/": EMPTY, "d/g": A}, {})
    assert promises.check({"d/": EMPTY, "d/g": A}) == []
    assert promises.check({"f": A, "d/": EMPTY, "d/g": A}) != []
    assert promises.check({"d/g": A, "d/x": A}) != []
