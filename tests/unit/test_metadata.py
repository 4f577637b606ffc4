"""Attributes as user metadata: what other programs wrote is read, what is written says exactly what was meant."""

import stat
from dataclasses import replace
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3mount.store.base import Headers
from s3mount.store.replies import header_lines
from s3mount.vfs.attributes import PLAIN, Special
from s3mount.vfs.metadata import (
    METADATA_MAX_BYTES,
    link_target_of,
    metadata_bytes,
    metadata_with,
    normalized,
    special_of,
)

FILE, LINK = stat.S_IFREG, stat.S_IFLNK
NAMES = (
    "mode", "uid", "gid", "mtime", "atime", "ctime", "rdev", "xattr", "file-permissions", "file-owner", "file-group",
    "file-mtime", "file-atime", "gcsfuse_mtime", "--symlink-target", "gcsfuse_symlink_target", "colour", "user-agent",
)  # fmt: skip
TIMES = st.integers(-(2**63) + 1, 2**63 - 1)
MODES = st.builds(
    lambda kind, bits: kind | bits,
    st.sampled_from([0, FILE, LINK, stat.S_IFDIR, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK]),
    st.integers(0, 0o7777),
)
IDS = st.integers(0, 2**32 - 2)
XATTR_NAMES = st.binary(min_size=1, max_size=20).map(
    lambda raw: raw.replace(b"\0", b"-").decode(errors="surrogateescape")
)
SPECIALS = st.builds(
    Special,
    mode=st.none() | MODES,
    uid=st.none() | IDS,
    gid=st.none() | IDS,
    mtime_ns=st.none() | TIMES,
    atime_ns=st.none() | TIMES,
    ctime_ns=st.none() | TIMES,
    rdev=st.none() | st.integers(0, 2**32 - 1),
    xattrs=st.none() | st.dictionaries(XATTR_NAMES, st.binary(max_size=30), min_size=1, max_size=3),
)
VALUES = (
    st.text(max_size=40)
    | st.integers().map(str)
    | st.from_regex(r"[+-]?[0-9]{1,25}(\.[0-9]{0,12})?(ns)?", fullmatch=True)
    | st.from_regex(r"0x?[0-9a-f]{0,20}", fullmatch=True)
    | st.from_regex(
        r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-]\d\d:\d\d)", fullmatch=True
    )
    | st.sampled_from(["%7B%7D", '{"a":1}', '{"a":"!"}', "[[[[", '{"user.a":"YQ=="}', "%00", "", '{"\\ud800":"YQ=="}'])
)
METADATA = st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=8), VALUES, max_size=8)


@given(METADATA, SPECIALS)
def test_whatever_was_there_metadata_says_exactly_the_attributes_written(
    metadata: dict[str, str], special: Special
) -> None:
    written = metadata_with(metadata, special)
    assert special_of(written) == special
    assert metadata_with(written, special) == written
    assert not special_of(metadata_with(written, PLAIN))
    foreign = {name: value for name, value in metadata.items() if name not in NAMES[:16]}
    assert foreign.items() <= metadata_with(written, PLAIN).items()


@given(METADATA)
def test_any_metadata_is_read_to_attributes_that_can_be_written(metadata: dict[str, str]) -> None:
    special = special_of(metadata)
    assert special_of(metadata_with({}, special)) == special
    link_target_of(metadata)


@given(SPECIALS)
def test_what_is_written_fits_headers_as_it_is(special: Special) -> None:
    written = metadata_with({}, special)
    lines = header_lines(Headers(metadata=written))
    assert [value for _, value in lines] == list(written.values())
    assert metadata_bytes(written) == sum(len(name) + len(value) for name, value in written.items())


def test_the_names_and_forms_are_those_of_s3fs() -> None:
    special = Special(
        mode=FILE | 0o640,
        uid=0,
        gid=33,
        mtime_ns=1_700_000_000_050_000_000,
        atime_ns=1_700_000_000_000_000_000,
        rdev=259,
        xattrs={"user.b": b"\xff", "user.a": b""},
    )
    assert metadata_with({"colour": "red", "ctime": "1"}, special) == {
        "colour": "red",
        "mode": "33184",
        "uid": "0",
        "gid": "33",
        "mtime": "1700000000.050000000",
        "atime": "1700000000",
        "rdev": "259",
        "xattr": "%7B%22user.a%22%3A%22%22%2C%22user.b%22%3A%22/w%3D%3D%22%7D",
    }


@pytest.mark.parametrize(
    ("metadata", "special"),
    [
        ({"mode": "41471"}, Special(mode=LINK | 0o777)),
        ({"mode": "0100600", "uid": "0x10", "gid": "010"}, Special(mode=FILE | 0o600, uid=16, gid=8)),
        ({"mtime": "1354040105.1"}, Special(mtime_ns=1_354_040_105_100_000_000)),
        ({"mtime": "1354040105.123456789123"}, Special(mtime_ns=1_354_040_105_123_456_789)),
        ({"mtime": "-0.5"}, Special(mtime_ns=-500_000_000)),
        ({"mtime": "0"}, Special(mtime_ns=0)),
        ({"gcsfuse_mtime": "2024-02-29T12:00:00.5Z"}, Special(mtime_ns=1_709_208_000_500_000_000)),
        ({"gcsfuse_mtime": "2024-02-29T13:30:00+01:30"}, Special(mtime_ns=1_709_208_000_000_000_000)),
        ({"gcsfuse_mtime": "2024-02-29T12:00:00Z", "mtime": "7"}, Special(mtime_ns=7_000_000_000)),
        (
            {
                "user-agent": "aws-datasync",
                "file-permissions": "0100664",
                "file-owner": "500",
                "file-group": "501",
                "file-mtime": "1595002920000000001ns",
                "file-atime": "1595002920000",
            },
            Special(FILE | 0o664, 500, 501, 1_595_002_920_000_000_001, 1_595_002_920_000_000_000),
        ),
        ({"file-permissions": "0755"}, Special(mode=0o755)),
        ({"xattr": "%7B%22user.a%22%3A%22YQ%3D%3D%22%7D"}, Special(xattrs={"user.a": b"a"})),
        ({"xattr": '{"user.a\n":"YQ==","user.b":"*"}'}, Special(xattrs={"user.a\n": b"a"})),
    ],
)
def test_what_others_wrote_is_read(metadata: dict[str, str], special: Special) -> None:
    assert special_of(metadata) == special


@pytest.mark.parametrize(
    "metadata",
    [
        {"mode": "fast"},
        {"mode": "65536"},
        {"mode": "-1"},
        {"mode": "08"},
        {"mode": "\u0661"},
        {"uid": "4294967295", "gid": "root", "rdev": "4294967296"},
        {"mtime": "1700000000000", "ctime": ".5", "atime": "1e9"},
        {"mtime": "9223372036.854775808"},
        {"file-mtime": "2024-01-15T10:30:00.000Z", "file-permissions": "rw-r--r--"},
        {"gcsfuse_mtime": "2024-13-01T00:00:00Z"},
        {"xattr": "[" * 100_000},
        {"xattr": "%7B%22%22%3A%22YQ%3D%3D%22%7D"},
        {"--symlink-target": "%00", "gcsfuse_symlink_target": ""},
    ],
)
def test_a_value_that_cannot_be_is_as_if_absent(metadata: dict[str, str]) -> None:
    assert special_of(metadata) == PLAIN


def test_a_mode_of_no_known_type_is_permission_bits_only() -> None:
    assert special_of({"mode": str(0o130755)}) == special_of({"mode": str(0o755)}) == Special(mode=0o755)


def test_links_of_geesefs_and_gcsfuse_are_links() -> None:
    assert special_of({"--symlink-target": "a%20b/%c3%a9"}) == Special(mode=LINK | 0o777)
    assert link_target_of({"--symlink-target": "a%20b/%c3%a9"}) == "a b/é".encode()
    assert special_of({"gcsfuse_symlink_target": "a%20b", "mode": str(0o600)}) == Special(mode=LINK | 0o600)
    assert link_target_of({"gcsfuse_symlink_target": "a%20b"}) == b"a%20b"
    assert link_target_of({"mode": str(LINK)}) is None


def test_another_conventions_name_stays_while_it_says_the_same() -> None:
    written = {"file-owner": "5", "file-group": "6", "user-agent": "aws-datasync", "file-mtime": "1ns"}
    assert metadata_with(written, Special(uid=5, gid=7)) == {
        "file-owner": "5",
        "user-agent": "aws-datasync",
        "uid": "5",
        "gid": "7",
    }
    link = {"--symlink-target": "a"}
    assert metadata_with(link, Special(mode=LINK | 0o777)) == link | {"mode": str(LINK | 0o777)}
    assert metadata_with(link, Special(mode=FILE | 0o600)) == {"mode": str(FILE | 0o600)}


def test_a_name_that_says_nothing_to_us_is_foreign() -> None:
    assert metadata_with({"mode": "fast", "mtime": "yesterday"}, Special(uid=1)) == {
        "mode": "fast",
        "mtime": "yesterday",
        "uid": "1",
    }


def test_names_that_s3fs_reads_are_written_as_s3fs_does_and_the_others_as_json() -> None:
    text = metadata_with({}, Special(xattrs={"user.line\nfeed": b"", 'user."': b"", "user.é\udcff": b""}))["xattr"]
    assert unquote(text, errors="surrogateescape") == '{"user.\\"":"","user.line\nfeed":"","user.é\udcff":""}'


def test_the_size_counts_what_is_sent() -> None:
    assert metadata_bytes({"a": "b", "cd": "ef"}) == 6
    assert metadata_bytes({"a": "é"}) == 1 + len("=?UTF-8?B?w6k=?=")
    assert METADATA_MAX_BYTES < 2048


def test_what_equals_the_defaults_is_not_special() -> None:
    defaults = Special(mode=FILE | 0o644, uid=1, gid=2, rdev=0, xattrs={})
    assert normalized(defaults, mode=FILE | 0o644, uid=1, gid=2) == PLAIN
    assert normalized(Special(mode=0o644), mode=FILE | 0o644, uid=1, gid=2) == PLAIN
    other = Special(mode=LINK | 0o644, uid=2, gid=1, mtime_ns=5)
    assert normalized(other, mode=FILE | 0o644, uid=1, gid=2) == other
    assert normalized(replace(other, mode=0o600), mode=FILE | 0o644, uid=1, gid=2).mode == FILE | 0o600
