"""An instance's directory: one daemon at a time, nobody else's."""

from dataclasses import replace
from pathlib import Path

import pytest

from s3mount import instance
from s3mount.config import Config
from s3mount.errors import StartError


def config(tmp_path: Path) -> Config:
    return Config(bucket="uploads", mountpoint=tmp_path / "mnt")


def test_a_second_daemon_of_the_same_instance_is_refused(tmp_path: Path) -> None:
    with (
        instance.held(config(tmp_path), tmp_path),
        pytest.raises(StartError, match="umount"),
        instance.held(config(tmp_path), tmp_path),
    ):
        raise AssertionError("both hold it")
    with instance.held(config(tmp_path), tmp_path):
        pass


def test_mounts_that_differ_in_one_thing_share_nothing(tmp_path: Path) -> None:
    one = config(tmp_path)
    others = [
        replace(one, bucket="other"),
        replace(one, prefix="a/"),
        replace(one, endpoint_url="https://s3.example.com"),
        replace(one, mountpoint=tmp_path / "elsewhere"),
    ]
    assert len({instance.name(each) for each in [one, *others]}) == 5


def test_what_a_dead_daemon_staged_is_gone_at_the_next_start(tmp_path: Path) -> None:
    with instance.held(config(tmp_path), tmp_path) as held:
        left = held.staging
    left.mkdir(parents=True)
    (left / "segment").write_bytes(b"never acknowledged")
    with instance.held(config(tmp_path), tmp_path) as held:
        assert list(held.staging.iterdir()) == []


def test_a_word_that_cannot_be_written_down_is_told_in_words(tmp_path: Path) -> None:
    (tmp_path / "owner.new").mkdir()
    with pytest.raises(StartError, match="--cache-dir"):
        instance.owner(tmp_path)


def test_a_journal_in_which_something_waits_is_not_left_behind(tmp_path: Path) -> None:
    journal = instance.Instance(tmp_path).write_back
    asked: list[Path] = []

    def waiting(directory: Path) -> int:
        asked.append(directory)
        return len(list(directory.iterdir()))

    instance.check_nothing_waits(journal, waiting)
    assert not asked, "there is none"
    journal.mkdir()
    instance.check_nothing_waits(journal, waiting)
    (journal / "one").touch()
    with pytest.raises(StartError, match=r"^1 changes [^\n]* mount with --write-back [^\n]* `s3mount journal export`$"):
        instance.check_nothing_waits(journal, waiting)
    assert asked == [journal, journal]
