"""RenameObject over `Requests`: an object gets another key in one step, with its bytes, etag, headers and age.

For stores where the probe has seen it work (SeaweedFS; Amazon in directory buckets only). Others take the request
for a PUT of nothing, so nobody may ask before `Requests.renames` says so, but the probe on its scratch keys. SeaweedFS
4.48: it is atomic and honours If-Match, If-None-Match and x-amz-rename-source-if-match; tells no etag; answers 501 in a
bucket that keeps versions, and 400 for a marker.

An option that says how objects are kept (storage class, encryption, ACL) is about what is stored here, and a copy
follows it where a rename would not: with such an option there are no renames.
"""

import logging

from s3mount import errors
from s3mount.config import Config
from s3mount.store.base import Condition
from s3mount.store.requests import Requests, condition_lines, refused
from s3mount.store.signature import quote_key

log = logging.getLogger(__name__)


def permits(config: Config) -> bool:
    """Whether an object that is renamed is kept as the options say."""
    kept = (config.storage_class, config.sse, config.sse_kms_key_id, config.sse_customer_key_file, config.acl)
    return all(option is None for option in kept)


async def rename(requests: Requests, source: str, target: str, source_etag: str, condition: Condition) -> None:
    lines = [
        ("x-amz-rename-source", f"/{requests.config.bucket}/{quote_key(source)}"),
        ("x-amz-rename-source-if-match", source_etag),
        *condition_lines(condition),
    ]
    order = requests.metadata("rename", "PUT", target, "renameObject=", lines, mutating=True)
    try:
        await requests.mutate(target, order)
    except (errors.PreconditionFailed, errors.NotFound) as error:
        if order.repeated and await _done(requests, source, target, source_etag):
            return
        if isinstance(error, errors.NotFound):
            raise
        raise refused(error, f"rename of {source!r}") from error
    except errors.NotImplementedByStore as error:
        if requests.renames:
            log.info("store refuses to rename, objects are copied from now on reason=%s", error)
        requests.renames = False
        raise
    except BaseException:
        if order.in_doubt:
            requests.doubt(source)
        raise


async def _done(requests: Requests, source: str, target: str, source_etag: str) -> bool:
    """Whether our own first request has done it."""
    seen = await requests.look(target)
    return seen is not None and seen[0].etag == source_etag and await requests.look(source) is None
