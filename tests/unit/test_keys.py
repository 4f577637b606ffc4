"""Names and keys: what can be a path, in which order a directory is told, and what two keys of one name become."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3mount.errors import IllegalName, NameTooLong, NotPermitted
from s3mount.store.base import Listed, Page
from s3mount.vfs.keys import (
    BEGIN,
    DIRECTORY,
    END,
    TWIN_SUFFIX,
    Entry,
    check_key,
    decode,
    escaped,
    hidden_behind,
    is_name,
    just_before,
    new_name,
    read_page,
    read_subtree,
    slot,
)
from s3mount.vfs.mediatypes import content_type

COMPONENTS = st.text(st.sampled_from("ab-./0~é\U0001f600"), min_size=1, max_size=4)


def listed(key: str) -> Listed:
    return Listed(key, 1, '"e"', 0)


def utf8(key: str) -> bytes:
    return key.encode()


def tree(key: str) -> bytes:
    """SeaweedFS sorts the names of each directory."""
    return key.encode().replace(b"/", b"\0")


ORDERS: list[Callable[[str], bytes]] = [utf8, tree]


def pages(prefix: str, keys: list[str], size: int, order: Callable[[str], bytes] = utf8) -> list[Page]:
    """The pages a store of this order makes of these keys with the delimiter '/'."""
    rows: list[str] = []
    for key in sorted(set(keys), key=str.encode):
        name, slash, _ = key[len(prefix) :].partition("/")
        row = prefix + name + slash
        if row not in rows:
            rows.append(row)
    rows.sort(key=order)
    cut = [rows[start : start + size] for start in range(0, len(rows), size)] or [[]]
    return [
        Page(
            tuple(listed(row) for row in sorted(chunk) if not row.endswith("/") or row == prefix),
            tuple(row for row in sorted(chunk) if row.endswith("/") and row != prefix),
            None if chunk is cut[-1] else chunk[-1],
            0,
        )
        for chunk in cut
    ]


def test_a_name_that_is_not_utf_8_cannot_be_created() -> None:
    assert decode(b"\xff") is None
    with pytest.raises(IllegalName):
        new_name(b"\xff")


def test_a_reserved_name_is_refused_on_create() -> None:
    with pytest.raises(NotPermitted):
        new_name(b".s3mount-attrs")


def test_a_name_over_255_bytes_is_too_long_and_so_is_a_key_over_1024() -> None:
    assert decode(b"n" * 255) == "n" * 255
    with pytest.raises(NameTooLong):
        decode(b"n" * 256)
    assert check_key("k" * 1024) == "k" * 1024
    with pytest.raises(NameTooLong):
        check_key("é" * 513)


@pytest.mark.parametrize("component", ["", ".", "..", "a\0b", "é" * 128])
def test_what_cannot_be_a_path_is_no_name(component: str) -> None:
    assert not is_name(component)


@pytest.mark.parametrize("name", ["a\nb", "\x01", "%41", "a+b c", "é", "e\u0301", "\U0001f600", "...", "~"])
def test_odd_names_are_names(name: str) -> None:
    assert is_name(name)
    assert new_name(name.encode()) == name


def test_keys_that_cannot_be_paths_are_hidden_and_told() -> None:
    page = Page(
        (listed("p/" + "x" * 300), listed("p/.s3mount-attrs"), listed("p/ok"), listed("p/..")),
        ("p//", "p/./", "p/../", "p/d/"),
        None,
        0,
    )
    piece = read_page("p/", page, BEGIN, {})
    assert set(piece.entries) == {"ok", "d"}
    assert set(piece.hidden) == {"p/" + "x" * 300, "p/..", "p//", "p/./", "p/../"}


def test_a_key_that_is_file_and_directory_shows_the_directory_and_the_file_under_a_suffix() -> None:
    piece = read_page("", Page((listed("a"),), ("a/",), None, 0), BEGIN, {})
    assert piece.entries == {"a": DIRECTORY, "a" + TWIN_SUFFIX: listed("a")}


def test_a_file_whose_directory_may_follow_on_the_next_page_is_carried() -> None:
    first, second = Page((listed("a"), listed("a-b")), (), "a-b", 0), Page((), ("a/",), None, 0)
    piece = read_page("", first, BEGIN, {})
    assert piece.stop == "a-b"
    assert piece.entries == {}
    assert set(piece.carry) == {"a", "a-b"}
    rest = read_page("", second, piece.stop, piece.carry)
    assert rest.entries == {"a-b": listed("a-b"), "a": DIRECTORY, "a" + TWIN_SUFFIX: listed("a")}


@given(st.lists(st.lists(COMPONENTS, min_size=1, max_size=3).map("/".join)), st.integers(1, 5), st.sampled_from(ORDERS))
def test_pages_of_any_size_and_order_tell_what_one_page_tells(
    keys: list[str], size: int, order: Callable[[str], bytes]
) -> None:
    whole = read_page("p/", pages("p/", ["p/" + key for key in keys], 10_000)[0], BEGIN, {})
    told: dict[str, object] = {}
    stop = BEGIN
    carry: dict[str, Entry] = {}
    for page in pages("p/", ["p/" + key for key in keys], size, order):
        piece = read_page("p/", page, stop, carry)
        assert all(stop < slot(name) <= piece.stop for name in piece.entries)
        assert not told.keys() & piece.entries.keys()
        told.update(piece.entries)
        stop, carry = piece.stop, piece.carry
    assert stop == END
    assert carry == {}
    assert told == whole.entries
    assert read_subtree("p/", [listed("p/" + key) for key in keys]).entries == whole.entries


def test_a_page_that_ends_with_a_directory_leaves_the_names_open_that_a_tree_tells_after_it() -> None:
    first, second = Page((), ("a/",), "a/", 0), Page((listed("a!"),), (), None, 0)
    piece = read_page("", first, BEGIN, {})
    assert (piece.stop, piece.entries, piece.carry) == ("a", {}, {"a": DIRECTORY})
    assert read_page("", second, piece.stop, piece.carry).entries == {"a!": listed("a!"), "a": DIRECTORY}


@given(st.text(min_size=1, max_size=5).filter(is_name))
def test_a_page_for_a_name_begins_before_it(name: str) -> None:
    start = just_before(name)
    assert start < name
    assert name not in hidden_behind(start)


def test_a_page_that_begins_in_the_middle_cannot_tell_of_files_before_it() -> None:
    assert hidden_behind("a-b") == {"a", "a-b"}
    assert hidden_behind("ab") == {"ab"}


def test_content_types_follow_the_extension_alike_on_all_machines() -> None:
    names = ["a.html", "b.css", "c.JPG", "d.unknown", "noextension", ".html", "x.tar.gz"]
    assert [content_type(name) for name in names] == [
        "text/html",
        "text/css",
        "image/jpeg",
        "application/octet-stream",
        "application/octet-stream",
        "application/octet-stream",
        "application/gzip",
    ]


def test_a_name_in_a_log_line_is_one_ascii_word() -> None:
    assert escaped("a b\né/") == "a\\x20b\\n\\xe9/"
