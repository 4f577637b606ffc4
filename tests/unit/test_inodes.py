"""The inode table: one inode per version of a path, numbers, lookup counts, orphans."""

import random
import sys

import pytest

from s3mount.errors import NotADirectory, Stale
from s3mount.store.base import Listed
from s3mount.vfs.inodes import Inode, Inodes
from s3mount.vfs.listings import Listings

SECOND_NS = 1_000_000_000


def table() -> Inodes:
    return Inodes("p/", Listings(names_max=100, ttl_seconds=5, negative_ttl_seconds=1, walk_ttl_seconds=60))


def listed(key: str, etag: str = '"e"', modified_ns: int = 5 * SECOND_NS) -> Listed:
    return Listed(key, 1, etag, modified_ns)


def test_the_same_version_of_a_path_keeps_its_inode_and_another_gets_a_new_one() -> None:
    inodes = table()
    first = inodes.bind_file(inodes.root, "f", listed("p/f"), 0.0)
    first.lookups = 1
    assert inodes.bind_file(inodes.root, "f", listed("p/f", modified_ns=5 * SECOND_NS + 7), 0.0) is first
    for other in (listed("p/f", '"other"'), listed("p/f", modified_ns=6 * SECOND_NS)):
        second = inodes.bind_file(inodes.root, "f", other, 0.0)
        assert second.ino != first.ino
        assert not first.linked
        assert inodes.get(first.ino) is first
        first = second
        first.lookups = 1


def test_a_number_the_kernel_holds_is_not_given_again_even_for_the_same_version() -> None:
    inodes = table()
    first = inodes.bind_file(inodes.root, "f", listed("p/f"), 0.0)
    first.lookups = 1
    inodes.detach(first)
    second = inodes.bind_file(inodes.root, "f", listed("p/f"), 0.0)
    assert second.ino != first.ino
    second.lookups = 1
    inodes.forget(second.ino, 1)
    inodes.forget(first.ino, 1)
    assert inodes.bind_file(inodes.root, "f", listed("p/f"), 0.0).ino == first.ino


def test_numbers_are_the_same_in_the_next_mount() -> None:
    assert (
        table().bind_file(table().root, "f", listed("p/f"), 0.0).ino
        == table().bind_file(table().root, "f", listed("p/f"), 0.0).ino
    )


def test_a_directory_keeps_its_inode_while_the_kernel_holds_something_below() -> None:
    inodes = table()
    directory = inodes.bind_directory(inodes.root, "d", 0.0)
    file = inodes.bind_file(directory, "f", listed("p/d/f"), 0.0)
    directory.lookups = file.lookups = 1
    inodes.forget(directory.ino, 1)
    assert inodes.bind_directory(inodes.root, "d", 0.0) is directory
    inodes.forget(file.ino, 1)
    assert len(inodes) == 1
    with pytest.raises(Stale):
        inodes.get(directory.ino)


def test_an_inode_with_a_handle_outlives_its_lookups() -> None:
    inodes = table()
    file = inodes.bind_created(inodes.root, "f")
    file.lookups = 1
    file.own.handles = 1
    inodes.forget(file.ino, 1)
    assert inodes.get(file.ino) is file
    file.own.handles = 0
    inodes.release(file)
    assert len(inodes) == 1


def test_a_held_path_keeps_its_inode_whatever_the_bucket_says() -> None:
    inodes = table()
    file = inodes.bind_file(inodes.root, "f", listed("p/f"), 0.0)
    file.own.writers = 1
    assert inodes.bind_file(inodes.root, "f", listed("p/f", '"foreign"'), 0.0) is file


def test_an_own_version_learns_its_last_modified_without_a_new_inode() -> None:
    inodes = table()
    file = inodes.bind_created(inodes.root, "f")
    file.lookups = 1
    file.known = listed("p/f", '"own"', 5 * SECOND_NS)
    file.own.unsure = True
    assert inodes.bind_file(inodes.root, "f", listed("p/f", '"own"', 6 * SECOND_NS), 0.0) is file
    assert inodes.bind_file(inodes.root, "f", listed("p/f", '"own"', 9 * SECOND_NS), 0.0) is not file


def test_a_moved_inode_keeps_its_number_and_replaces_what_had_its_name() -> None:
    inodes = table()
    directory = inodes.bind_directory(inodes.root, "d", 0.0)
    directory.lookups = 1
    file, target = (inodes.bind_file(inodes.root, name, listed(f"p/{name}"), 0.0) for name in "ab")
    file.lookups = target.lookups = 1
    inodes.move(file, inodes.root, "b")
    assert (file.path, file.linked, target.linked) == ("b", True, False)
    inodes.move(file, directory, "c")
    assert file.path == "d/c"
    assert inodes.root.dentries.keys() == {"d"}


def test_forget_of_unknown_numbers_and_too_many_lookups_does_nothing() -> None:
    inodes = table()
    file = inodes.bind_file(inodes.root, "f", listed("p/f"), 0.0)
    file.lookups = 1
    inodes.forget(99, 5)
    inodes.forget(1, 5)
    inodes.forget(file.ino, 5)
    assert len(inodes) == 1


def test_a_table_that_was_large_gives_its_room_back_and_keeps_what_is_left() -> None:
    inodes = table()
    files = [inodes.bind_file(inodes.root, f"f{number}", listed(f"p/f{number}"), 0.0) for number in range(50_000)]
    large = sys.getsizeof(inodes._table)
    for file in files[10:]:
        file.lookups = 1
        inodes.forget(file.ino, 1)
        inodes.compact()
    assert sys.getsizeof(inodes._table) < large / 4
    assert [inodes.get(file.ino) for file in files[:10]] == files[:10]
    assert len(inodes) == 11


def test_a_file_has_no_contents() -> None:
    inodes = table()
    file = inodes.bind_file(inodes.root, "f", listed("p/f"), 0.0)
    with pytest.raises(NotADirectory):
        _ = file.contents
    with pytest.raises(NotADirectory):
        _ = file.dentries


def test_random_binds_moves_and_forgets_keep_the_invariants_and_end_empty() -> None:
    rng = random.Random(3)
    inodes = table()
    held: list[Inode] = []
    for _ in range(5000):
        parents = [inode for inode in inodes if inode.children is not None and inode.linked]
        parent = rng.choice(parents)
        name = rng.choice("abcd")
        action = rng.random()
        if action < 0.35:
            inode = inodes.bind_file(parent, name, listed("p/" + name, rng.choice(['"1"', '"2"'])), 0.0)
            inode.lookups += 1
            held.append(inode)
        elif action < 0.45 and parent.path.count("/") < 3:
            inode = inodes.bind_directory(parent, name, 0.0)
            inode.lookups += 1
            held.append(inode)
        elif held:
            inode = held.pop(rng.randrange(len(held)))
            if action < 0.6 and inode.linked and inode.children is None and parent.lookups:
                inodes.move(inode, parent, name)
            elif action < 0.7:
                inodes.detach(inode)
            inodes.forget(inode.ino, 1)
        for inode in inodes:
            assert inodes.get(inode.ino) is inode
            for child_name, child in (inode.children or {}).items():
                assert child.parent is inode
                assert child.name == child_name
        for inode in held:
            assert inodes.get(inode.ino) is inode
    for inode in held:
        inodes.forget(inode.ino, 1)
    assert len(inodes) == 1
