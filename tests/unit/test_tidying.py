"""What has to be tidied up when a daemon ends is not waited for longer than a service manager waits for it."""

from functools import partial

import trio

from s3mount.config import MIB
from s3mount.notify import STOP_MARGIN_SECONDS
from s3mount.store.base import Headers
from s3mount.store.wire import ConnectFailed, Request
from tests.running import run_virtual
from tests.scripted_wire import scripted_store, success

ETAG = '"0123456789abcdef0123456789abcdef"'
CREATED = b"<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>"


@run_virtual
async def test_a_copy_by_parts_that_a_stop_cuts_short_in_an_outage_leaves_its_upload_to_the_next_start() -> None:
    down = False

    async def script(request: Request) -> tuple[int, dict[str, str], bytes]:
        if down:
            raise ConnectFailed(f"{request.method} {request.url}: refused", sent=False)
        status, headers, body = success(request)
        if request.method == "HEAD":
            return status, {**headers, "content-length": str(30 * MIB)}, body
        if request.url.endswith("?uploads="):
            return status, headers, CREATED
        return await trio.sleep_forever() if "partNumber" in request.url else (status, headers, body)

    store, wire = scripted_store(script, copy_max_bytes=10 * MIB)
    with trio.move_on_after(5) as stop:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(store.copy, "k", "t", source_etag=ETAG, headers=Headers()))
            await trio.sleep(4)
            down = True
    assert stop.cancelled_caught
    assert any("partNumber" in request.url for _, request in wire.sent)
    assert wire.sent[-1][0] > 5  # it was tried
    assert trio.current_time() - 5 < STOP_MARGIN_SECONDS - 2
