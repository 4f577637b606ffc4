"""Addresses that carry their permission: a GET signed by botocore for a limited time, or plain where nothing is signed.

The credentials are the daemon's of this moment; no secret is in an address but the signature, which is what it is for,
and the token of temporary credentials, which is useless without the secret key. No state; sends nothing.
"""

import time
from dataclasses import dataclass

import botocore.auth
import botocore.awsrequest
import botocore.credentials
import trio

from s3mount.errors import NotSupported
from s3mount.store.requests import Requests
from s3mount.store.signature import quote_key, quote_query

PRESIGN_MAX_SECONDS = 7 * 86400
"""S3 takes no longer ones."""


@dataclass(frozen=True, slots=True)
class Presigned:
    """An address. `ends_seconds`: since the epoch; None: it does not end. `temporary`: it ends with the credentials, if
    these end sooner; `shortened`: they are known to."""

    url: str
    ends_seconds: float | None = None
    temporary: bool = False
    shortened: bool = False


async def presigned(requests: Requests, key: str, seconds: int) -> Presigned:
    """An address to GET the object for `seconds`. Raises NotSupported when the reader would need a key of ours."""
    assert 1 <= seconds <= PRESIGN_MAX_SECONDS
    if requests.carried.customer_key:
        raise NotSupported("an address cannot carry the key of --sse-customer-key-file, and no GET works without it")
    access = requests.access
    if access.look_at is not None:
        await access.look()  # credentials that are about to end are renewed now
    address, credentials = access.address, access.credentials
    # S3 takes this one in the query too; the bucket's owner is ours to check, not the reader's.
    query = quote_query([line for line in requests.carried.by("get") if line[0] == "x-amz-request-payer"])
    url = f"{address.origin}{address.path}/{quote_key(key)}" + (f"?{query}" if query else "")
    if credentials is None:
        return Presigned(url)

    def sign() -> str:
        request = botocore.awsrequest.AWSRequest(method="GET", url=url)
        identity = botocore.credentials.Credentials(credentials.access_key, credentials.secret_key, credentials.token)
        botocore.auth.S3SigV4QueryAuth(identity, "s3", address.region, expires=seconds).add_auth(request)
        return str(request.url)

    signed = await trio.to_thread.run_sync(sign)
    ends = time.time() + seconds
    theirs = access.credentials_end_seconds
    shortened = theirs is not None and theirs < ends
    return Presigned(
        signed,
        ends_seconds=min(ends, theirs) if theirs is not None else ends,
        temporary=credentials.token is not None,
        shortened=shortened,
    )
