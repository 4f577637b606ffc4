"""LIST replies of several stores' making, in chunks of any size."""

import time
from xml.sax.saxutils import escape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3mount.errors import BadReply
from s3mount.store.listing import ListParser, UploadsParser, parse_time_ns
from s3mount.store.signature import quote_key

HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n'
SPACE = ' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
KEYS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30)


def page_of(keys: list[str], groups: list[str] = [], *, encoded: bool = True, token: str = "") -> bytes:  # noqa: B006
    def written(key: str) -> str:
        return escape(quote_key(key).replace("%20", "+") if encoded else key)

    # Every second entry is of the plain form, which does not go through expat.
    owner = "<Owner><ID>x</ID><DisplayName>Key</DisplayName></Owner>"
    entries = "".join(
        f"<Contents><Key>{written(key)}</Key><LastModified>2026-11-21T09:30:00.250Z</LastModified>"
        f"<ETag>&quot;e{number}&quot;</ETag><Size>{number}</Size>{owner if number % 2 else ''}"
        f"<StorageClass>STANDARD</StorageClass></Contents>" + ("\n  " if number % 4 else "")
        for number, key in enumerate(keys)
    )
    prefixes = "".join(f"<CommonPrefixes><Prefix>{written(group)}</Prefix></CommonPrefixes>" for group in groups)
    more = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{escape(token)}</NextContinuationToken>"
    return (
        f"{HEAD}<ListBucketResult{SPACE}><Name>b</Name><Prefix>p/</Prefix>{entries}{prefixes}"
        f"{more if token else '<IsTruncated>false</IsTruncated>'}"
        f"{'<EncodingType>url</EncodingType>' if encoded else ''}</ListBucketResult>"
    ).encode()


@given(
    keys=st.lists(KEYS, max_size=8, unique=True).map(sorted),
    groups=st.lists(KEYS, max_size=4, unique=True).map(sorted),
    cuts=st.lists(st.integers(1, 300), min_size=1, max_size=5),
)
def test_keys_of_all_characters_come_through_in_chunks_of_any_size(
    keys: list[str], groups: list[str], cuts: list[int]
) -> None:
    document = page_of(keys, groups, token="t&1")
    parser = ListParser()
    position, number = 0, 0
    while position < len(document):
        size = cuts[number % len(cuts)]
        parser.feed(memoryview(document)[position : position + size])
        position, number = position + size, number + 1
    page = parser.page(7)
    assert [listed.key for listed in page.objects] == keys
    assert [(listed.size, listed.etag) for listed in page.objects] == [(n, f'"e{n}"') for n in range(len(keys))]
    assert all(listed.last_modified_ns % 10**9 == 250_000_000 for listed in page.objects)
    assert list(page.prefixes) == groups
    assert (page.token, page.date_ns) == ("t&1", 7)


def test_a_store_that_ignores_the_encoding_is_read_as_it_writes() -> None:
    parser = ListParser()
    parser.feed(page_of(["a%41", "a+b", "a b&c"], encoded=False).replace(b"\n  ", b""))
    page = parser.page(0)
    assert [listed.key for listed in page.objects] == ["a b&c", "a%41", "a+b"]
    assert page.token is None


@pytest.mark.parametrize(
    "document",
    [
        page_of(["a"])[:-10],
        b"",
        b"<html>no",
        b"<Error><Code>x</Code></Error>",
        page_of(["a"]).replace(b"<Size>0<", b"<Size>many<"),
        page_of(["a"]).replace(b"2026-11-21T", b"yesterday "),
        page_of(["a"]).replace(b"<Key>a</Key>", b""),
        page_of(["a"], token="t").replace(b"NextContinuationToken", b"Next"),
    ],
)
def test_what_is_cut_or_no_listing_is_a_bad_reply(document: bytes) -> None:
    parser = ListParser()
    with pytest.raises(BadReply):
        parser.feed(document)
        parser.page(0)


@pytest.mark.parametrize("hidden", ["<!--{}-->", "<![CDATA[{}]]>", "<?p {}?>"])
@pytest.mark.parametrize("size", [1, 7, 4096])
def test_an_entry_that_is_no_element_is_none(hidden: str, size: int) -> None:
    entry = '<Contents><Key>{}</Key><ETag>"e"</ETag><Size>1</Size><LastModified>2026-11-21T09:30:00Z</LastModified>'
    one, other = (entry.format(key) + "</Contents>" for key in ("real", "false"))
    document = (
        f"{HEAD}<ListBucketResult{SPACE}><Name>b</Name>{one}<X>{hidden.format(other)}</X>"
        "<IsTruncated>false</IsTruncated></ListBucketResult>"
    ).encode()
    parser = ListParser()
    for start in range(0, len(document), size):
        parser.feed(document[start : start + size])
    assert [listed.key for listed in parser.page(0).objects] == ["real"]


def test_an_entry_that_is_cut_is_a_bad_reply_and_one_without_an_etag_is_not() -> None:
    entry = "<Contents><Key>k</Key><Size>1</Size><LastModified>2026-11-21T09:30:00Z</LastModified></Contents>"
    head = f"{HEAD}<ListBucketResult{SPACE}><Name>b</Name>"
    parser = ListParser()
    parser.feed(f"{head}{entry}</ListBucketResult>".encode())
    assert [(listed.key, listed.etag) for listed in parser.page(0).objects] == [("k", '""')]
    for broken in (entry[:-1], entry.replace("<Key>k</Key>", ""), entry.replace("<Size>1</Size>", "")):
        parser = ListParser()
        with pytest.raises(BadReply):
            parser.feed(f"{head}{broken}</ListBucketResult>".encode())
            parser.page(0)


def test_uploads_are_listed_with_their_markers() -> None:
    parser = UploadsParser()
    parser.feed(
        f"{HEAD}<ListMultipartUploadsResult{SPACE}><Bucket>b</Bucket><EncodingType>url</EncodingType>"
        "<NextKeyMarker>a+b</NextKeyMarker><NextUploadIdMarker>2</NextUploadIdMarker><IsTruncated>true</IsTruncated>"
        "<Upload><Key>a%2Bb</Key><UploadId>1</UploadId><Initiator><ID>i</ID></Initiator></Upload>"
        "<Upload><Key>a+b</Key><UploadId>2</UploadId></Upload></ListMultipartUploadsResult>".encode()
    )
    uploads, following = parser.uploads()
    assert [(upload.key, upload.id) for upload in uploads] == [("a+b", "1"), ("a b", "2")]
    assert following == ("a b", "2")


@pytest.mark.parametrize(
    "garbled",
    [
        "<Upload><UploadId>1</UploadId></Upload>",
        "<Upload><Key>k</Key></Upload>",
        "<Upload><Key>k</Key><UploadId>1</UploadId></Upload><Upload><UploadId>2</UploadId></Upload>",
        "<Upload><Key>k</Key><UploadId>1</UploadId></Upload><Upload><Key>k</Key></Upload>",
        "<Upload><Key>k</Key><UploadId>1</UploadId><Initiated>yesterday</Initiated></Upload>",
        "<IsTruncated>true</IsTruncated>",
        "<IsTruncated>true</IsTruncated><NextKeyMarker></NextKeyMarker>",
        "<IsTruncated>true</IsTruncated><NextUploadIdMarker>1</NextUploadIdMarker>",
    ],
)
def test_a_list_of_uploads_that_lacks_something_is_a_bad_reply(garbled: str) -> None:
    parser = UploadsParser()
    with pytest.raises(BadReply):
        parser.feed(f"{HEAD}<ListMultipartUploadsResult{SPACE}>{garbled}</ListMultipartUploadsResult>".encode())
        parser.uploads()


def test_times_are_read_to_the_nanosecond() -> None:
    assert parse_time_ns("1970-01-01T00:00:00Z") == 0
    assert parse_time_ns("2026-11-21T09:30:00.000Z") == 1795253400 * 10**9
    assert parse_time_ns("2024-02-29T23:59:59.123456789Z") == 1709251199123456789
    with pytest.raises(ValueError, match="not a time"):
        parse_time_ns("2024-02-29 23:59:59")


def test_a_thousand_keys_cost_some_milliseconds() -> None:
    document = page_of([f"some/directory/file-{number:06}.txt" for number in range(1000)])
    times = []
    for _ in range(5):
        began = time.process_time()
        parser = ListParser()
        for start in range(0, len(document), 65536):
            parser.feed(memoryview(document)[start : start + 65536])
        assert len(parser.page(0).objects) == 1000
        times.append(time.process_time() - began)
    assert min(times) < 0.04, times
    print(f"{min(times) * 1000:.1f} ms")
