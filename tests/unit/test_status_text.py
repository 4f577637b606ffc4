"""`s3mount status` for people: a screen for a mount that is well, what is wrong first, nothing left out in silence."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from s3mount.control.status import status_text
from s3mount.control.wrong import wrongs

WELL: dict[str, Any] = {
    "uptime_seconds": 7384.2,
    "mount": {"source": "s3://b/p", "mountpoint": "/mnt/b", "pid": 7, "version": "1.2", "read_only": False},
    "files": {
        "dirty_files": {"count": 0, "paths": []},
        "dirty": {"bytes": 0, "oldest_seconds": 0.0, "files": []},
        "uploads": {"count": 0, "under_way": []},
        "files_not_stored": {"count": 0, "paths": []},
        "conflicts_open": {"count": 0, "paths": []},
        "handles_for_writing": 2,
        "stopping": False,
        "renames": [],
        "hidden_keys": {"count": 0, "prefixes": {}},
        "hidden_examples": {},
        "names": {"inodes": 35},
        "listed_names": {"held": 67, "max": 500000},
        "cache_of_names": {"hits": 90, "misses": 10},
        "cache_of_listings": {"hits": 1, "misses": 2},
        "cache_of_attributes": {"hits": 0, "misses": 0},
        "attributes_remembered": {"versions": 3, "max": 16384},
        "walks": {"under_way": 0, "directories_ahead": 0, "refused": False},
    },
    "storage": {
        "staging": {"used_bytes": 1 << 20, "max_bytes": 1 << 30, "writers_waiting": 0, "disk_full": False},
        "memory": {"max_bytes": 512 << 20, "cached_bytes": 3 << 20, "unsent_bytes": 0},
        "cache_in_memory": {"hits": 3, "misses": 1},
        "cache_on_disk": "off",
        "parts_sent_ahead": 0,
        "read_ahead": {"readers": 0, "wasted_bytes": 0},
        "conflict_copies": {"count": 0, "latest": []},
    },
    "store": {
        "endpoint": "http://s:1",
        "region": "here",
        "signed": True,
        "clock_skew_seconds": 0,
        "requests": {"get": 14},
        "answers": [
            {"operation": "get", "status": 206, "outcome": "ok", "count": 9},
            {"operation": "get", "status": 503, "outcome": "slow_down", "count": 4},
            {"operation": "get", "status": 0, "outcome": "broken_connection", "count": 1},
        ],
        "seconds": {"get": {"total": 1.5, "classes": {"0.005": 14, "+Inf": 0}}},
        "sent_bytes": 0,
        "received_bytes": 9 << 20,
        "last_answer_seconds": 1.0,
        "last_failure_seconds": 400.0,
    },
    "abilities": {"rename": True, "part_copy": False, "equal_parts": None, "parts_max": 1000},
    "life": {"is": "serving", "log_level": "info"},
    "troubles": {"errors": 0, "warnings": 0, "latest": []},
    "operations": {"lookup": {"count": 5, "seconds": 0.1, "errors": {"EIO": 2}}},
}


def with_figures(part: str, **figures: object) -> dict[str, Any]:
    return {**WELL, part: {**WELL[part], **figures}}


def test_a_mount_that_is_well_is_one_screen_that_says_so() -> None:
    text = status_text(WELL)
    assert len(text.splitlines()) <= 24
    assert text.splitlines()[:3] == [
        "s3://b/p on /mnt/b",
        "  serving, pid 7, s3mount 1.2, up 2h 3m 4s",
        "  nothing is wrong",
    ]
    for words in (
        "not stored yet       0 files, 0 bytes",
        "requests             get 14 (1 broken connection, 4 slow down)",
        "bodies               9.0 MiB received, 0 bytes sent",
        "reads from memory 75 % of 4, names 90 % of 100, listings 33 % of 3, attributes none yet",
        "3.0 MiB cached, 0 bytes unsent, limit 512.0 MiB",
        "staging              1.0 MiB of 1.0 GiB",
        "requests             lookup 5 (2 EIO)",
        "can                  rename",
        "cannot               part copy",
        "parts max 1000",
    ):
        assert words in text, text


def test_dirty_files_and_uploads_are_told_with_their_age_and_how_far_they_are() -> None:
    text = status_text(
        with_figures(
            "files",
            dirty_files={"count": 2, "paths": ["a", "b"]},
            dirty={
                "bytes": 3 << 20,
                "oldest_seconds": 61.0,
                "files": [
                    {"path": "a", "bytes": 2 << 20, "seconds": 61.0, "open": True},
                    {"path": "b", "bytes": 1 << 20, "seconds": 1.0, "open": False},
                ],
            },
            uploads={
                "count": 2,
                "under_way": [
                    {
                        "path": "a", "done_bytes": 1 << 20, "total_bytes": 2 << 20, "parts_done": 1, "parts_total": 2,
                        "seconds": 3.0, "still_written": False,
                    },
                    {
                        "path": "c", "done_bytes": 0, "total_bytes": 9 << 20, "parts_done": 0, "parts_total": None,
                        "seconds": None, "still_written": True,
                    },
                ],
            },
        )
    )  # fmt: skip
    assert "not stored yet       2 files, 3.0 MiB, the oldest for 1m 1s" in text
    assert "a: 2.0 MiB for 1m 1s, open" in text
    assert "b: 1.0 MiB for 1s\n" in text
    assert "a: 1.0 MiB of 2.0 MiB, 1 of 2 parts, for 3s" in text
    assert "c: 0 bytes of 9.0 MiB, sent ahead, still written" in text
    assert "nothing is wrong" in text


def test_what_failed_lately_comes_first_with_what_to_do_though_it_may_be_over() -> None:
    trouble = {
        "what": "file not stored, trying again", "level": "error", "count": 3, "operation": None, "about": "d/f\x1b",
        "errno": None, "reason": "no answer", "age_seconds": 62.5, "remedy": "wait",
    }  # fmt: skip
    text = status_text(with_figures("troubles", errors=3, latest=[trouble] * 12))
    assert text.splitlines()[2:7] == [
        "  nothing is wrong",
        "LATELY",
        "  error, 3 times, last 1m 2s ago: file not stored, trying again (d/f\\x1b)",
        "      because: no answer",
        "      to do: wait",
    ]
    assert "and 2 kinds of warnings and errors more" in text


def test_what_failed_long_ago_is_a_word_and_not_wrong_any_more() -> None:
    trouble = {"what": "file not stored", "level": "error", "count": 3, "age_seconds": 90_000.0, "remedy": "wait"}
    text = status_text(with_figures("troubles", errors=3, latest=[trouble]))
    assert text.splitlines()[2:4] == [
        "  nothing is wrong",
        "  earlier: 1 kinds of warnings and errors, the last 1d 1h 0m 0s ago, see --json".replace("1h 0m ", "1h "),
    ]


def test_each_thing_that_is_wrong_is_a_line() -> None:
    for part, figures, words in (
        ("life", {"is": "stopping"}, "the mount is stopping"),
        ("store", {"outage": {"since_seconds": 30.0, "reason": "refused"}}, "has not been reached for 30s: refused"),
        ("files", {"files_not_stored": {"count": 2, "paths": ["a", "b"]}}, "2 files were closed"),
        ("files", {"deletions_that_failed": [{"path": "a", "reason": "b"}]}, "1 files were not deleted"),
        ("files", {"attributes_that_failed": [{"path": "a", "reason": "b"}]}, "1 changes of attributes"),
        ("files", {"conflicts_open": {"count": 1, "paths": ["a"]}}, "1 open files have lost"),
        ("storage", {"conflict_copies": {"count": 1, "latest": []}}, "1 versions lost a conflict"),
        ("storage", {"staging": {"disk_full": True}}, "make room"),
        ("storage", {"staging": {"writers_waiting": 4}}, "4 writes wait"),
        ("storage", {"cache_on_disk": {"given_up_for_a_while": True}}, "cache on disk"),
    ):
        told = list(wrongs(with_figures(part, **figures)))
        assert len(told) == 1
        assert words in told[0]


JOURNAL: dict[str, Any] = {
    "changes": 3, "changes_max": 20_000, "bytes": 5 << 20, "max_bytes": 1 << 30, "oldest_seconds": 65.0, "sending": 2,
    "refused": {"count": 0, "paths": []}, "journal_bytes": 64 << 20, "damage": None,
}  # fmt: skip


def test_a_backlog_of_write_back_is_told_and_nothing_wrong() -> None:
    text = status_text({**WELL, "write_back": JOURNAL})
    assert "nothing is wrong" in text
    assert "not sent yet         3 changes, 5.0 MiB, the oldest for 1m 5s, 2 being sent" in text
    assert "journal              64.0 MiB on disk, limits 1.0 GiB and 20000 changes" in text
    assert "write-back" not in status_text(WELL)
    rest = status_text({**WELL, "write_back": {**JOURNAL, "changes": 0, "bytes": 0, "sending": 0}})
    assert "not sent yet         0 changes, 0 bytes\n" in rest


def test_what_is_wrong_with_a_journal_is_a_line_and_says_what_to_do() -> None:
    damage = {"place": "/c/damaged-1", "count": 2, "paths": ["a", "b\x1b"]}
    for figures, words in (
        ({"refused": {"count": 2, "paths": ["a", "b"]}}, "2 changes are refused by the bucket and wait for you"),
        ({"damage": damage}, "kept in /c/damaged-1, 2 names are known"),
        ({"writers_waiting": 4}, "4 changes wait until some of the journal is sent: --write-back-limit"),
    ):
        told = list(wrongs({**WELL, "write_back": {**JOURNAL, **figures}}))
        assert len(told) == 1
        assert words in told[0]
    text = status_text(
        {**WELL, "write_back": {**JOURNAL, "damage": damage, "refused": {"count": 1, "paths": ["d/forbidden"]}}}
    )
    for words in ("damaged              /c/damaged-1", "b\\x1b", "d/forbidden"):
        assert words in text


def test_a_count_of_hidden_keys_says_of_which_and_names_one() -> None:
    text = status_text(
        {"files": {"hidden_keys": {"count": 3, "prefixes": {"a/": 2, "": 1}}, "hidden_examples": {"a/": "a//x"}}}
    )
    assert [line.split() for line in text.splitlines()[-3:]] == [
        ["hidden", "keys", "3"],
        ["2", "below", "a/,", "such", "as", "a//x"],
        ["1", "below", "the", "root"],
    ]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.dictionaries(st.sampled_from([*WELL, "later"]), JSON),
    st.dictionaries(st.sampled_from([*WELL["files"]]), JSON),
    st.dictionaries(st.sampled_from([*JOURNAL]), JSON),
)
def test_whatever_a_daemon_of_another_version_says_is_shown_in_lines_that_no_terminal_acts_on(
    answer: dict[str, Any], files: dict[str, Any], journal: dict[str, Any]
) -> None:
    text = status_text({**answer, "files": files, "write_back": journal})
    assert all(line.isprintable() for line in text.splitlines())
