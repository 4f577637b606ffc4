"""Where the bucket is and who we are: what boto3 resolves from options, environment, profile and machine role.

Owns the boto3 session. The wire takes from here an address, a signer, a proxy and a CA file; boto3 itself sends nothing
but what its credential chain needs (STS, SSO, the metadata service), in worker threads. No secret is ever shown.

The mutable state of `Access`: the address, the credentials with their signer, `generation` (grows with each change of
either), when to look at the credentials' expiry again, and when to look for others after none were found.
"""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from math import inf
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import boto3.session
import botocore.config
import botocore.configprovider
import botocore.credentials
import botocore.exceptions
import botocore.httpsession
import botocore.session
import botocore.utils
import trio
from botocore import UNSIGNED

from s3mount.config import Config
from s3mount.errors import StartError
from s3mount.store.signature import Credentials, Signer

log = logging.getLogger(__name__)
T = TypeVar("T")

LOOK_SECONDS = 30.0
"""How often the expiry of credentials that expire is looked at; botocore renews them 10 to 15 minutes ahead."""
RENEW_SECONDS = 2.0
"""After the store has called credentials expired and there were no others: until they are looked for again, for each of
a thousand requests would look otherwise."""
RESOLVE_SECONDS = 30.0
"""For a metadata service, or a program that is asked for credentials; then its thread is left behind."""
RESOLVERS_MAX = 4
DEFAULT_REGION = "us-east-1"
_AMAZON = (".amazonaws.com", ".amazonaws.com.cn")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a bucket's requests go: `origin` + `path` + `/` + key. `path`: `/bucket`, or empty with a virtual host."""

    origin: str
    host: str
    path: str
    region: str
    proxy: str | None
    ca: Path


UNRESOLVED = (
    botocore.exceptions.BotoCoreError,
    botocore.exceptions.ClientError,  # a refused AssumeRole, say; no relation of the former
    OSError,
    RuntimeError,
    ValueError,
)
"""What botocore raises while it finds or renews credentials."""


class Access:
    """The way to one bucket. Everything but `open` is safe for many tasks at once."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._lock = trio.Lock()
        self._threads = trio.CapacityLimiter(RESOLVERS_MAX)
        self._renew_at = -inf
        self._expiring: botocore.credentials.RefreshableCredentials | None = None
        self._credentials: Credentials | None = None
        self.look_at: float | None = None
        self.signer: Signer | None = None
        self.generation = 0
        self.address: Address

    def __repr__(self) -> str:
        return f"<Access generation={self.generation} {'signed' if self.signer else 'unsigned'}>"

    @property
    def credentials(self) -> Credentials | None:
        """What requests are signed with now; None: they are not."""
        return self._credentials

    @property
    def credentials_end_seconds(self) -> float | None:
        """When they end, since the epoch; None: never, or nobody has told."""
        ends = getattr(self._expiring, "_expiry_time", None)  # botocore tells it in no other way
        return ends.timestamp() if isinstance(ends, datetime) else None

    async def open(self) -> None:
        """Resolve everything, in a thread. Raises StartError with one line saying what to do."""
        await self._change(None)

    async def look(self) -> None:
        """Called once `look_at` has come: renew credentials that are about to expire, in a thread.

        Others go on with the old ones meanwhile.
        """
        self.look_at = trio.current_time() + LOOK_SECONDS
        expiring = self._expiring
        if expiring is None or not expiring.refresh_needed():
            return
        async with self._lock:
            try:
                frozen = await self._in_thread(expiring.get_frozen_credentials)
            except (*UNRESOLVED, trio.TooSlowError) as error:
                log.warning("credentials were not renewed error=%s", type(error).__name__)
                return
            self._adopt(_credentials_of(frozen))

    async def renew(self, generation: int) -> bool:
        """Resolve the credentials anew after the store called those of `generation` expired. Whether there are others
        now."""
        async with self._lock:
            if self.generation != generation:
                return True
            if trio.current_time() < self._renew_at:
                return False
            before = self._credentials
            try:
                await self._change(self.address.region)
            except StartError as error:
                log.warning("credentials were not renewed error=%s", error)
            renewed = self._credentials != before
            if not renewed:
                self._renew_at = trio.current_time() + RENEW_SECONDS
            return renewed

    async def move_to(self, region: str) -> None:
        """Use the region the store says the bucket is in."""
        async with self._lock:
            if region != self.address.region:
                log.info("bucket is elsewhere region=%s", region)
                await self._change(region)

    async def _change(self, region: str | None) -> None:
        def resolve() -> tuple[Address, botocore.credentials.Credentials | None, Credentials | None]:
            try:
                return _resolve(self._config, region)
            except UNRESOLVED as error:
                words = " ".join(str(error).split())[:300]
                raise StartError(f"the S3 settings cannot be used: {words}") from error

        try:
            self.address, source, credentials = await self._in_thread(resolve)
        except trio.TooSlowError as error:
            raise StartError(
                f"no credentials were found within {RESOLVE_SECONDS:g} s: try `aws sts get-caller-identity`"
            ) from error
        if isinstance(source, botocore.credentials.RefreshableCredentials):
            self._expiring = source
            self.look_at = trio.current_time() + LOOK_SECONDS
        else:
            self._expiring = None
            self.look_at = None
        self._adopt(credentials)

    async def _in_thread(self, ask: Callable[[], T]) -> T:
        """Ask botocore, which may ask others. Raises trio.TooSlowError."""
        with trio.fail_after(RESOLVE_SECONDS):
            return await trio.to_thread.run_sync(ask, abandon_on_cancel=True, limiter=self._threads)

    def _adopt(self, credentials: Credentials | None) -> None:
        self._credentials = credentials
        self.signer = Signer(credentials, self.address.region) if credentials is not None else None
        self.generation += 1


def configured_endpoint(config: Config) -> str | None:
    """Where the store is by `--endpoint-url`, or as AWS's own settings have it (AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL,
    the profile's `endpoint_url`, in botocore's order of precedence); None: at Amazon. What is kept on this machine of a
    bucket is kept by it."""
    if config.endpoint_url is not None:
        return config.endpoint_url
    core = botocore.session.Session(profile=config.profile)
    try:
        if core.get_config_variable("ignore_configured_endpoint_urls"):
            return None
        provider = botocore.configprovider.ConfiguredEndpointProvider(
            full_config=core.full_config, scoped_config=core.get_scoped_config(), client_name="s3"
        )
        found: str | None = provider.provide()
    except botocore.exceptions.BotoCoreError:
        return None  # whoever opens the store says why, in words
    return found


def _resolve(
    config: Config, region: str | None
) -> tuple[Address, botocore.credentials.Credentials | None, Credentials | None]:
    if config.bucket.endswith("--x-s3"):
        raise StartError("S3 Express directory buckets list keys in no order: mount a general purpose bucket")
    core = botocore.session.Session(profile=config.profile)
    session = boto3.session.Session(botocore_session=core)
    address = _address(config, core, session, region or config.region or session.region_name)
    if config.no_sign_request:
        return address, None, None
    source = session.get_credentials()
    if source is None:
        raise StartError(
            "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or --profile, or --no-sign-request"
        )
    frozen = source.get_frozen_credentials()
    return address, source, _credentials_of(frozen)


def _credentials_of(frozen: botocore.credentials.ReadOnlyCredentials) -> Credentials:
    if not frozen.access_key or not frozen.secret_key:
        raise StartError("the credentials found lack the access key or the secret key")
    return Credentials(frozen.access_key, frozen.secret_key, frozen.token)


def _address(
    config: Config, core: botocore.session.Session, session: boto3.session.Session, region: str | None
) -> Address:
    """Let botocore build the URL of a key and take it apart.

    Style "virtual" is asked for, since with "auto" botocore presigns for the global endpoint, which redirects; the path
    style is put together here, from the same client's regional endpoint.
    """
    client = session.client(
        "s3",
        region_name=region or DEFAULT_REGION,
        endpoint_url=config.endpoint_url,
        config=botocore.config.Config(signature_version=UNSIGNED, s3={"addressing_style": "virtual"}),
    )
    url = client.meta.endpoint_url
    by_path = config.force_path_style
    if by_path is None:
        # No certificate covers a bucket with dots as a host, and few other stores have one for each bucket.
        by_path = "." in config.bucket or not (urlsplit(url).hostname or "").endswith(_AMAZON)
    if by_path:
        url = f"{url.rstrip('/')}/{config.bucket}/k"
    else:
        url = client.generate_presigned_url("get_object", Params={"Bucket": config.bucket, "Key": "k"})
    client.close()
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.username is not None:
        raise StartError("--endpoint-url must be http://HOST[:PORT] or https://HOST[:PORT], without credentials")
    origin = f"{parts.scheme}://{parts.netloc}"
    # The signed Host is what libcurl sends: without the scheme's own port.
    default = ":443" if parts.scheme == "https" else ":80"
    ca = config.ca_bundle or core.get_config_variable("ca_bundle") or os.environ.get("REQUESTS_CA_BUNDLE")
    return Address(
        origin,
        parts.netloc.removesuffix(default),
        parts.path.removesuffix("k").rstrip("/"),
        region or DEFAULT_REGION,
        botocore.utils.get_environ_proxies(origin).get(parts.scheme),
        Path(ca or botocore.httpsession.where()),
    )
