"""Where the store is, before anybody asks it: what this machine keeps of a bucket is kept by that."""

from pathlib import Path

import pytest

from s3mount import instance
from s3mount.config import Config
from s3mount.store.endpoint import configured_endpoint

SETTINGS = """
[profile near]
endpoint_url = http://near.example:9000
[profile services]
services = ours
[services ours]
s3 =
  endpoint_url = http://services.example:9000
"""


@pytest.fixture(autouse=True)
def _settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text(SETTINGS)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(path))
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_PROFILE", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS"):
        monkeypatch.delenv(name, raising=False)


def config(endpoint_url: str | None = None, profile: str | None = None) -> Config:
    return Config(bucket="bucket", endpoint_url=endpoint_url, profile=profile)


def test_without_a_word_the_store_is_at_amazon() -> None:
    assert configured_endpoint(config()) is None


def test_the_environment_names_it_the_more_special_variable_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://all.example")
    assert configured_endpoint(config()) == "http://all.example"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://s3.example")
    assert configured_endpoint(config()) == "http://s3.example"
    assert configured_endpoint(config("http://option.example")) == "http://option.example"


def test_a_profile_names_it() -> None:
    assert configured_endpoint(config(profile="near")) == "http://near.example:9000"
    assert configured_endpoint(config(profile="services")) == "http://services.example:9000"


def test_it_may_be_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://all.example")
    monkeypatch.setenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")
    assert configured_endpoint(config()) is None


def test_a_profile_that_does_not_exist_is_left_to_who_opens_the_store() -> None:
    assert configured_endpoint(config(profile="missing")) is None


def test_stores_named_by_the_environment_share_no_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    names = set()
    for url in ("http://one.example", "http://other.example"):
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        names.add(instance.name(Config(bucket="bucket", endpoint_url=configured_endpoint(config()))))
    assert len(names) == 2
