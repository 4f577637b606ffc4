"""The `place` fixture: each test that takes it runs on the memory store, on SeaweedFS and on moto; and `proxy`, a fault
proxy before SeaweedFS. `made_place` is for those who take other stores, too."""

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.proxy import FaultProxy
from tests.servers import Server, boto, make_bucket
from tests.store.places import DIFFERENCES, Place


@pytest.fixture(params=["memory", "seaweedfs", "moto"])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Place]:
    yield from made_place(request, monkeypatch, tmp_path)


def made_place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Place]:
    """The place that the parameter names."""
    name: str = request.param
    reason = DIFFERENCES.get((name, request.node.originalname))
    if reason is not None:
        request.applymarker(pytest.mark.xfail(reason=reason, strict=True))
    if name in ("memory", "write-back"):
        yield Place(name, directory=tmp_path / "write-back" if name == "write-back" else None)
        return
    server: Server = request.getfixturevalue({"seaweedfs": "seaweedfs", "moto": "moto_server"}[name])
    for variable, value in server.environment().items():
        monkeypatch.setenv(variable, value)
    bucket = make_bucket(server, f"contract-{secrets.token_hex(6)}")
    yield Place(name, bucket, server)
    if name == "seaweedfs":
        boto(server).delete_bucket(Bucket=bucket)


@pytest.fixture
def proxy(seaweedfs: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    for variable, value in seaweedfs.environment().items():
        monkeypatch.setenv(variable, value)
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    with FaultProxy(seaweedfs.endpoint_url) as proxy:
        yield proxy
