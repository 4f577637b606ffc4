"""Fixtures all tests share: one SeaweedFS and one moto server a session, started when first asked for."""

import secrets
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.servers import Server, Tls, boto, make_bucket, make_tls, start_moto, start_seaweedfs

# A busy machine takes its time: hypothesis shall draw, not measure. What hangs is faulthandler's to tell.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(scope="session", autouse=True)
def _no_ambient_settings() -> Iterator[None]:
    """Credentials, profiles and proxies of whoever runs the tests stay out of them."""
    with pytest.MonkeyPatch.context() as patch:
        for name in (
            "AWS_PROFILE",
            "AWS_ACCESS_KEY_ID",
            "AWS_SECRET_ACCESS_KEY",
            "AWS_SESSION_TOKEN",
            "AWS_ENDPOINT_URL",
        ):
            patch.delenv(name, raising=False)
        for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            patch.delenv(name, raising=False)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_CONFIG_FILE", "/dev/null")
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
        yield


@pytest.fixture(scope="session")
def seaweedfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = start_seaweedfs(tmp_path_factory.mktemp("seaweedfs"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def moto_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = start_moto(tmp_path_factory.mktemp("moto"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    return make_tls(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def bucket(seaweedfs: Server) -> Iterator[str]:
    """A new bucket on SeaweedFS, removed with all that is in it."""
    name = make_bucket(seaweedfs, f"test-{secrets.token_hex(6)}")
    yield name
    boto(seaweedfs).delete_bucket(Bucket=name)
