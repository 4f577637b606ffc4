"""What an object carries, asked for the upload that will replace it.

Knows keys and versions of the store; no file. No state.
"""

from dataclasses import replace

from s3mount.data.version import Changed, Version
from s3mount.errors import BadReply, NotFound
from s3mount.store.base import ObjectInfo, ObjectStore


async def describe(store: ObjectStore, version: Version) -> ObjectInfo:
    """HEAD of a version, and one request more for the tags of an object that has some: they are in `headers` then.

    Raises Changed when the object is another version, its description with it; AccessDenied when it has tags that may
    not be read: an upload without them would delete them.
    """
    try:
        info = await store.head(version.key)
        if info.etag == version.etag and info.size != version.size:
            # One etag, two sizes: one of them was damaged on its way, and an append goes where the size says.
            again = await store.head(version.key)
            if (again.etag, again.size) != (info.etag, info.size):
                raise BadReply(f"{version.key!r} has {info.size} bytes, and then {again.size}")
        if info.tag_count:
            info = replace(info, headers=replace(info.headers, tags=await store.tags(version.key)))
    except NotFound as error:
        raise Changed(f"{version.key!r} is gone", None) from error
    if info.etag != version.etag or info.size != version.size:
        raise Changed(f"{version.key!r} is another version", info)
    return info
