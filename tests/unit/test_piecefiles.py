"""Files of the disk tier: what is read back, what is not trusted, what is evicted; two mounts on one directory."""

import errno
import mmap
import os
import random
import resource
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3mount.config import GIB, KIB, MIB
from s3mount.data.piecefiles import TOUCH_SECONDS, Job, PieceFiles
from s3mount.data.pieces import Content, Piece, content_of, cut

BLOCK = 128 * KIB


def files(directory: Path, limit: int = GIB) -> PieceFiles:
    made = PieceFiles(directory, limit_bytes=limit, block_bytes=BLOCK)
    made.look()
    return made


def content(size: int, key: str = "k") -> Content:
    return content_of("e", "b", key, '"t"', size)


def page_aligned(size: int) -> memoryview:
    return memoryview(mmap.mmap(-1, size))


def body_of(size: int) -> memoryview:
    view = page_aligned(size)
    view[:] = random.Random(size).randbytes(size)
    return view


def put(tier: PieceFiles, body: memoryview, key: str = "k") -> Content:
    """All of an object, written as pieces."""
    of = content(len(body), key)
    blocks = -(-len(body) // BLOCK)
    tier.write([Job(of, p, [body[p.start * BLOCK : p.stop * BLOCK]], True) for p in cut(0, blocks, blocks)])
    return of


def get(tier: PieceFiles, of: Content, start: int = 0, stop: int | None = None) -> bytes:
    into = page_aligned((of.size if stop is None else stop) - start)
    return bytes(into[: tier.read(of, start, into, aligned=True)])


def on_disk(tier: PieceFiles) -> list[Path]:
    return sorted(tier.directory.glob("??/*"))


def taken(tier: PieceFiles) -> int:
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in on_disk(tier))


@pytest.mark.parametrize("size", [1, 100, BLOCK, BLOCK + 1, 3 * MIB, 4 * MIB, 9 * MIB + 5])
def test_what_was_written_is_read_back_by_another_mount(tmp_path: Path, size: int) -> None:
    body = body_of(size)
    of = put(files(tmp_path), body)
    other = files(tmp_path)
    assert get(other, of) == bytes(body)
    assert other.total_bytes == taken(other)
    for start in range(0, size, 7 * BLOCK):
        assert get(other, of, start, min(size, start + BLOCK)) == bytes(body[start : start + BLOCK])


def test_memory_that_begins_at_no_page_is_filled_too(tmp_path: Path) -> None:
    body = body_of(4 * MIB)
    tier = files(tmp_path)
    of = put(tier, body)
    into = memoryview(bytearray(BLOCK + 1))[1:]
    assert tier.read(of, 5 * BLOCK, into, aligned=False) == BLOCK
    assert into == body[5 * BLOCK : 6 * BLOCK]


def test_what_is_there_up_to_the_first_gap_is_read(tmp_path: Path) -> None:
    body = body_of(4 * MIB)
    tier = files(tmp_path)
    of = content(len(body))
    tier.write([Job(of, Piece(1, number), [body[number * 2 * BLOCK :][: 2 * BLOCK]], True) for number in (0, 1, 3)])
    assert get(tier, of) == bytes(body[: 4 * BLOCK])
    assert get(tier, of, 6 * BLOCK) == bytes(body[6 * BLOCK : 8 * BLOCK])


def test_one_that_is_there_is_not_written_again_nor_counted_twice(tmp_path: Path) -> None:
    one, other = files(tmp_path), files(tmp_path)
    put(one, body_of(3 * BLOCK))
    before = [(path, path.stat().st_ino) for path in on_disk(one)]
    put(other, body_of(3 * BLOCK))
    assert [(path, path.stat().st_ino) for path in on_disk(one)] == before
    assert other.total_bytes == taken(one)


@given(st.data())
def test_a_flipped_cut_or_lengthened_file_is_deleted_and_not_believed(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    tier = files(tmp_path_factory.mktemp("cache"))
    of = put(tier, body_of(data.draw(st.sampled_from([1, 5000, 2 * BLOCK, 2 * MIB]))))
    (path,) = on_disk(tier)
    raw = bytearray(path.read_bytes())
    match data.draw(st.sampled_from(["flip", "cut", "lengthen", "zeros"])):
        case "flip":
            # The padding of a head proves nothing and is not looked at.
            at = data.draw(st.integers(0, len(raw) - 1).filter(lambda at: of.size < 2 * MIB or not 120 <= at < 4096))
            raw[at] ^= 1 << data.draw(st.integers(0, 7))
        case "cut":
            del raw[data.draw(st.integers(0, len(raw) - 1)) :]
        case "lengthen":
            raw += b"x"
        case "zeros":
            raw[:] = bytes(len(raw))
    path.write_bytes(raw)
    assert get(tier, of) == b""
    assert on_disk(tier) == []
    assert tier.damaged == 1


def test_what_several_readers_find_damaged_is_counted_once(tmp_path: Path) -> None:
    tier = files(tmp_path)
    made = [put(tier, body_of(2 * BLOCK), str(number)) for number in range(200)]
    for path in on_disk(tier):
        os.truncate(path, 2 * BLOCK)
    together = threading.Barrier(4)

    def read_all() -> None:
        for of in made:
            together.wait()
            assert get(tier, of) == b""

    threads = [threading.Thread(target=read_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert on_disk(tier) == []
    assert tier.damaged == 200


def foreign_piece(path: Path, tier: PieceFiles) -> None:
    body = body_of(2 * BLOCK)
    put(tier, body, "other")
    (other,) = (found for found in on_disk(tier) if found != path)
    other.rename(path)


def link(path: Path, tier: PieceFiles) -> None:
    path.unlink()
    (tier.directory / "elsewhere").write_bytes(b"x")
    path.symlink_to(tier.directory / "elsewhere")


@pytest.mark.parametrize("plant", [foreign_piece, link])
def test_what_somebody_else_put_there_is_deleted(tmp_path: Path, plant: Callable[[Path, PieceFiles], None]) -> None:
    tier = files(tmp_path)
    of = put(tier, body_of(2 * BLOCK))
    (path,) = on_disk(tier)
    plant(path, tier)
    assert get(tier, of) == b""
    assert not os.path.lexists(path)
    assert tier.damaged == 1


def test_the_sum_never_passes_the_limit_and_the_least_recently_used_goes(tmp_path: Path) -> None:
    tier = files(tmp_path, limit=2 * MIB)
    used = put(tier, body_of(BLOCK), "used")
    now = time.time()
    for number in range(60):
        put(tier, body_of(BLOCK), str(number))
        assert taken(tier) <= tier.total_bytes <= 2 * MIB
        for age, path in enumerate(sorted(on_disk(tier), key=lambda path: path.stat().st_mtime_ns, reverse=True)):
            os.utime(path, (now - 1000 * (age + 1), now - 1000 * (age + 1)))
        assert get(tier, used) != b"", "reading it makes it young again"
    assert get(tier, content(BLOCK, "59")) != b""
    assert get(tier, content(BLOCK, "0")) == b""


def test_reading_sets_the_time_of_last_use_seldom(tmp_path: Path) -> None:
    tier = files(tmp_path)
    of = put(tier, body_of(BLOCK))
    (path,) = on_disk(tier)
    now = time.time()
    for age, touched in ((TOUCH_SECONDS / 2, False), (TOUCH_SECONDS * 2, True)):
        os.utime(path, (now - age, now - age))
        get(tier, of)
        assert (path.stat().st_mtime > now - age + 1) is touched


def test_a_lower_limit_is_kept_from_the_start(tmp_path: Path) -> None:
    put(files(tmp_path), body_of(9 * MIB))
    smaller = files(tmp_path, limit=5 * MIB)
    assert 0 < taken(smaller) == smaller.total_bytes <= 5 * MIB


def test_a_piece_over_the_limit_is_not_written(tmp_path: Path) -> None:
    tier = files(tmp_path, limit=MIB)
    put(tier, body_of(4 * MIB))
    assert on_disk(tier) == []


def test_two_mounts_that_write_and_evict_at_once_stay_below_the_limit(tmp_path: Path) -> None:
    pids = []
    for mount in range(2):
        pid = os.fork()
        if not pid:
            status = 1
            try:
                tier = files(tmp_path, limit=2 * MIB)
                for number in range(60):
                    put(tier, body_of(BLOCK), f"{mount}-{number}")
                    if taken_now(tier) > 2 * MIB:
                        break
                else:
                    status = 0
            finally:
                os._exit(status)
        pids.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0]
    tier = files(tmp_path, limit=2 * MIB)
    assert taken(tier) == tier.total_bytes


def taken_now(tier: PieceFiles) -> int:
    """While others delete: what can be seen under the lock."""
    with tier._locked():
        return taken(tier)


def test_what_a_kill_in_the_middle_left_is_put_right_by_the_next_start(tmp_path: Path) -> None:
    tier = files(tmp_path)
    put(tier, body_of(2 * BLOCK))
    (tier.directory / "new").write_bytes(b"half a piece")
    with tier._locked() as lock:
        tier._write_total(lock, 77 * MIB)
    again = files(tmp_path)
    assert not (tier.directory / "new").exists()
    assert again.total_bytes == taken(again)


@pytest.mark.parametrize("raw", [b"", b"x", b"\xff" * 16])
def test_a_damaged_sum_is_counted_anew(tmp_path: Path, raw: bytes) -> None:
    tier = files(tmp_path)
    put(tier, body_of(2 * BLOCK))
    (tier.directory / "lock").write_bytes(raw)
    put(tier, body_of(2 * BLOCK), "other")
    assert tier.total_bytes == taken(tier)


def test_a_directory_that_vanished_is_made_again(tmp_path: Path) -> None:
    tier = files(tmp_path / "cache")
    of = put(tier, body_of(BLOCK))
    (tmp_path / "cache").rename(tmp_path / "gone")
    assert get(tier, of) == b""
    put(tier, body_of(BLOCK))
    assert get(tier, of) != b""
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700
    assert tier.directory.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in on_disk(tier)} == {0o600}


def test_a_directory_that_others_can_look_into_is_not_used(tmp_path: Path) -> None:
    tier = files(tmp_path)
    tier.directory.chmod(0o755)
    with pytest.raises(PermissionError):
        put(tier, body_of(BLOCK))


def test_a_link_in_place_of_the_directory_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "cache").mkdir(mode=0o700)
    (tmp_path / "cache" / "blocks").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PermissionError):
        files(tmp_path / "cache")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_piece_that_the_disk_does_not_take_leaves_nothing(tmp_path: Path) -> None:
    tier = files(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, hard))
    try:
        with pytest.raises(OSError, match=r"File too large|not written whole") as caught:
            put(tier, body_of(4 * MIB))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno in (errno.EFBIG, errno.ENOSPC)
    assert on_disk(tier) == []
    assert not (tier.directory / "new").exists()
    put(tier, body_of(BLOCK))
    assert tier.total_bytes == taken(tier)


def test_what_another_mount_writes_is_seen_at_the_next_look(tmp_path: Path) -> None:
    one, other = files(tmp_path), files(tmp_path)
    of = put(other, body_of(BLOCK))
    assert get(one, of) == b""
    one.look()
    assert get(one, of) != b""
