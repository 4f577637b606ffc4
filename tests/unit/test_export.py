"""What is kept of a file is written into a directory of the user's and nowhere else, whole or not at all."""

import base64
import os
import stat
from pathlib import Path

import pytest

from s3mount.control import export
from s3mount.control.export import PIECE_BYTES
from s3mount.errors import ControlError

BODY = bytes(range(256)) * 20_000


def piece(body: bytes, offset: int, size: int, **more: object) -> dict[str, object]:
    data = base64.b64encode(body[offset : offset + size]).decode()
    return {"data": data, "size": len(body), "changed_ns": 1, **more}


def fetch(offset: int, size: int) -> dict[str, object]:
    return piece(BODY, offset, size)


def test_a_file_comes_whole_at_its_path_for_its_owner_alone(tmp_path: Path) -> None:
    with export.opened(str(tmp_path / "out")) as directory:
        assert export.export(directory, "a/b c/é", fetch) == len(BODY)
        assert export.export(directory, "a/empty", lambda offset, size: piece(b"", offset, size)) == 0
    written = tmp_path / "out/a/b c/é"
    assert written.read_bytes() == BODY
    assert stat.S_IMODE(written.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "out/a/b c").stat().st_mode) == 0o700
    assert (tmp_path / "out/a/empty").read_bytes() == b""


def test_a_directory_that_was_refused_is_made_and_takes_what_is_below_it(tmp_path: Path) -> None:
    with export.opened(str(tmp_path / "out")) as directory:
        export.export_directory(directory, "a")
        assert export.export(directory, "a/b", fetch) == len(BODY)
        export.export_directory(directory, "a")
        with pytest.raises(ControlError, match="Not a directory"):
            export.export_directory(directory, "a/b")
        with pytest.raises(ControlError, match="no file can have"):
            export.export_directory(directory, "../x")
    assert (tmp_path / "out/a/b").read_bytes() == BODY


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/x", "", "a//x", "./x", "a\0b", "..", "a/\ud800"])
def test_a_daemon_names_nothing_outside_of_the_directory(tmp_path: Path, path: str) -> None:
    with export.opened(str(tmp_path / "out")) as directory, pytest.raises(ControlError, match="no file can have"):
        export.export(directory, path, fetch)
    assert os.listdir(tmp_path) == ["out"]
    assert os.listdir(tmp_path / "out") == []


def test_no_link_is_followed_and_nothing_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/link").symlink_to(tmp_path)
    (tmp_path / "out/file").symlink_to(tmp_path / "precious")
    (tmp_path / "out/there").write_bytes(b"there")
    with export.opened(str(tmp_path / "out")) as directory:
        for path, words in (("link/precious", "was not written"), ("file", "there already"), ("there", "already")):
            with pytest.raises(ControlError, match=words):
                export.export(directory, path, fetch)
    assert (tmp_path / "precious").read_bytes() == b"precious"
    assert (tmp_path / "out/there").read_bytes() == b"there"


def test_a_file_that_does_not_come_whole_is_removed_again(tmp_path: Path) -> None:
    def changed(offset: int, size: int) -> dict[str, object]:
        return piece(BODY, offset, size, changed_ns=offset)

    def cut(offset: int, size: int) -> dict[str, object]:
        return piece(BODY, offset, size if offset == 0 else 0)

    def garbled(offset: int, size: int) -> dict[str, object]:
        return piece(BODY, offset, size) if offset == 0 else {**piece(BODY, offset, size), "data": "%%%"}

    def refused(offset: int, size: int) -> dict[str, object]:
        if offset == 0:
            return piece(BODY, offset, size)
        raise ControlError("the file is not kept any more")

    assert len(BODY) > PIECE_BYTES
    with export.opened(str(tmp_path / "out")) as directory:
        for bad, words in (
            (changed, "has changed it"),
            (cut, f"{PIECE_BYTES} bytes of {len(BODY)}"),
            (garbled, "cannot be understood"),
            (refused, "not kept any more"),
        ):
            with pytest.raises(ControlError, match=words):
                export.export(directory, "file", bad)
            assert os.listdir(tmp_path / "out") == []


def test_a_directory_that_cannot_be_had_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in ("file", "none/out"):
        with pytest.raises(ControlError, match=path), export.opened(str(tmp_path / path)):
            pass
