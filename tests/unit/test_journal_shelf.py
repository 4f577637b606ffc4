"""`s3mount journal`: what waits in a journal is shown and rescued without daemon and bucket; nothing is touched."""

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import trio

from s3mount import cli, instance
from s3mount.config import Config
from s3mount.store.base import ABSENT, ALWAYS, Headers
from s3mount.writeback import metas, shelf
from s3mount.writeback.metas import Named, Own, Part
from s3mount.writeback.operations import Place
from s3mount.writeback.oplog import Appended
from s3mount.writeback.pending import Pending
from s3mount.writeback.records import Identity
from s3mount.writeback.replay import replay

MOUNTPOINT = "/nonexistent/photos"
OURS = Identity("http://store", "bucket", "in/", os.geteuid())
AT_NS = 1_700_000_000_000_000_000


class Journal:
    """An instance's journal below a cache directory, as a daemon writes it."""

    def __init__(self, cache_dir: Path) -> None:
        config = Config(bucket="bucket", prefix="in/", endpoint_url="http://store", mountpoint=Path(MOUNTPOINT))
        self.cache_dir = cache_dir
        self.directory = instance.Instance(cache_dir / "instances" / instance.name(config)).write_back
        self.directory.parent.mkdir(parents=True)

    def write(self, *records: tuple[dict[str, Any], bytes]) -> list[Appended]:
        def table(on_free: Callable[[Iterable[Place]], None], on_over: Callable[[int], None]) -> Pending:
            return Pending(clock=trio.current_time, delay_seconds=1, on_free=on_free, on_over=on_over)

        async def run() -> list[Appended]:
            replayed = await replay(self.directory, OURS, table)
            async with trio.open_nursery() as nursery:
                await nursery.start(replayed.log.run)
                written = []
                for meta, body in records:
                    written.append(await replayed.log.append(meta, (body,) if body else ()))
                    replayed.pending.apply(written[-1].seq, meta, written[-1].place)
                await replayed.log.close()
            return written

        return trio.run(run)

    def run(self, *words: str) -> int:
        return cli.main(["journal", *words, "--cache-dir", str(self.cache_dir), MOUNTPOINT])

    def files(self) -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in self.directory.rglob("*") if path.is_file()}


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "cache")


def put(key: str, body: bytes, *pieces: Part, size: int | None = None) -> tuple[dict[str, Any], bytes]:
    size = len(body) if size is None else size
    meta = metas.put_meta(
        key,
        headers=Headers(),
        condition=ABSENT,
        size=size,
        etag=f'"s3mount-{key}"',
        at_ns=AT_NS,
        pieces=pieces or (Own(0, size, 0),),
    )
    return meta, body


def delete(key: str) -> tuple[dict[str, Any], bytes]:
    return metas.delete_meta(key, condition=ALWAYS, at_ns=AT_NS), b""


def test_what_waits_is_listed_and_nothing_is_touched(journal: Journal, capsys: pytest.CaptureFixture[str]) -> None:
    journal.write(put("in/a/ö.txt", b"body"), delete("in/gone"))
    before = journal.files()
    assert journal.run("list", "--json") == 0
    changes = json.loads(capsys.readouterr().out)["changes"]
    assert [(change["path"], change["change"], change["size"], change["state"]) for change in changes] == [
        ("a/ö.txt", "put", 4, "waiting"),
        ("gone", "delete", 0, "waiting"),
    ]
    assert {change["since_ns"] for change in changes} == {AT_NS}
    assert journal.run("list") == 0
    assert "a/ö.txt" in capsys.readouterr().out
    assert journal.files() == before


def test_files_that_wait_are_written_under_their_names_and_over_nothing(
    journal: Journal, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    large = os.urandom(5_000_001)
    journal.write(put("in/a/small", b"body"), put("in/large", large), put("in/empty", b""), put("in/dir/", b""))
    to = tmp_path / "out"
    assert journal.run("export", "--to", str(to)) == 0
    found = {str(path.relative_to(to)): path.read_bytes() for path in to.rglob("*") if path.is_file()}
    assert found == {"a/small": b"body", "large": large, "empty": b""}
    (to / "a/small").write_bytes(b"theirs")
    assert journal.run("export", "--to", str(to)) == 1
    assert "a/small: is there already" in capsys.readouterr().err
    assert (to / "a/small").read_bytes() == b"theirs"


def test_a_file_whose_other_bytes_are_in_the_bucket_is_partial(
    journal: Journal, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pieces = (Named(0, 3, "in/f", '"e"', 3, 0), Own(3, 7, 0))
    journal.write(put("in/f", b"body", *pieces, size=7))
    assert journal.run("export", "--to", str(tmp_path / "out")) == 1
    assert (tmp_path / "out/f.partial").read_bytes() == b"\0\0\0body"
    assert "in/f of the bucket" in capsys.readouterr().err


def test_what_is_damaged_is_named_and_the_rest_is_written(
    journal: Journal, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal.write(put("in/first", b"1"), put("in/hit", b"2"), put("in/behind", b"3"))
    (segment,) = journal.directory.glob("*.log")
    raw = bytearray(segment.read_bytes())
    raw[raw.index(b"in/hit")] ^= 1
    segment.write_bytes(raw)
    assert journal.run("export", "--to", str(tmp_path / "out")) == 1
    assert sorted(os.listdir(tmp_path / "out")) == ["first"]
    told = capsys.readouterr().err
    assert "00000001.log: is damaged at" in told
    assert "behind: is named behind the damage" in told
    assert segment.read_bytes() == raw


def test_a_bad_body_costs_its_file_alone(journal: Journal, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journal.write(put("in/first", b"first body"), put("in/second", b"second body"))
    (segment,) = journal.directory.glob("*.log")
    raw = bytearray(segment.read_bytes())
    raw[raw.index(b"first body")] ^= 1
    segment.write_bytes(raw)
    assert journal.run("export", "--to", str(tmp_path / "out")) == 1
    assert sorted(os.listdir(tmp_path / "out")) == ["second"]
    assert "first: its bytes in the journal are damaged" in capsys.readouterr().err


def test_an_instance_is_found_by_its_directory_too_and_those_there_are_are_named(
    journal: Journal, capsys: pytest.CaptureFixture[str]
) -> None:
    journal.write(put("in/f", b"1"))
    directory = str(journal.directory.parent)
    assert cli.main(["journal", "list", "--cache-dir", str(journal.cache_dir), directory]) == 0
    assert "put" in capsys.readouterr().out
    assert cli.main(["journal", "list", "--cache-dir", str(journal.cache_dir), "/nonexistent/other"]) == 1
    assert directory in capsys.readouterr().err


def test_how_much_waits_is_known_without_a_daemon(journal: Journal) -> None:
    assert shelf.waiting(journal.directory) == 0
    first, second = journal.write(put("in/f", b"1"), put("in/g", b"2"))
    assert shelf.waiting(journal.directory) == 2
    journal.write(({"dropped": first.seq}, b""))
    assert shelf.waiting(journal.directory) == 1
    journal.write(({"dropped": second.seq}, b""))
    assert shelf.waiting(journal.directory) == 0
