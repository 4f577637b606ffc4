"""Each kind of operation that may wait, acknowledged in a life of its own, and what the bucket has in the end."""

from s3mount.store.base import ABSENT, Headers
from s3mount.writeback.metas import Named, Own
from s3mount.writeback.operations import Piece
from tests.memory_store import MemoryStore
from tests.unit.writing_back import Life, virtual_ns

PART = 4096
OLD, NEW = b"the old bytes", b"what was written"
LARGE = b"".join(bytes([number]) * PART for number in range(5))
SHOWN = Headers(metadata={"mode": "33188"})
Expected = dict[str, tuple[bytes, dict[str, str]]]


def life(**options: object) -> Life:
    made = Life(MemoryStore(clock_ns=virtual_ns, part_min_bytes=1, **options))  # type: ignore[arg-type]
    for word, value in (("part_size_bytes", PART), ("equal_parts", "no"), ("part_copy", "yes"), ("parts_max", 10_000)):
        object.__setattr__(made.config, word, value)
    return made


def creation(one: Life) -> Expected:
    one.put("k", NEW, ABSENT, mode="33188")
    return {"k": (NEW, {"mode": "33188"})}


def overwriting(one: Life) -> Expected:
    one.store.place("k", OLD)
    one.put("k", NEW, one.stands("k"))
    return {"k": (NEW, {})}


def replacing(one: Life) -> Expected:
    one.store.place("k", OLD)
    one.put("k", NEW)
    return {"k": (NEW, {})}


def emptying(one: Life) -> Expected:
    one.store.place("k", OLD)
    one.put("k", b"", one.stands("k"))
    return {"k": (b"", {})}


def restating_by_put(one: Life) -> Expected:
    """The same bytes with other metadata: an etag tells nothing."""
    one.store.place("k", OLD)
    one.put("k", OLD, one.stands("k"), mode="33188")
    return {"k": (OLD, {"mode": "33188"})}


def creation_by_parts(one: Life) -> Expected:
    one.put("k", LARGE, ABSENT)
    return {"k": (LARGE, {})}


def edit(one: Life) -> Expected:
    """The first bytes of a large object are new, the rest is copied from what is replaced."""
    one.store.place("k", LARGE)
    etag, size = one.seen("k")
    pieces = Own(0, len(NEW), 0), Named(len(NEW), size, "k", etag, size, len(NEW))
    one.put("k", NEW, one.stands("k"), pieces)
    return {"k": (NEW + LARGE[len(NEW) :], {})}


def small_edit(one: Life) -> Expected:
    """As `edit`, of an object so small that the bytes that stay are fetched."""
    one.store.place("k", OLD)
    etag, size = one.seen("k")
    pieces = Named(0, size, "k", etag, size, 0), Piece(size, size + 100, None, None, 0)
    one.put("k", b"", one.stands("k"), pieces)
    return {"k": (OLD + bytes(100), {})}


def deletion(one: Life) -> Expected:
    one.store.place("k", OLD)
    one.delete("k", one.stands("k"))
    return {}


def deletion_of_anything(one: Life) -> Expected:
    one.store.place("k", OLD)
    one.delete("k")
    return {}


def deletions(one: Life) -> Expected:
    for name in ("k", "l", "m/"):
        one.store.place(name, OLD)
        one.delete(name, one.stands(name))
    return {}


def renaming(one: Life) -> Expected:
    one.store.place("k", OLD, SHOWN)
    one.rename("k", "l", ABSENT)
    return {"l": (OLD, {"mode": "33188"})}


def renaming_over_its_twin(one: Life) -> Expected:
    """The target has the same bytes already, and so the same etag."""
    one.store.place("k", OLD, SHOWN)
    one.store.place("l", OLD)
    one.rename("k", "l", one.stands("l"))
    return {"l": (OLD, {"mode": "33188"})}


def renaming_over_anything(one: Life) -> Expected:
    one.store.place("k", OLD, SHOWN)
    one.store.place("l", b"another")
    one.rename("k", "l")
    return {"l": (OLD, {"mode": "33188"})}


def copying(one: Life) -> Expected:
    one.store.place("k", OLD, SHOWN)
    one.copy("k", "l", None, ABSENT)
    return {"k": (OLD, {"mode": "33188"}), "l": (OLD, {"mode": "33188"})}


def restating(one: Life) -> Expected:
    one.store.place("k", OLD)
    one.copy("k", "k", SHOWN, one.stands("k"))
    return {"k": (OLD, {"mode": "33188"})}


def two_of_one_key(one: Life) -> Expected:
    one.put("k", OLD, ABSENT)
    one.begun()
    one.put("k", NEW, one.stands("k"))
    return {"k": (NEW, {})}


def twice_whatever_is_there(one: Life) -> Expected:
    one.put("k", OLD)
    one.begun()
    one.put("k", NEW)
    return {"k": (NEW, {})}


def stored_and_deleted(one: Life) -> Expected:
    one.put("k", OLD, ABSENT)
    one.begun()
    one.delete("k", one.stands("k"))
    return {}


def stored_and_renamed(one: Life) -> Expected:
    one.put("k", OLD, ABSENT, mode="33188")
    one.begun()
    one.rename("k", "l", ABSENT)
    return {"l": (OLD, {"mode": "33188"})}


def appended_to(one: Life) -> Expected:
    """What is not in the bucket yet is the base of the next version."""
    one.put("k", OLD, ABSENT)
    one.begun()
    etag, size = one.seen("k")
    one.put("k", NEW, one.stands("k"), (Named(0, size, "k", etag, size, 0), Own(size, size + len(NEW), 0)))
    return {"k": (OLD + NEW, {})}


def renamed_and_made_anew(one: Life) -> Expected:
    one.store.place("k", OLD)
    one.rename("k", "l", ABSENT)
    one.begun()
    one.put("k", NEW, ABSENT)
    one.rename("l", "m", ABSENT)
    return {"k": (NEW, {}), "m": (OLD, {})}


def swapped(one: Life) -> Expected:
    one.store.place("k", OLD)
    one.store.place("l", NEW)
    one.rename("k", "t", ABSENT)
    one.rename("l", "k", ABSENT)
    one.rename("t", "l", ABSENT)
    return {"k": (NEW, {}), "l": (OLD, {})}


def a_directory_made_and_filled(one: Life) -> Expected:
    one.put("d/", b"", ABSENT)
    one.put("d/.s3mount-attrs", b"", ABSENT)
    one.put("d/f", NEW, ABSENT)
    return {"d/": (b"", {}), "d/.s3mount-attrs": (b"", {}), "d/f": (NEW, {})}


def a_directory_removed(one: Life) -> Expected:
    for name in ("d/", "d/.s3mount-attrs", "d/f"):
        one.store.place(name)
    one.delete("d/f", one.stands("d/f"))
    one.delete("d/.s3mount-attrs")
    one.delete("d/")
    return {}


KINDS = [
    creation, overwriting, replacing, emptying, restating_by_put, creation_by_parts, edit, small_edit, deletion,
    deletion_of_anything, deletions, renaming, renaming_over_its_twin, renaming_over_anything,
    copying, restating, two_of_one_key, twice_whatever_is_there, stored_and_deleted, stored_and_renamed, appended_to,
    renamed_and_made_anew, swapped, a_directory_made_and_filled, a_directory_removed,
]  # fmt: skip
