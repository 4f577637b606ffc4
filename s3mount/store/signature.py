"""AWS Signature Version 4 for S3: percent-encoding, canonical requests, Authorization headers. Pure.

It knows no operation and reads no clock. S3's own rules differ from the general ones: the path is encoded once and
never normalised, so keys with `.`, `..` and `//` are addressed exactly. botocore's S3SigV4Auth is the oracle of its
tests.
"""

import hashlib
import hmac
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote

UNSIGNED_PAYLOAD = "UNSIGNED-PAYLOAD"
EMPTY_SHA256 = hashlib.sha256().hexdigest()

Header = tuple[str, str]

_PLAIN = re.compile(r"[0-9A-Za-z._~/-]*").fullmatch


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a request is signed with, at one moment. Never shown."""

    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    token: str | None = field(default=None, repr=False)


def quote_key(key: str) -> str:
    """The key as it stands in a path: every byte but the unreserved ones and `/` as upper-case `%XX`."""
    # Most keys are plain, and quote() goes byte by byte.
    return key if _PLAIN(key) else quote(key, safe="/", errors="surrogateescape")


def quote_query(parameters: Iterable[tuple[str, str]]) -> str:
    """The query string in canonical form, which is also the form to send."""
    # As pairs: in the text, `=` after a name would sort behind the longer names that begin with it.
    pairs = sorted(
        (quote(name, safe="", errors="surrogateescape"), quote(value, safe="", errors="surrogateescape"))
        for name, value in parameters
    )
    return "&".join([f"{name}={value}" for name, value in pairs])


class Signer:
    """Signs requests of one identity in one region.

    State: what one day's signing key makes of two hashes, and the spellings of one second, kept because most requests
    share them.
    """

    def __init__(self, credentials: Credentials, region: str, service: str = "s3") -> None:
        self._credentials = credentials
        self._region = region
        self._service = service
        self._second = -1
        self._stamp = ""
        self._day = ""
        self._scope = ""
        self._identity = ""
        self._preamble = ""
        self._inner = self._outer = hashlib.sha256()

    def __repr__(self) -> str:
        return f"<Signer region={self._region}>"

    def headers(
        self,
        method: str,
        path: str,
        query: str,
        host: str,
        headers: Sequence[Header],
        payload_hash: str,
        now_seconds: int,
    ) -> list[Header]:
        """The headers to send: those given, the signature's own, Authorization last.

        `path` and `query` are percent-encoded already. `headers` have lower-case names, each once, and become part of
        the signature, so does `host`, which is not in the answer.
        """
        if now_seconds != self._second:
            self._turn_to(now_seconds)
        sent = [*headers, ("x-amz-content-sha256", payload_hash), ("x-amz-date", self._stamp)]
        if self._credentials.token:
            sent.append(("x-amz-security-token", self._credentials.token))
        signed = sorted([*sent, ("host", host)])
        lines = "".join([f"{name}:{value}\n" for name, value in signed])
        if (" " in lines and ("  " in lines or ": " in lines or " \n" in lines)) or "\t" in lines:
            lines = "".join([f"{name}:{_trimmed(value)}\n" for name, value in signed])
        names = ";".join([name for name, _ in signed])
        canonical = f"{method}\n{path}\n{query}\n{lines}\n{names}\n{payload_hash}"
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        # HMAC by hand, from the states behind the key's blocks: 2 us, where hmac.digest() needs 6.
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(f"{self._preamble}{digest}".encode())
        outer.update(inner.digest())
        sent.append(("authorization", f"{self._identity}, SignedHeaders={names}, Signature={outer.hexdigest()}"))
        return sent

    def _turn_to(self, now_seconds: int) -> None:
        self._stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now_seconds))
        self._second = now_seconds
        day = self._stamp[:8]
        if day != self._day:
            key = b"AWS4" + self._credentials.secret_key.encode()
            for word in (day, self._region, self._service, "aws4_request"):
                key = hmac.digest(key, word.encode(), "sha256")
            block = key.ljust(64, b"\0")
            self._inner = hashlib.sha256(bytes([byte ^ 0x36 for byte in block]))
            self._outer = hashlib.sha256(bytes([byte ^ 0x5C for byte in block]))
            self._day = day
            self._scope = f"{day}/{self._region}/{self._service}/aws4_request"
            self._identity = f"AWS4-HMAC-SHA256 Credential={self._credentials.access_key}/{self._scope}"
        self._preamble = f"AWS4-HMAC-SHA256\n{self._stamp}\n{self._scope}\n"


def _trimmed(value: str) -> str:
    """As the server reads it: outer blanks gone, runs of blanks one space."""
    return " ".join(value.split())
