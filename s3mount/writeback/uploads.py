"""Multipart uploads that never leave this host: parts go to the journal, and completing one makes an operation.

Each part is a record of its own that nobody waits for; the record of the completion, which names them, is what is
waited for, and it makes them durable with itself. The mutable state: the open uploads and what their parts consist of.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from s3mount.errors import NoSuchUpload, StoreError
from s3mount.store.base import Headers, Part, Upload
from s3mount.writeback import metas
from s3mount.writeback.operations import Piece, Place

LOCAL = "s3mount-"
"""How the ids of these uploads begin."""


@dataclass(slots=True)
class OpenUpload:
    """What is known of one: of each part what was answered, and the piece that it is."""

    headers: Headers
    parts: dict[int, tuple[Part, metas.Part]] = field(default_factory=dict)


class Uploads:
    """See the module. `token` is in the ids: those of an earlier daemon are other ones."""

    def __init__(self, token: str) -> None:
        self._open: dict[str, OpenUpload] = {}
        self._token = token
        self._serial = 0

    def __len__(self) -> int:
        return len(self._open)

    def begin(self, key: str, headers: Headers) -> Upload:
        self._serial += 1
        upload = Upload(key, f"{LOCAL}{self._token}-{self._serial}")
        self._open[upload.id] = OpenUpload(headers)
        return upload

    def has(self, upload: Upload) -> bool:
        return upload.id in self._open

    def get(self, upload: Upload) -> OpenUpload:
        """Raises NoSuchUpload."""
        found = self._open.get(upload.id)
        if found is None:
            raise NoSuchUpload(f"the upload {upload.id!r} of {upload.key!r} is over", code="NoSuchUpload", status=404)
        return found

    def put_part(self, upload: Upload, number: int, etag: str, piece: metas.Part) -> Part:
        """Take a part, in place of an earlier one. `piece` begins at 0. Raises NoSuchUpload."""
        part = Part(number, etag, piece.stop)
        self.get(upload).parts[number] = part, piece
        return part

    def place(self, upload: Upload, number: int) -> Place | None:
        """Where the bytes of a part are, if it is there and has some of its own. Raises NoSuchUpload."""
        _, piece = self.get(upload).parts.get(number, (None, None))
        return piece.place if isinstance(piece, Piece) else None

    def parts(self, upload: Upload) -> tuple[Part, ...]:
        return tuple(part for _, (part, _) in sorted(self.get(upload).parts.items()))

    def pieces(self, upload: Upload, parts: Sequence[Part]) -> list[metas.Part]:
        """What the object of these parts consists of. Raises NoSuchUpload, StoreError for a part that is not stored."""
        found = self.get(upload)
        numbers = [part.number for part in parts]
        if sorted(set(numbers)) != numbers:
            raise StoreError(f"parts of {upload.key!r} are not in order", code="InvalidPartOrder", status=400)
        pieces: list[metas.Part] = []
        position = 0
        for part in parts:
            kept = found.parts.get(part.number)
            if kept is None or kept[0] != part:
                raise StoreError(f"part {part.number} of {upload.key!r} is not stored", code="InvalidPart", status=400)
            piece = kept[1]
            if piece.stop:
                pieces.append(piece._replace(start=position, stop=position + piece.stop))
            position += part.size
        return pieces

    def end(self, upload: Upload) -> bool:
        """The upload is over; whether it was open."""
        return self._open.pop(upload.id, None) is not None


def is_local(upload: Upload) -> bool:
    """Whether the upload is one of these, and not the bucket's."""
    return upload.id.startswith(LOCAL)
