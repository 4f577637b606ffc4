"""What waits for the bucket: how records are joined, what programs see of them, in which order they may be sent."""

import json
from typing import Any

from s3mount.errors import AccessDenied
from s3mount.store.base import ABSENT, ALWAYS, Condition, Headers, Stored
from s3mount.writeback import metas
from s3mount.writeback.metas import Named, Own
from s3mount.writeback.operations import Operation, Piece, Place
from s3mount.writeback.pending import GONE, Pending, Seen

PLAIN = Headers(content_type="text/plain")


class Table:
    """A Pending with a clock, a journal that counts, and etags for everybody."""

    def __init__(self) -> None:
        self.now = 0.0
        self.seq = 0
        self.freed: list[Place] = []
        self.over: list[int] = []
        self.pending = Pending(
            clock=lambda: self.now, delay_seconds=1.0, on_free=self.freed.extend, on_over=self.over.append
        )

    def apply(self, meta: metas.Meta, size: int = 0) -> Operation | None:
        self.seq += 1
        place = Place(1, self.seq * 1000, size, 0) if size else None
        return self.pending.apply(self.seq, json.loads(json.dumps(meta)), place)

    def put(self, key: str, size: int = 1, condition: Condition = ALWAYS, **more: Any) -> Operation:
        pieces = more.get("pieces", [Own(0, size, 0)])
        etag = f'"s3mount-{self.seq + 1}"'
        meta = metas.put_meta(
            key, headers=PLAIN, condition=condition, size=size, etag=etag, at_ns=self.seq, pieces=pieces
        )
        operation = self.apply(meta, size)
        assert operation is not None
        return operation

    def delete(self, key: str, condition: Condition = ALWAYS) -> Operation | None:
        return self.apply(metas.delete_meta(key, condition=condition, at_ns=self.seq))

    def rename(self, source: str, target: str, etag: str = "", condition: Condition = ALWAYS) -> Operation:
        seen = self.pending.find(source)
        if isinstance(seen, Seen):
            etag = seen.etag
        operation = self.apply(
            metas.rename_meta(
                source,
                target,
                source_etag=etag,
                size=1,
                condition=condition,
                etag=f'"s3mount-{self.seq + 1}"',
                at_ns=self.seq,
            )
        )
        assert operation is not None
        return operation

    def copy(self, source: str, target: str, etag: str = "", headers: Headers | None = None) -> Operation:
        seen = self.pending.find(source)
        if isinstance(seen, Seen):
            etag = seen.etag
        operation = self.apply(
            metas.copy_meta(
                source,
                target,
                source_etag=etag,
                size=1,
                headers=headers,
                condition=ALWAYS,
                etag=f'"s3mount-{self.seq + 1}"',
                at_ns=self.seq,
            )
        )
        assert operation is not None
        return operation

    def ready(self) -> list[str]:
        self.now += 10
        return [f"{operation.kind} {operation.key}" for operation in self.pending.ready(self.now)]

    def land(self, operation: Operation, etag: str = '"e"') -> None:
        self.pending.begin(operation)
        self.pending.landed(operation, None if operation.kind == "delete" else Stored(etag, 5))


def test_a_file_rewritten_while_it_waits_is_sent_once_on_the_first_condition() -> None:
    table = Table()
    first = table.put("a", condition=ABSENT)
    second = table.put("a", 3)
    assert list(table.pending.operations) == [second]
    assert (second.condition, second.due_at, second.seqs) == (ABSENT, first.due_at, [1, 2])
    assert table.freed == [Place(1, 1000, 1, 0)]
    table.land(second)
    assert table.over == [1, 2]
    assert table.pending.idle


def test_a_file_created_and_removed_while_it_waits_leaves_nothing() -> None:
    table = Table()
    table.put("a", condition=ABSENT)
    assert table.delete("a", Condition(etag='"s3mount-1"')) is None
    assert table.pending.idle
    assert table.over == [1, 2]
    assert table.pending.find("a") is None


def test_a_file_overwritten_and_removed_while_it_waits_is_a_deletion_of_the_old_one() -> None:
    table = Table()
    table.put("a", condition=Condition(etag='"old"'))
    deletion = table.delete("a")
    assert deletion is not None
    assert (deletion.kind, deletion.condition) == ("delete", Condition(etag='"old"'))
    assert table.pending.find("a") is GONE


def test_a_new_file_renamed_while_it_waits_is_a_put_at_its_new_name() -> None:
    table = Table()
    table.put("a.tmp", 3, ABSENT)
    renamed = table.rename("a.tmp", "a")
    assert list(table.pending.operations) == [renamed]
    assert (renamed.kind, renamed.key, renamed.content) == (
        "put",
        "a",
        (Piece(0, 3, Place(1, 1000, 3, 0), None, 0),),
    )
    assert table.freed == []
    table.land(renamed)
    assert table.pending.idle


def test_an_overwritten_file_renamed_while_it_waits_leaves_its_old_name_once_it_is_stored() -> None:
    table = Table()
    table.put("a", condition=Condition(etag='"old"'))
    renamed = table.rename("a", "b")
    assert table.ready() == ["put b"]
    table.land(renamed)
    assert table.ready() == ["delete a"]
    (deletion,) = table.pending.operations
    assert (deletion.seq, deletion.condition) == (-2, Condition(etag='"old"'))
    table.land(deletion)
    assert table.pending.idle
    assert sorted(table.over) == [1, 2]


def test_a_rename_of_a_rename_that_waits_is_one_rename() -> None:
    table = Table()
    table.rename("a", "b", '"e"', ABSENT)
    renamed = table.rename("b", "c", condition=ABSENT)
    assert list(table.pending.operations) == [renamed]
    assert (renamed.source, renamed.key) == ("a", "c")
    assert table.pending.find("a") is GONE
    assert table.pending.find("b") is None


def test_the_deletion_of_a_renamed_file_is_a_deletion_of_its_source() -> None:
    table = Table()
    table.rename("a", "b", '"e"', ABSENT)
    deletion = table.delete("b")
    assert list(table.pending.operations) == [deletion]
    assert deletion is not None
    assert (deletion.key, deletion.condition) == ("a", Condition(etag='"e"'))


def test_a_restated_file_that_waits_is_a_put_with_the_new_headers() -> None:
    table = Table()
    table.put("a", condition=ABSENT)
    other = Headers(metadata={"mode": "33188"})
    restated = table.copy("a", "a", headers=other)
    assert list(table.pending.operations) == [restated]
    assert (restated.kind, restated.headers, restated.condition) == ("put", other, ABSENT)


def test_a_rename_of_a_file_that_is_being_restated_is_of_the_version_that_lands() -> None:
    table = Table()
    first = table.put("a", condition=ABSENT)
    table.land(first, '"real"')
    restated = table.copy("a", "a", first.etag, headers=Headers(metadata={"mode": "33188"}))
    table.pending.begin(restated)
    table.copy("a", "a", headers=PLAIN)
    renamed = table.rename("a", "b")
    table.pending.landed(restated, Stored('"restated"', 5))
    for operation in list(table.pending.operations):
        for piece in operation.content:
            assert piece.home is None or piece.home.etag == '"restated"', operation
    assert renamed.key == "b"


def test_a_put_that_names_the_bytes_of_one_that_waits_shares_them() -> None:
    table = Table()
    first = table.put("a", condition=ABSENT)
    seen = table.pending.find("a")
    assert isinstance(seen, Seen)
    copy = table.put("b", 0, ABSENT, pieces=seen.content)
    assert (copy.content, copy.blockers) == (first.content, set())
    table.land(first)
    assert (table.freed, table.over) == ([], [])
    table.land(copy)
    assert (table.freed, sorted(table.over)) == ([Place(1, 1000, 1, 0)], [1, 2])
    assert table.pending.idle


def test_a_deletion_that_left_nothing_is_held_as_long_as_the_record_of_what_it_deleted() -> None:
    """Its body is another one's, too, so it stays in the journal: a start would make it again without the deletion."""
    table = Table()
    table.put("a", condition=ABSENT)
    seen = table.pending.find("a")
    assert isinstance(seen, Seen)
    copy = table.put("b", 0, ABSENT, pieces=seen.content)
    assert table.delete("a") is None
    assert table.over == []
    table.land(copy)
    assert sorted(table.over) == [1, 2, 3]
    assert table.pending.idle


def test_a_copy_of_a_file_that_waits_is_made_in_the_bucket_after_it() -> None:
    table = Table()
    first = table.put("a", condition=ABSENT)
    copy = table.copy("a", "b")
    assert (copy.kind, copy.blockers) == ("copy", {first})
    seen = table.pending.find("b")
    assert isinstance(seen, Seen)
    assert (seen.content, seen.headers) == (first.content, PLAIN)
    table.land(first, '"real"')
    home = copy.content[0].home
    assert home is not None
    assert (home.key, home.etag) == ("a", '"real"')


def test_bytes_that_are_pinned_stay_until_they_are_not() -> None:
    table = Table()
    first = table.put("a")
    with table.pending.pinned(first.content):
        table.land(first)
        assert table.freed == []
    assert table.freed == [Place(1, 1000, 1, 0)]
    assert table.over == [1]


def test_parts_of_an_upload_are_given_back_unless_a_put_names_them() -> None:
    table = Table()
    table.apply(metas.bytes_meta("upload"), 3)
    table.apply(metas.bytes_meta("upload"), 4)
    place = Place(1, 1000, 3, 0)
    put = table.put("a", 0, pieces=[Piece(0, 3, place, None, 0)])
    table.pending.close_upload("upload")
    assert (table.freed, table.over) == ([Place(1, 2000, 4, 0)], [2])
    table.land(put)
    assert (table.freed[1:], table.over) == ([place], [2, 1, 3])
    assert table.pending.idle


def test_what_is_begun_is_not_joined_but_followed() -> None:
    table = Table()
    first = table.put("a", condition=ABSENT)
    table.pending.begin(first)
    second = table.put("a", 2)
    assert second.after is first
    assert table.ready() == []
    table.pending.landed(first, Stored('"real"', 5))
    assert second.condition == Condition(etag='"real"')
    assert table.ready() == ["put a"]


def test_a_rename_of_what_is_begun_is_of_the_version_that_lands() -> None:
    table = Table()
    first = table.put("a", condition=ABSENT)
    table.pending.begin(first)
    renamed = table.rename("a", "b")
    seen = table.pending.find("b")
    assert isinstance(seen, Seen)
    assert seen.content == first.content
    table.pending.landed(first, Stored('"real"', 5))
    (piece,) = renamed.content
    assert piece.home is not None
    assert (piece.home.key, piece.home.etag) == ("a", '"real"')
    assert table.ready() == ["rename b"]


def test_what_is_made_of_a_version_follows_it_through_a_rename() -> None:
    table = Table()
    moved = table.rename("a", "b", '"e"')
    appended = table.put("c", 2, pieces=[Named(0, 1, "b", moved.etag, 1, 0), Own(1, 2, 0)])
    assert table.ready() == ["rename b"]
    table.land(moved, '"moved"')
    home = appended.content[0].home
    assert home is not None
    assert (home.key, home.etag) == ("b", '"moved"')
    assert table.ready() == ["put c"]


def test_a_marker_and_a_flag_come_before_what_is_below_them_and_go_after_it() -> None:
    table = Table()
    marker = table.put("d/", condition=ABSENT)
    flag = table.put("d/.s3mount-attrs", condition=ABSENT)
    file = table.put("d/f", condition=ABSENT)
    assert table.ready() == ["put d/"]
    table.land(marker)
    assert table.ready() == ["put d/.s3mount-attrs"]
    table.land(flag)
    assert table.ready() == ["put d/f"]
    table.pending.begin(file)
    table.delete("d/f")
    table.delete("d/")
    assert table.ready() == []
    table.pending.landed(file, Stored('"e"', 5))
    assert table.ready() == ["delete d/f"]


def test_what_is_parked_holds_up_its_keys_and_no_others() -> None:
    table = Table()
    marker = table.put("d/", condition=ABSENT)
    table.put("d/f", condition=ABSENT)
    table.pending.begin(marker)
    table.put("d/", 2)
    table.pending.park(marker, AccessDenied("no"))
    assert table.pending.parked == [marker]
    assert "put d/" not in table.ready()
    table.pending.drop(marker)
    (again,) = [operation for operation in table.pending.operations if operation.key == "d/"]
    assert (again.after, again.condition) == (None, ABSENT)


def test_a_version_that_landed_goes_on_being_told_as_before() -> None:
    table = Table()
    first = table.put("a", condition=ABSENT)
    table.pending.begin(first)
    table.pending.landed(first, Stored('"real"', 10_000_000_000))
    assert table.pending.told("a", '"real"', 10_500_000_000) == (first.etag, first.at_ns)
    assert table.pending.told("a", '"real"', 11_500_000_000) == ('"real"', 11_500_000_000)
    assert table.pending.told("a", '"other"', 10_500_000_000) == ('"other"', 10_500_000_000)
    assert table.pending.real_etag("a", first.etag) == '"real"'
    assert table.put("a", condition=Condition(etag=first.etag)).condition == Condition(etag='"real"')


def test_hurry_makes_an_operation_due_with_what_it_waits_for() -> None:
    table = Table()
    table.put("d/", condition=ABSENT)
    file = table.put("d/f", condition=ABSENT)
    table.put("e", condition=ABSENT)
    assert table.pending.ready(0.0) == []
    assert table.pending.hurry("d/f", below=False) == [file]
    assert [operation.key for operation in table.pending.ready(0.0)] == ["d/"]
    assert table.pending.next_due() == 0.0


def test_a_directory_waits_until_the_file_of_its_name_is_gone() -> None:
    table = Table()
    gone = table.delete("d", Condition(etag='"file"'))
    table.put("d/")
    table.put("d/f")
    assert table.ready() == ["delete d"]
    assert gone is not None
    table.land(gone)
    assert table.ready() == ["put d/"]


def test_a_file_waits_until_what_was_in_the_directory_of_its_name_is_gone() -> None:
    table = Table()
    inside, marker = table.delete("d/f", Condition(etag='"file"')), table.delete("d/")
    assert inside is not None
    assert marker is not None
    table.put("d")
    table.land(inside)
    assert table.ready() == ["delete d/"]
    table.land(marker)
    assert table.ready() == ["put d"]


def test_a_file_that_is_rewritten_while_the_store_is_away_takes_no_more_memory_each_time() -> None:
    table = Table()
    for _ in range(5000):
        table.put("log")
    operations = list(table.pending.operations)
    assert len(operations) == 5
    assert max(len(operation.seqs) for operation in operations) == 1000
    assert len(table.pending._table.order._due) < 1100
    for number in range(5):
        assert table.ready() == ["put log"]
        table.land(table.pending.ready(table.now)[0], f'"e{number}"')
    assert table.pending.idle
    assert len(table.over) == 5000
