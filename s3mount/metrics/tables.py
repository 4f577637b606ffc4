"""Which figure of `s3mount status` is which metric: the table that `families` reads. Pure; no library."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """One metric without labels; `counts`: it only grows, and Prometheus gets it as `name_total`."""

    name: str
    place: tuple[str, ...]
    help: str
    counts: bool = False


FIGURES = (
    Figure("s3mount_uptime_seconds", ("uptime_seconds",), "Since the mount began"),
    Figure("s3mount_dirty_files", ("files", "dirty_files", "count"), "Files that are not in the bucket yet"),
    Figure("s3mount_dirty_bytes", ("files", "dirty", "bytes"), "Bytes of them that the bucket lacks"),
    Figure("s3mount_dirty_oldest_seconds", ("files", "dirty", "oldest_seconds"), "How long the oldest has waited"),
    Figure("s3mount_uploads_in_flight", ("files", "uploads", "count"), "Files being sent"),
    Figure("s3mount_files_not_stored", ("files", "files_not_stored", "count"), "Failed after close, tried again"),
    Figure("s3mount_attributes_held", ("files", "attributes_held", "count"), "Attribute changes not stored yet"),
    Figure("s3mount_handles_for_writing", ("files", "handles_for_writing"), "Handles open for writing"),
    Figure("s3mount_renames_under_way", ("files", "renames"), "Directories being renamed"),
    Figure("s3mount_hidden_keys", ("files", "hidden_keys", "count"), "Keys met that cannot be paths"),
    Figure("s3mount_inodes", ("files", "names", "inodes"), "Inodes in memory"),
    Figure("s3mount_listed_names", ("files", "listed_names", "held"), "Names held in listings"),
    Figure("s3mount_stopping", ("files", "stopping"), "1 while the mount stops"),
    Figure("s3mount_conflict_copies", ("storage", "conflict_copies", "count"), "Versions kept that lost", True),
    Figure("s3mount_write_back_changes", ("write_back", "changes"), "Acknowledged and not in the bucket yet"),
    Figure("s3mount_write_back_bytes", ("write_back", "bytes"), "Bytes of them"),
    Figure("s3mount_write_back_max_bytes", ("write_back", "max_bytes"), "Their limit"),
    Figure("s3mount_write_back_oldest_seconds", ("write_back", "oldest_seconds"), "How long the oldest has waited"),
    Figure("s3mount_write_back_writers_waiting", ("write_back", "writers_waiting"), "Changes that wait for room"),
    Figure("s3mount_write_back_sending", ("write_back", "sending"), "Changes being sent"),
    Figure("s3mount_write_back_refused", ("write_back", "refused", "count"), "Changes that the bucket refuses"),
    Figure("s3mount_write_back_journal_bytes", ("write_back", "journal_bytes"), "The journal on disk"),
    Figure("s3mount_staging_bytes", ("storage", "staging", "used_bytes"), "Staging in use"),
    Figure("s3mount_staging_max_bytes", ("storage", "staging", "max_bytes"), "Its limit"),
    Figure("s3mount_staging_writers_waiting", ("storage", "staging", "writers_waiting"), "Writes that wait for it"),
    Figure("s3mount_memory_limit_bytes", ("storage", "memory", "max_bytes"), "The limit of buffers and caches"),
    Figure("s3mount_cache_memory_bytes", ("storage", "memory", "cached_bytes"), "Blocks in memory"),
    Figure("s3mount_cache_disk_bytes", ("storage", "cache_on_disk", "used_bytes"), "Blocks on disk"),
    Figure("s3mount_cache_disk_max_bytes", ("storage", "cache_on_disk", "max_bytes"), "Their limit"),
    Figure("s3mount_readahead_bytes", ("storage", "read_ahead", "fetched_bytes"), "Fetched before it was read", True),
    Figure("s3mount_readahead_wasted_bytes", ("storage", "read_ahead", "wasted_bytes"), "Dropped unread of it", True),
    Figure("s3mount_sent_bytes", ("store", "sent_bytes"), "Bodies sent to the store", True),
    Figure("s3mount_received_bytes", ("store", "received_bytes"), "Bodies received from it", True),
    Figure("s3mount_store_answer_age_seconds", ("store", "last_answer_seconds"), "Since the store answered"),
    Figure("s3mount_store_failure_age_seconds", ("store", "last_failure_seconds"), "Since it failed to"),
    Figure("s3mount_clock_skew_seconds", ("store", "clock_skew_seconds"), "How far its clock is ahead of ours"),
)

CACHES = {
    "memory": ("storage", "cache_in_memory"),
    "disk": ("storage", "cache_on_disk"),
    "names": ("files", "cache_of_names"),
    "listings": ("files", "cache_of_listings"),
    "attributes": ("files", "cache_of_attributes"),
}
"""Where each cache has its hits and misses."""
