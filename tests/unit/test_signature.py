"""Our signatures are botocore's, for any key, query and header."""

import calendar
import datetime as dt
import time
from unittest import mock
from urllib.parse import quote, unquote

import botocore.auth
import botocore.awsrequest
import botocore.credentials
from hypothesis import given
from hypothesis import strategies as st

from s3mount.store.signature import EMPTY_SHA256, UNSIGNED_PAYLOAD, Credentials, Signer, quote_key, quote_query

NOW = calendar.timegm((2026, 11, 21, 9, 30, 0))
TEXT = st.text(st.characters(codec="utf-8"), max_size=40)
HOSTILE = st.sampled_from(["..", ".", "//", " ", "+", "%", "%41", "é", "\x01", "\n", "?", "#", "&", "=", "~", "*", "'"])
KEYS = st.lists(st.one_of(HOSTILE, TEXT), min_size=1).map("/".join).filter(bool)
NAMES = st.from_regex(r"x-amz-[a-z0-9-]{1,12}", fullmatch=True).filter(
    lambda name: name not in ("x-amz-date", "x-amz-content-sha256", "x-amz-security-token")
)
VALUES = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30)


def by_botocore(
    method: str, host: str, path: str, query: str, headers: dict[str, str], payload: str, token: str | None
) -> str:
    """The Authorization that botocore computes for the same request."""
    credentials = botocore.credentials.Credentials("AKIDEXAMPLE", "secret/key", token)
    url = f"https://{host}{path}" + (f"?{query}" if query else "")
    request = botocore.awsrequest.AWSRequest(method, url, headers=headers | {"X-Amz-Content-SHA256": payload})
    # The oracle must sign exactly the moment and the payload we sign.
    request.context["payload_signing_enabled"] = False
    request.context["timestamp"] = "20261121T093000Z"
    auth = botocore.auth.S3SigV4Auth(credentials, "s3", "eu-west-1")
    moment = dt.datetime(2026, 11, 21, 9, 30, 0, tzinfo=dt.timezone.utc)
    with (
        mock.patch.object(auth, "payload", return_value=payload),
        mock.patch("botocore.auth.get_current_datetime", return_value=moment),
    ):
        auth.add_auth(request)
    return str(request.headers["Authorization"])


@given(
    method=st.sampled_from(["GET", "HEAD", "PUT", "POST", "DELETE"]),
    key=KEYS,
    query=st.lists(st.tuples(TEXT.filter(bool), TEXT), max_size=4, unique_by=lambda pair: pair[0]),
    headers=st.dictionaries(NAMES, VALUES, max_size=5),
    payload=st.sampled_from([UNSIGNED_PAYLOAD, EMPTY_SHA256]),
    token=st.sampled_from([None, "a/token+=="]),
)
def test_signatures_equal_botocores(
    method: str,
    key: str,
    query: list[tuple[str, str]],
    headers: dict[str, str],
    payload: str,
    token: str | None,
) -> None:
    path, sent = "/bucket/" + quote_key(key), quote_query(query)
    signer = Signer(Credentials("AKIDEXAMPLE", "secret/key", token), "eu-west-1")
    ours = dict(signer.headers(method, path, sent, "host.example:9000", list(headers.items()), payload, NOW))
    expected = by_botocore(method, "host.example:9000", path, sent, headers, payload, token)
    assert ours["authorization"] == expected
    assert ours["x-amz-date"] == "20261121T093000Z"
    assert ours.get("x-amz-security-token") == token


@given(KEYS)
def test_quoting_is_upper_case_and_reversible(key: str) -> None:
    quoted = quote_key(key)
    assert unquote(quoted) == key
    assert quoted == quote(key, safe="/-_.~")
    assert quoted.isascii()
    assert quoted.isprintable()


def test_the_key_of_the_day_changes_with_the_day_and_no_secret_is_shown() -> None:
    credentials = Credentials("AKIDEXAMPLE", "hidden-secret", "hidden-token")
    signer = Signer(credentials, "eu-west-1")

    def authorization(now: int) -> str:
        return signer.headers("GET", "/", "", "h", [], EMPTY_SHA256, now)[-1][1]

    first = authorization(NOW)
    assert authorization(NOW + 86400) != first
    assert authorization(NOW) == first
    assert "20261122/eu-west-1/s3" in authorization(NOW + 86400)
    assert "hidden" not in repr(signer) + repr(credentials) + str(vars(signer).get("signer"))
    assert time.gmtime(NOW).tm_mday == 21
