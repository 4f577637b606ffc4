"""What is believed of a directory, how long, and how own changes enter it."""

import random

import pytest

from s3mount.store.base import Listed
from s3mount.vfs.directory import Directory
from s3mount.vfs.keys import BEGIN, DIRECTORY, END, LOCAL, Entry, hidden_behind, slot
from s3mount.vfs.listings import Listings
from s3mount.vfs.spans import Span

NOW = 1000.0


def listed(name: str, etag: str = '"e"') -> Listed:
    return Listed("d/" + name, 1, etag, 0)


def listings(names_max: int = 1000) -> Listings:
    return Listings(names_max=names_max, ttl_seconds=5, negative_ttl_seconds=1, walk_ttl_seconds=60)


def page(start: str, stop: str, *names: str, fetched: float = NOW) -> Span:
    return Span(start, stop, {name: listed(name) for name in names}, fetched=fetched)


def test_an_entry_is_believed_for_the_lifetime_and_an_absence_for_the_negative_one() -> None:
    directory = Directory("d/", listings())
    directory.add_page(page(BEGIN, END, "a"))
    assert directory.find("a", NOW + 4.9) == (listed("a"), NOW + 5)
    assert directory.find("a", NOW + 5) is None
    assert directory.find("b", NOW + 0.9) == (None, NOW + 1)
    assert directory.find("b", NOW + 1) is None


def test_an_open_directory_keeps_its_listing_for_a_walk_but_does_not_revive_an_old_one() -> None:
    directory = Directory("d/", listings())
    directory.add_page(page(BEGIN, END, "a"))
    directory.opened, directory.opened_since = 1, NOW + 3
    assert directory.find("a", NOW + 59) is not None
    assert directory.find("a", NOW + 60) is None
    directory.opened_since = NOW + 6
    assert directory.find("a", NOW + 7) is None


def test_a_window_tells_nothing_of_the_files_it_began_behind() -> None:
    directory = Directory("d/", listings())
    directory.add_window(Span("a-b", END, {"b": listed("b")}, fetched=NOW, holes=hidden_behind("a-b")))
    assert directory.find("b", NOW) is not None
    assert directory.find("c", NOW) == (None, NOW + 1)
    assert directory.find("a", NOW) is None
    assert directory.find("a-b", NOW) is None
    assert directory.find("A", NOW) is None


def test_own_changes_enter_every_span_and_the_answers_under_way() -> None:
    directory = Directory("d/", listings())
    directory.add_page(page(BEGIN, "m/", "a"))
    with directory.overlay() as changes:
        directory.note("b", LOCAL)
        directory.note("a", None)
        directory.note("z", DIRECTORY)
        late = directory.corrected(page("m/", END, "y"), changes)
    directory.add_page(late)
    assert directory.find("a", NOW) == (None, NOW + 1)
    assert directory.find("b", NOW) == (LOCAL, NOW + 5)
    assert directory.find("z", NOW) == (DIRECTORY, NOW + 5)


def test_files_that_are_not_in_the_bucket_yet_appear_in_every_page() -> None:
    directory = Directory("d/", listings())
    directory.local.add("new")
    span = directory.corrected(page(BEGIN, END, "old"), {})
    assert span.entries["new"] is LOCAL


def test_a_file_carried_to_the_next_page_and_removed_meanwhile_is_carried_no_more() -> None:
    directory = Directory("d/", listings())
    span = Span(BEGIN, "a-b", {}, fetched=NOW, token="t", carry={"a": listed("a")})
    directory.add_page(span)
    directory.note("a", None)
    assert span.next.carry == {}
    directory.note("a", listed("a", '"new"'))
    assert span.next.carry == {"a": listed("a", '"new"')}


def test_a_newer_page_replaces_what_it_overlaps() -> None:
    directory = Directory("d/", listings())
    for start, stop in [(BEGIN, "c/"), ("c/", "f/"), ("f/", END)]:
        directory.add_page(page(start, stop))
    directory.add_page(page("c/", "g/", fetched=NOW + 1))
    assert [(span.start, span.stop == END) for span in directory.pages] == [(BEGIN, False), ("c/", False)]


def test_the_least_recently_used_listing_goes_first_when_too_many_names_are_held() -> None:
    shared = listings(names_max=25)
    directories = [Directory(f"{number}/", shared) for number in range(3)]
    names = [f"n{number}" for number in range(10)]
    directories[0].add_page(page(BEGIN, END, *names))
    directories[1].add_page(page(BEGIN, END, *names))
    assert directories[0].find("n1", NOW) is not None
    directories[2].add_page(page(BEGIN, END, *names))
    assert [bool(directory.pages) for directory in directories] == [True, False, True]
    assert shared.names == 22


def test_growing_by_own_files_counts_too() -> None:
    shared = listings(names_max=20)
    small, big = Directory("s/", shared), Directory("b/", shared)
    small.add_page(page(BEGIN, END, "a"))
    big.add_page(page(BEGIN, END))
    for number in range(18):
        big.note(f"n{number}", LOCAL)
    assert not small.pages
    assert shared.names == 19


def test_the_second_miss_lists_a_page_from_just_before_its_name() -> None:
    directory = Directory("d/", listings())
    assert directory.where_to_list("f", NOW) is None
    after = directory.where_to_list("g", NOW + 1)
    assert after is not None
    assert "f" < after < "g"


def test_a_page_that_reached_the_end_is_followed_by_the_whole_directory() -> None:
    directory = Directory("d/", listings())
    directory.where_to_list("x", NOW)
    after = directory.where_to_list("m", NOW)
    assert after is not None
    directory.add_window(Span(after, END, {}, fetched=NOW, holes=hidden_behind(after)))
    assert directory.where_to_list("b", NOW) == BEGIN


def test_random_lookups_in_a_huge_directory_get_no_further_pages_and_ordered_ones_do() -> None:
    directory = Directory("d/", listings())
    directory.where_to_list("x", NOW)
    directory.where_to_list("m", NOW)
    window = Span("l~", "m5/", {}, fetched=NOW, holes=hidden_behind("l~"))
    directory.add_window(window)
    assert directory.where_to_list("b", NOW) is None
    for number in range(20):
        assert directory.find(f"m{number:02}", NOW) is not None
    assert directory.where_to_list("m7", NOW) is not None
    assert directory.where_to_list("b", NOW) is None


def test_misses_of_another_lifetime_do_not_count() -> None:
    directory = Directory("d/", listings())
    assert directory.where_to_list("a", NOW) is None
    assert directory.where_to_list("b", NOW + 6) is None


def test_whether_an_entry_is_the_last_one_is_told_by_fresh_spans_only() -> None:
    directory = Directory("d/", listings())
    assert directory.holds_other("a", NOW) is None
    directory.add_page(page(BEGIN, END, "a"))
    assert directory.holds_other("a", NOW) is False
    directory.note("b", LOCAL)
    assert directory.holds_other("a", NOW) is True
    assert directory.holds_other("a", NOW + 5) is None


def test_random_changes_leave_pages_equal_to_a_plain_dictionary() -> None:
    rng = random.Random(7)
    directory = Directory("d/", listings(names_max=10_000))
    names = ["".join(rng.choices("ab-.0", k=rng.randint(1, 4))) for _ in range(60)]
    truth: dict[str, Entry] = {}
    stops = [*sorted({slot(name) for name in names[::7]}), END]
    for start, stop in zip([BEGIN, *stops], stops, strict=False):
        directory.add_page(page(start, stop))
    for _ in range(2000):
        name = rng.choice(names)
        if rng.random() < 0.5:
            truth[name] = DIRECTORY
            directory.note(name, DIRECTORY)
        else:
            truth.pop(name, None)
            directory.note(name, None)
    told = [position for span in directory.pages for position in span.after(span.start)]
    assert told == sorted(truth, key=slot)
    assert all(directory.find(name, NOW) is not None for name in names)


def test_names_stay_in_order_through_changes_and_a_change_looks_at_few_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory that is filled here is one span: who reads its files between two changes does not wait for a sort."""
    looked_at = 0

    def counted(name: str) -> str:
        nonlocal looked_at
        looked_at += 1
        return slot(name)

    draw = random.Random(6)
    names = [f"{draw.randrange(10**9)}{tail}" for tail in ("", "!", "-a", "0", "\u00e9") for _ in range(2000)]
    span = page(BEGIN, END, *names[:5000])
    assert span.after(BEGIN) == sorted(names[:5000], key=slot)
    monkeypatch.setattr("s3mount.vfs.spans.slot", counted)
    for name in names[5000:]:
        assert span.put(name, LOCAL) == 1
        assert span.put(name, listed(name)) == 0
        assert next(span.following(name[:-1]), name) >= name[:-1]
    for name in names[:3000]:
        assert span.put(name, None) == -1
        assert span.put(name, None) == 0
    assert looked_at < 50 * len(names)
    left = sorted(names[3000:], key=slot)
    assert span.after(BEGIN) == left
    assert list(span.following(slot(left[7]))) == left[8:]
