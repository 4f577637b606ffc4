"""One frozen Config: every limit and default of a mount, units in the names, relations between them checked.

`config` is a leaf: it reads no file and no environment; `settings.py` turns words into a Config.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from s3mount.errors import UsageError

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
TIB = 1024 * GIB

S3_PART_MIN_BYTES = 5 * MIB
S3_PART_MAX_BYTES = 5 * GIB
S3_PARTS_MAX = 10_000
S3_OBJECT_MAX_BYTES = 5 * TIB
S3_COPY_MAX_BYTES = 5 * GIB
S3_KEY_MAX_BYTES = 1024
NAME_MAX_BYTES = 255
CACHE_LEAST_BYTES = 16 * MIB
"""Of a cache on disk: less would not hold what is written together."""
MEMORY_LEAST_BYTES = 64 * MIB
MEMORY_DEFAULT_MAX_BYTES = 512 * MIB
"""Of `memory_limit_bytes` when nobody says it, however much memory there is."""
RESERVED = ".s3mount"
"""Names that start with it are ours: hidden, refused on create."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What one mount does and how much it may use. Raises UsageError for values that contradict each other."""

    bucket: str
    prefix: str = ""
    """Empty, or ends with '/'."""
    mountpoint: Path = field(default_factory=Path)

    # the store
    endpoint_url: str | None = None
    region: str | None = None
    profile: str | None = None
    no_sign_request: bool = False
    force_path_style: bool | None = None
    """None: path style for custom endpoints, virtual hosts for AWS."""
    ca_bundle: Path | None = None
    connect_timeout_seconds: float = 10.0
    metadata_deadline_seconds: float = 60.0
    """Of a request without much of a body, over all its attempts; a copy or completion may be silent for so long."""
    stall_timeout_seconds: float = 20.0
    """A transfer that moves no byte for so long is given up and asked again."""
    retry_seconds: float = 60.0
    """How long a request is asked again of a store that is of no use: unreachable, silent, 5xx, too busy."""
    attempts_min: int = 6
    """So often at least, whatever time that takes; twice where nothing is heard. What time does not heal (an answer
    that contradicts itself) is asked so often and no more."""
    backoff_base_seconds: float = 0.1
    backoff_max_seconds: float = 5.0
    """Half of it, on average, is how late the end of an outage is noticed."""
    metadata_requests_max: int = 64
    read_requests_max: int = 32
    upload_requests_max: int = 32
    idle_connections_max: int = 64
    idle_connection_seconds: float = 50.0

    # the tree
    uid: int = field(default_factory=os.getuid)
    gid: int = field(default_factory=os.getgid)
    file_mode: int = 0o644
    dir_mode: int = 0o755
    umask: int = 0
    """Taken off `file_mode` and `dir_mode` of what is shown."""
    metadata_ttl_seconds: float = 5.0
    negative_ttl_seconds: float = 1.0
    walk_ttl_seconds: float = 60.0
    neighbour_ttl_seconds: float = 1.0
    """How long before its open a small file may have been fetched, when files are opened in the order of their names;
    0: none is. At most `metadata_ttl_seconds`."""
    neighbour_max_bytes: int = 512 * KIB
    """Larger files are not fetched before they are opened."""
    retry_memory_seconds: float = 2.0
    """How long a version that an open found answers the kernel's repetition of that open."""
    read_only: bool = False
    attributes: Literal["auto", "always", "never"] = "auto"
    """auto: special attributes are looked for where a flag says that there are some; always: a HEAD for each entry;
    never: none is read or stored."""
    attributes_remembered_max: int = 16_384
    """Versions whose attributes are remembered although the kernel has forgotten their inodes."""
    attribute_requests_ahead_max: int = 32
    """HEADs on their way before their names are looked up, over all directories that are read in order."""
    xattr: bool = False
    """With it the kernel asks for an extended attribute before every write(2)."""
    unlink: Literal["batch", "sync"] = "batch"
    rename_objects_max: int = 100_000
    """A directory with more objects below it is not renamed."""
    public_url: str | None = None
    """Where a CDN shows the bucket: `s3mount url` gives addresses below it."""
    listed_names_max: int = 500_000
    """Names held in listings of directories, over all directories; the least recently used listing goes first."""

    # the bytes
    cache_dir: Path | None = None
    """None: a directory of our own under $XDG_CACHE_HOME or /var/cache."""
    part_size_bytes: int = S3_PART_MIN_BYTES
    memory_limit_bytes: int | None = None
    """None: half of what the machine and our control groups allow, MEMORY_LEAST_BYTES to MEMORY_DEFAULT_MAX_BYTES."""
    staging_limit_bytes: int | None = None
    """None: a tenth of the free disk at start, at least 1 GiB and at most half of what is free."""
    cache_size_max_bytes: int = 0
    """Of blocks kept on disk; 0: none. They cost a first reading 0.3 CPU-s/GiB and 0.3 ms a small file (measured), all
    that is read is written to a disk, and it stays there when the mount is gone: who wants that says so."""
    segment_bytes: int = 64 * MIB
    block_bytes: int = 128 * KIB
    readahead_max_bytes: int = 128 * MIB
    """How far ahead of one reader is fetched, where so many connections pay; of all readers a quarter of the memory."""
    get_max_bytes: int = 8 * MIB
    file_size_max_bytes: int = TIB
    """A write or truncation beyond is EFBIG; parts grow so that as much fits into as many as the store takes."""
    copy_max_bytes: int = S3_COPY_MAX_BYTES
    """Larger objects are copied by parts."""
    file_parts_max: int = 8
    """Parts of one file sent at the same time."""
    parts_ahead_max: int = 16
    """Parts of all files sent at the same time while their programs still write."""
    parts_ahead_short_max: int = 4
    """The same while staging is short: the fewer share the link, the sooner one of them frees space."""
    checksum: bool = True

    # what a conflict does
    conflict: Literal["keep", "overwrite"] = "keep"
    """overwrite: the last writer wins, where all bytes are local."""
    conflict_keep_seconds: float = 30 * 86400.0
    conflict_zeros_max_bytes: int = 64 * MIB
    """Zeros in the place of bytes that are gone; a copy that would need more holds what lies between local bytes."""
    exclusive_create: Literal["close", "open"] = "close"
    """When O_CREAT|O_EXCL is decided across hosts."""

    # acknowledged before the bucket has it
    write_back: bool = False
    write_back_limit_bytes: int | None = None
    """Of what waits in the journal; None: as `staging_limit_bytes`."""
    write_back_files_max: int = 20_000
    """Changes that may wait; who makes more waits for the oldest."""
    write_back_delay_seconds: float = 1.0
    """How long a change is held, so that a file that is written again meanwhile is sent once."""
    write_back_sends_max: int = 16

    # what the store can do; "auto": found out
    equal_parts: Literal["auto", "yes", "no"] = "auto"
    """Whether all parts of an upload but the last must have one size."""
    part_copy: Literal["auto", "yes", "no"] = "auto"
    parts_max: int | None = None
    """None: found out; S3 takes 10,000."""

    # what uploads carry; None: nothing is sent
    storage_class: str | None = None
    sse: str | None = None
    """x-amz-server-side-encryption: AES256, aws:kms, aws:kms:dsse."""
    sse_kms_key_id: str | None = None
    sse_customer_key_file: Path | None = None
    """The file holds 32 bytes, or their base64."""
    acl: str | None = None
    tags: str | None = None
    """Of new objects, as name=value&name=value; existing ones keep theirs."""
    requester_pays: bool = False
    expected_bucket_owner: str | None = None

    # the mount
    allow_other: bool = False
    nonempty: bool = False
    mount_flags: tuple[str, ...] = ()
    """What mount(8) was told for the kernel: noexec, noatime, nodiratime, sync, dirsync."""
    requests_max: int = 2500
    """Of the kernel, being answered at once: when so many closes wait for their uploads nobody asks for more, be it for
    what memory could answer. Each that waits takes 22 KiB with its file (measured)."""
    worker_threads_max: int = 40
    """For boto3, checksums of large bodies and what the kernel is asked; the disks have threads of their own."""
    staging_threads_max: int = 8
    kernel_readahead_bytes: int = 1 * MIB
    kernel_background_max: int = 128
    stop_timeout_seconds: float = 60.0
    foreground: bool = False

    # the control socket
    control_connections_max: int = 64
    """When one more comes, that goes which has waited longest without asking anything."""
    control_line_max_bytes: int = 64 * KIB
    control_request_seconds: float = 5.0
    """For a client to say what it wants, and to take each line it is sent."""
    control_beat_seconds: float = 1.0
    """How often a client hears that its answer is being worked on."""

    # the log
    log_level: str = "info"
    log_file: Path | None = None
    log_format: Literal["text", "json"] = "text"

    # metrics and probes
    metrics_address: tuple[str, int] | None = None
    """Host and port; None: nobody listens."""
    metrics_connections_max: int = 32
    """When one more comes, that goes which has waited longest without asking anything."""
    metrics_request_seconds: float = 5.0
    """For a client to ask, and to take its answer."""
    metrics_fresh_seconds: float = 0.5
    """So long an answer waits for the loop; then it is made of what the loop said last."""
    healthy_seconds: float = 10.0
    """A loop that was not heard of for so long is stuck."""

    def __post_init__(self) -> None:
        if not self.bucket:
            raise UsageError("name the bucket: s3://BUCKET[/PREFIX]")
        assert not self.prefix or self.prefix.endswith("/")
        if not S3_PART_MIN_BYTES <= self.part_size_bytes <= S3_PART_MAX_BYTES:
            raise UsageError("--part-size must be from 5MiB, S3's minimum, to 5GiB, its maximum")
        if self.memory_bytes < MEMORY_LEAST_BYTES:
            raise UsageError("--memory-limit must be at least 64MiB")
        if self.staging_limit_bytes is not None and self.staging_limit_bytes < 4 * self.part_size_bytes:
            raise UsageError("--staging-limit must hold at least four parts: raise it or lower --part-size")
        if min(self.metadata_deadline_seconds, self.stall_timeout_seconds) <= 0:
            raise UsageError("--metadata-deadline and --stall-timeout must be longer than 0s")
        if min(self.metadata_ttl_seconds, self.negative_ttl_seconds, self.neighbour_ttl_seconds) < 0:
            raise UsageError("--metadata-ttl, --negative-ttl and --neighbour-ttl cannot be negative")
        if 0 < self.cache_size_max_bytes < CACHE_LEAST_BYTES:
            raise UsageError("--max-cache-size must be at least 16MiB, or 0 for none")
        if self.xattr and self.attributes == "never":
            raise UsageError("--xattr stores attributes and --attributes never stores none: choose one")
        if not self.part_size_bytes <= self.file_size_max_bytes <= S3_OBJECT_MAX_BYTES:
            raise UsageError("--max-file-size must be from one part to 5TiB, the largest object")
        if not S3_PART_MIN_BYTES <= self.copy_max_bytes <= S3_COPY_MAX_BYTES:
            raise UsageError("--copy-limit must be from 5MiB to 5GiB, what S3 copies in one request")
        if self.parts_max is not None and not 2 <= self.parts_max <= S3_PARTS_MAX:
            raise UsageError("--parts-max must be from 2 to 10000, what S3 takes")
        if self.parts_max is not None and self.file_size_max_bytes > self.parts_max * S3_PART_MAX_BYTES:
            raise UsageError("--max-file-size is more than so many parts of 5GiB hold: lower it or raise --parts-max")
        self._check_write_back()
        if self.sse_kms_key_id is not None and not (self.sse or "").startswith("aws:kms"):
            raise UsageError("--sse-kms-key-id goes with --sse aws:kms")
        if self.sse_customer_key_file is not None and self.sse is not None:
            raise UsageError("--sse and --sse-customer-key-file exclude each other: choose whose key it is")

    def _check_write_back(self) -> None:
        limit = self.write_back_limit_bytes
        if limit is not None and limit < 4 * self.part_size_bytes:
            raise UsageError("--write-back-limit must hold at least four parts: raise it or lower --part-size")
        if self.write_back_files_max < 1 or self.write_back_delay_seconds < 0:
            raise UsageError("--write-back-files must be at least 1, and --write-back-delay cannot be negative")
        if self.write_back and self.read_only:
            raise UsageError("--write-back is about changes and --read-only refuses them all: choose one")
        if self.write_back and self.exclusive_create == "open":
            raise UsageError("--exclusive-create open asks the bucket and --write-back does not wait: choose one")

    @property
    def gathers_unlinks(self) -> bool:
        """With write-back each deletion is a record, and the sender gathers them."""
        return self.unlink == "batch" and not self.write_back

    @property
    def staging_patience_seconds(self) -> float:
        """How long a writer waits while no space in staging is freed: as long as a part is sent again, before the store
        gives up."""
        return max(self.retry_seconds, self.metadata_deadline_seconds) + 2 * self.stall_timeout_seconds

    @property
    def source(self) -> str:
        """What `mount` and `df` show: s3://bucket/prefix."""
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    @property
    def memory_bytes(self) -> int:
        """`memory_limit_bytes`, which a start settles before it is used."""
        return MEMORY_DEFAULT_MAX_BYTES if self.memory_limit_bytes is None else self.memory_limit_bytes


def mebibytes(size: int) -> str:
    """A size for people who read of a limit: 512MiB."""
    return f"{size // MIB}MiB"
