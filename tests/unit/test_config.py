"""A Config's defaults agree with each other, and values that contradict each other are refused in words."""

from pathlib import Path
from typing import Any

import pytest

from s3mount.config import GIB, MIB, S3_PARTS_MAX, TIB, Config
from s3mount.errors import UsageError


def test_defaults_hold_together() -> None:
    config = Config(bucket="b")
    assert config.get_max_bytes % config.block_bytes == 0
    assert config.segment_bytes >= config.part_size_bytes
    assert config.readahead_max_bytes < config.memory_bytes
    assert config.backoff_base_seconds < config.backoff_max_seconds
    assert config.negative_ttl_seconds <= config.metadata_ttl_seconds <= config.walk_ttl_seconds
    assert config.file_size_max_bytes > config.part_size_bytes * S3_PARTS_MAX  # part sizes grow


def test_a_config_is_frozen() -> None:
    with pytest.raises(AttributeError):
        Config(bucket="b").bucket = "c"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"bucket": ""}, "s3://"),
        ({"part_size_bytes": 5 * MIB - 1}, "--part-size"),
        ({"part_size_bytes": 5 * GIB + 1}, "--part-size"),
        ({"memory_limit_bytes": 64 * MIB - 1}, "--memory-limit"),
        ({"staging_limit_bytes": 20 * MIB - 1}, "--staging-limit"),
        ({"metadata_ttl_seconds": -1.0}, "--metadata-ttl"),
        ({"negative_ttl_seconds": -1.0}, "--negative-ttl"),
        ({"file_size_max_bytes": 5 * TIB + 1}, "--max-file-size"),
        ({"file_size_max_bytes": MIB}, "--max-file-size"),
        ({"copy_max_bytes": 5 * MIB - 1}, "--copy-limit"),
        ({"copy_max_bytes": 5 * GIB + 1}, "--copy-limit"),
        ({"parts_max": 1}, "--parts-max"),
        ({"parts_max": 10_001}, "--parts-max"),
        ({"parts_max": 100}, "--max-file-size"),
        ({"write_back_limit_bytes": 20 * MIB - 1}, "--write-back-limit"),
        ({"write_back_files_max": 0}, "--write-back-files"),
        ({"write_back_delay_seconds": -1.0}, "--write-back-delay"),
        ({"write_back": True, "read_only": True}, "--write-back.*--read-only"),
        ({"write_back": True, "exclusive_create": "open"}, "--exclusive-create open.*--write-back"),
        ({"sse_kms_key_id": "key"}, "--sse-kms-key-id"),
        ({"sse": "AES256", "sse_kms_key_id": "key"}, "--sse-kms-key-id"),
        ({"sse": "AES256", "sse_customer_key_file": Path("/key")}, "--sse-customer-key-file"),
    ],
)
def test_values_out_of_range_name_their_option(values: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        Config(**{"bucket": "b", **values})


@pytest.mark.parametrize(("prefix", "source"), [("", "s3://b"), ("a/", "s3://b/a"), ("a/b c/", "s3://b/a/b c")])
def test_the_source_is_what_df_shows(prefix: str, source: str) -> None:
    assert Config(bucket="b", prefix=prefix).source == source


def test_deletions_are_not_gathered_twice() -> None:
    assert Config(bucket="b").gathers_unlinks
    assert not Config(bucket="b", unlink="sync").gathers_unlinks
    assert not Config(bucket="b", write_back=True).gathers_unlinks, "each is a record in the journal"
