"""The parts of an upload that is open: every page of ListParts, read by expat.

The name of the root differs between stores; that it is a list of this upload's parts is told by the upload's id.
SeaweedFS lists a part that was stored twice as two (measured): where these differ nobody knows which one counts, and
neither is told.
"""

from collections import Counter
from xml.parsers import expat

from s3mount.config import MIB
from s3mount.errors import BadReply
from s3mount.store.base import Part, Upload
from s3mount.store.replies import quoted_etag
from s3mount.store.requests import Requests
from s3mount.store.signature import quote_query
from s3mount.store.wire import Sink, SmallBody

PAGE_MAX_BYTES = 4 * MIB
PARTS_A_PAGE = 1000


async def list_parts(requests: Requests, upload: Upload) -> tuple[Part, ...]:
    found: list[Part] = []
    marker = 0
    while True:
        query = [("max-parts", str(PARTS_A_PAGE)), ("uploadId", upload.id)]
        if marker:
            query.append(("part-number-marker", str(marker)))
        order = requests.metadata("list_parts", "GET", upload.key, quote_query(query))
        body = SmallBody(PAGE_MAX_BYTES)

        def prepare(_order: object, body: SmallBody = body) -> Sink:
            body.content.clear()
            return body

        order.prepare = prepare
        await requests.send(order)
        parts, following = parts_of(bytes(body.content), upload)
        found += parts
        if following is None:
            return _certain(found)
        if following <= marker:
            raise BadReply(f"GET {upload.key!r}: the list of parts does not advance")
        marker = following


def _certain(listed: list[Part]) -> tuple[Part, ...]:
    """One of each number, in order."""
    found = set(listed)
    times = Counter(part.number for part in found)
    return tuple(sorted((part for part in found if times[part.number] == 1), key=lambda part: part.number))


def parts_of(document: bytes, upload: Upload) -> tuple[list[Part], int | None]:
    """The parts of one page, and where the next one begins. Raises BadReply."""
    found: list[Part] = []
    fields: dict[str, str] = {}
    text: list[str] = []

    def start(_name: str, _attributes: object) -> None:
        text.clear()

    def end(name: str) -> None:
        if name == "Part":
            # Taken out: the next one's fields must not be this one's.
            number, etag, size = (fields.pop(field) for field in ("PartNumber", "ETag", "Size"))
            found.append(Part(int(number), quoted_etag(etag), int(size)))
        else:
            fields[name] = "".join(text).strip()
        text.clear()

    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, text.append
    try:
        parser.Parse(document, True)
        following = int(fields["NextPartNumberMarker"]) if fields.get("IsTruncated") == "true" else None
    except (expat.ExpatError, KeyError, ValueError) as error:
        raise BadReply(f"the parts of {upload.key!r} cannot be read: {error!r}") from error
    if fields.get("UploadId") != upload.id:
        raise BadReply(f"GET {upload.key!r}: a list of this upload's parts was asked for, something else came")
    return found, following
