"""Records of the journal as JSON can hold them: mutations, and facts about mutations that came before. Pure.

A mutation names versions as the mount tells them: an etag in it may be provisional. `Pending` finds out what stands
behind the name, with what it knows by then. An operation is named by the seq of the last record that is joined in it;
a record that made two operations names the second, a deletion, by its negative seq.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from s3mount import errors
from s3mount.errors import S3MountError, StoreError
from s3mount.store.base import ABSENT, ALWAYS, Condition, Headers, Stored
from s3mount.writeback.operations import Home, Kind, Operation, Piece, Place

Meta = dict[str, Any]

_ABSENT = "absent"
_BODY = "body"
_PLAIN = ("content_type", "cache_control", "content_disposition", "content_encoding", "content_language")


class Own(NamedTuple):
    """A piece whose bytes are those of the body of the record that names it, from `offset` on."""

    start: int
    stop: int
    offset: int


class Named(NamedTuple):
    """A piece of a version as the mount told it."""

    start: int
    stop: int
    key: str
    etag: str
    size: int
    offset: int


Part = Piece | Own | Named


@dataclass(frozen=True, slots=True)
class Mutation:
    """A record that asks for a change. `named` is the version that a rename or copy is of."""

    kind: Kind
    key: str
    at_ns: int
    condition: Condition = ALWAYS
    etag: str = ""
    size: int = 0
    headers: Headers | None = None
    pieces: tuple[Part, ...] = ()
    named: Named | None = None
    source: str | None = None


def put_meta(
    key: str,
    *,
    headers: Headers,
    condition: Condition,
    size: int,
    etag: str,
    at_ns: int,
    pieces: Iterable[Part],
) -> Meta:
    """`pieces` cover `[0, size)` in order; those of the record's own body are `Own`."""
    return {
        "put": key,
        "headers": _headers_out(headers),
        "if": _condition_out(condition),
        "size": size,
        "etag": etag,
        "at": at_ns,
        "pieces": [_piece_out(piece) for piece in pieces],
    }


def delete_meta(key: str, *, condition: Condition, at_ns: int) -> Meta:
    return {"delete": key, "if": _condition_out(condition), "at": at_ns}


def rename_meta(
    source: str, target: str, *, source_etag: str, size: int, condition: Condition, etag: str, at_ns: int
) -> Meta:
    """`source_etag` as the mount tells it, `size` the version's; the target is told with `etag` and `at_ns`."""
    return {
        "rename": [source, target],
        "home": [source, source_etag, size],
        "if": _condition_out(condition),
        "etag": etag,
        "at": at_ns,
        "size": size,
    }


def copy_meta(
    source: str,
    target: str,
    *,
    source_etag: str,
    size: int,
    headers: Headers | None,
    condition: Condition,
    etag: str,
    at_ns: int,
) -> Meta:
    """As a rename; `headers` None keeps the version's."""
    return {
        "copy": [source, target],
        "home": [source, source_etag, size],
        "headers": None if headers is None else _headers_out(headers),
        "if": _condition_out(condition),
        "etag": etag,
        "at": at_ns,
        "size": size,
    }


def bytes_meta(upload: str) -> Meta:
    """Its body belongs to a multipart upload of a program's: garbage, unless a later put names it."""
    return {"bytes": upload}


def begun_meta(operation: Operation) -> Meta:
    """Requests of it may be sent from now on; those of its multipart upload, if it has one by now."""
    if operation.upload_id is None:
        return {"begun": operation.seq}
    return {"begun": operation.seq, "upload": operation.upload_id, "part_bytes": operation.part_bytes}


def done_meta(operation: Operation, stored: Stored | None, *, over: Iterable[int] = ()) -> Meta:
    """`over` are the records that nothing needs any more with that: `Pending.ending`."""
    meta: Meta = {"done": operation.seq}
    if len(operation.seqs) > 1:
        meta |= {"of": operation.seqs, "over": list(over)}
    if operation.etag:
        meta |= {"key": operation.key, "was": operation.etag}
    home = operation.content[0].home if operation.kind == "rename" else None
    if home is not None:
        meta["from"] = [home.key, home.etag]
        stored = stored or Stored(home.etag, operation.at_ns)
    if stored is not None:
        meta |= {"etag": stored.etag, "modified": stored.last_modified_ns, "version": stored.version_id}
    return meta


def parted_meta(operation: Operation) -> Meta:
    """The key has become another client's."""
    return {"parted": operation.seq}


def parked_meta(operation: Operation, error: S3MountError) -> Meta:
    return {"parked": operation.seq, "class": type(error).__name__, "reason": str(error)}


def unparked_meta(operation: Operation) -> Meta:
    return {"unparked": operation.seq}


def dropped_meta(operation: Operation) -> Meta:
    return {"dropped": operation.seq}


FACTS = ("begun", "done", "parted", "parked", "unparked", "dropped", "void")


def fact(meta: Mapping[str, Any]) -> tuple[str, int] | None:
    """Which fact a record states, and of which operation; None when it is a mutation or bytes."""
    for name in FACTS:
        if name in meta:
            return name, int(meta[name])
    return None


def stored(meta: Mapping[str, Any]) -> Stored | None:
    """What a `done` says is in the bucket."""
    if "etag" not in meta:
        return None
    return Stored(meta["etag"], meta["modified"], meta.get("version"))


def error(meta: Mapping[str, Any]) -> S3MountError:
    """Why a `parked` operation was parked."""
    kind = getattr(errors, str(meta.get("class", "")), None)
    if not (isinstance(kind, type) and issubclass(kind, StoreError)):
        kind = StoreError
    return kind(str(meta["reason"]))


def mutation(meta: Mapping[str, Any]) -> Mutation:
    """Raises KeyError, TypeError or ValueError for what no version of this module has written."""
    condition = _condition_in(meta.get("if"))
    if "put" in meta:
        return Mutation(
            "put",
            meta["put"],
            meta["at"],
            condition,
            meta["etag"],
            meta["size"],
            _headers_in(meta["headers"]),
            tuple(_piece_in(piece) for piece in meta["pieces"]),
        )
    if "delete" in meta:
        return Mutation("delete", meta["delete"], meta["at"], condition)
    kind: Kind = "rename" if "rename" in meta else "copy"
    source, target = meta[kind]
    key, etag, size = meta["home"]
    headers = meta.get("headers")
    return Mutation(
        kind,
        target,
        meta["at"],
        condition,
        meta["etag"],
        size,
        None if headers is None else _headers_in(headers),
        named=Named(0, size, key, etag, size, 0),
        source=source,
    )


def _condition_out(condition: Condition) -> str | None:
    return _ABSENT if condition.absent else condition.etag


def _condition_in(told: str | None) -> Condition:
    if told is None:
        return ALWAYS
    return ABSENT if told == _ABSENT else Condition(etag=told)


def _headers_out(headers: Headers) -> Meta:
    meta: Meta = {name: value for name in _PLAIN if (value := getattr(headers, name)) is not None}
    if headers.metadata:
        meta["metadata"] = dict(headers.metadata)
    if headers.tags:
        meta["tags"] = headers.tags
    return meta


def _headers_in(meta: Mapping[str, Any]) -> Headers:
    return Headers(**meta)


def _piece_out(piece: Part) -> list[Any]:
    if isinstance(piece, Own):
        return [piece.start, piece.stop, _BODY, piece.offset]
    if isinstance(piece, Named):
        return list(piece)
    if piece.place is not None:
        return [piece.start, piece.stop, *piece.place, piece.offset]
    if piece.home is not None:
        home = piece.home
        return [piece.start, piece.stop, home.key, home.etag, home.size, piece.offset]
    return [piece.start, piece.stop]


def _piece_in(meta: list[Any]) -> Part:
    start, stop, *rest = meta
    if not rest:
        return Piece(start, stop, None, None, 0)
    if len(rest) == 2 and rest[0] == _BODY:
        return Own(start, stop, rest[1])
    if len(rest) == 4:
        return Named(start, stop, *rest)
    segment, offset, size, crc, place_offset = rest
    return Piece(start, stop, Place(segment, offset, size, crc), None, place_offset)


def whole(home: Home) -> tuple[Piece, ...]:
    """The content of a rename or copy: one version, named even when it is empty."""
    return (Piece(0, home.size, None, home, 0),)
