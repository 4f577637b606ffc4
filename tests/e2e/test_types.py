"""What `find -type` and `ls -F` tell of entries on real mounts, by getdents, and what that costs."""

import os
import stat
import time

from tests.e2e.material import in_threads
from tests.e2e.mounting import Mounts, Place, grow_old, succeed
from tests.e2e.test_attributes_read import FLAG, special
from tests.e2e.test_requests import paid
from tests.proxy import FaultProxy

FILE = special(stat.S_IFREG, 0o640)
LINK = special(stat.S_IFLNK, 0o777)


def find(root: str | os.PathLike[str], *conditions: str) -> list[str]:
    """The names below, but for the directory's own."""
    return sorted(succeed("find", str(root), "-mindepth", "1", *conditions, "-printf", "%f\\n").splitlines())


def test_find_type_f_in_a_flagged_directory_is_a_request_per_thousand_names(
    mounts: Mounts, proxy: FaultProxy, place: Place
) -> None:
    """Of 1,200 files with modes of their own `ls -f`, `find -type f` and `find -type l` are 2 LIST each at most; the
    types come with the listing."""
    place.put(f"d/{FLAG}")
    in_threads(lambda number: place.put(f"d/f{number:04}", b"x", Metadata=FILE), range(1200), threads=16)
    place.put("d/sub/x")
    grow_old()
    directory = mounts.start("--metadata-ttl", "1s", endpoint_url=proxy.endpoint_url).root / "d"
    directory.stat()
    paid(proxy)

    def heads() -> int:
        """Of files, after two LIST and one below `sub`; directories have no version, and may be asked for again."""
        count = proxy.counts(r"/f\d{4}$")["head"]
        assert paid(proxy)["list"] <= 3
        return count

    assert len(find(directory, "-maxdepth", "1", "-type", "f")) == 1200
    assert heads() == 0
    time.sleep(1.1)
    assert find(directory, "-maxdepth", "1", "-type", "l") == []
    assert find(directory, "-maxdepth", "1", "-type", "d") == ["sub"]
    assert heads() == 0
    time.sleep(1.1)
    directory.stat()
    paid(proxy)
    assert len(succeed("ls", "-f", directory).splitlines()) == 1203
    assert paid(proxy) == {"list": 2}
    with os.scandir(directory) as entries:
        assert sum(entry.is_file(follow_symlinks=False) for entry in entries) == 1200
    assert heads() == 0
    assert oct((directory / "f0007").stat().st_mode) == "0o100640"


def test_where_there_is_a_link_only_what_may_be_one_is_asked_for(
    mounts: Mounts, proxy: FaultProxy, place: Place
) -> None:
    """`find -type l` and `ls -F` tell links, FIFOs and files apart; what is too long for a link costs nothing."""
    place.put(f"d/{FLAG}", b"1")
    for number in range(20):
        place.put(f"d/long{number:02}", b"x" * 4096, Metadata=FILE)
        place.put(f"d/short{number:02}", b"x", Metadata=FILE)
    place.put("d/link", b"short00", Metadata=LINK)
    place.put("d/pipe", Metadata=special(stat.S_IFIFO, 0o644))
    place.put("d/sub/x")
    grow_old()
    directory = mounts.start(endpoint_url=proxy.endpoint_url).root / "d"
    directory.stat()
    paid(proxy)
    assert find(directory, "-type", "l") == ["link"]
    asked = [request.key.rpartition("/")[2] for request in proxy.requests() if request.kind == "head"]
    paid(proxy)
    assert not [name for name in asked if name.startswith("long")]
    assert sorted(name for name in asked if name.startswith(("short", "link", "pipe"))) == sorted(
        ["link", "pipe", *(f"short{number:02}" for number in range(20))]
    )
    assert find(directory, "-type", "p") == ["pipe"]
    assert len(find(directory, "-type", "f")) == 41
    told = succeed("ls", "--color=never", "-F", directory).splitlines()
    assert told == [
        "link@", *(f"long{number:02}" for number in range(20)), "pipe|", *(f"short{number:02}" for number in range(20)),
        "sub/",
    ]  # fmt: skip


def test_a_link_made_on_one_mount_is_found_by_type_on_another_after_the_ttl(
    mounts: Mounts, proxy: FaultProxy, place: Place
) -> None:
    """The flag, which is there already for a mode, gets its body before the link is stored, and keeps what it says of
    the directory."""
    place.put(FLAG)
    place.put(f"d/{FLAG}", Metadata=special(stat.S_IFDIR, 0o750))
    for number in range(30):
        place.put(f"d/f{number:02}", b"x", Metadata=FILE)
    grow_old()
    one = mounts.start(endpoint_url=proxy.endpoint_url).root / "d"
    other = mounts.start("--metadata-ttl", "1s").root / "d"
    assert find(other, "-type", "l") == []
    os.listdir(one)
    paid(proxy)
    (one / "link").symlink_to("f00")
    assert paid(proxy) == {"head": 1, "put": 2}
    (one / "second").symlink_to("f01")
    assert paid(proxy)["put"] == 1
    time.sleep(1.1)
    assert find(other, "-type", "l") == ["link", "second"]
    assert len(find(other, "-type", "f")) == 30
    assert place.head(f"d/{FLAG}")["ContentLength"] == 1
    assert oct(other.stat().st_mode) == "0o40750"
    assert succeed("ls", "--color=never", "-F", other).split()[-2:] == ["link@", "second@"]
