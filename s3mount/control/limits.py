"""What `s3mount status` shows of limits: how much each allows, what is used of it now and was at most, what changes it.

A limit that no option changes names none. "limit" None: nothing of ours limits it, the kernel does. Asks nobody but
/proc; no state.
"""

import os
import resource
from pathlib import Path
from typing import Protocol

import trio

from s3mount.config import Config
from s3mount.data.chunks import CHUNK_BYTES
from s3mount.data.storage import Storage
from s3mount.underway import UnderWay
from s3mount.vfs.filesystem import FileSystem

PROC_SELF = Path("/proc/self")

Figures = dict[str, object]


class Connections(Protocol):
    """A store that tells how many requests of each kind are under way."""

    @property
    def connections(self) -> dict[str, dict[str, object]]:
        """limit, used, most."""


def figures(
    config: Config,
    filesystem: FileSystem,
    storage: Storage,
    store: Connections,
    under_way: UnderWay,
    *,
    staging_threads: trio.CapacityLimiter,
) -> dict[str, Figures]:
    """Each limit by name."""
    return {
        **_space(config, storage),
        **_threads(staging_threads),
        **{f"{kind}_requests": figures for kind, figures in store.connections.items()},
        "kernel_requests": {"limit": config.requests_max, "used": len(under_way), "most": under_way.most},
        "open_files": _open_files(),
        **_names(config, filesystem),
        "control_connections": {"limit": config.control_connections_max},
        "deadlines": deadlines(config),
    }


def _space(config: Config, storage: Storage) -> dict[str, Figures]:
    buffers, budget = storage.buffers, storage.budget
    return {
        "memory": {
            "limit_bytes": config.memory_bytes,
            "used_bytes": buffers.used_bytes + buffers.idle_bytes,
            "most_bytes": buffers.most_bytes,
            **_resident(),
            "option": "--memory-limit",
        },
        "unsent_in_memory": {
            "limit_bytes": config.memory_bytes // 4,
            "used_bytes": storage.staging.chunks_in_memory * CHUNK_BYTES,
            "option": "--memory-limit",
        },
        "staging": {
            "limit_bytes": budget.limit_bytes,
            "used_bytes": budget.live_bytes,
            "most_bytes": budget.most_bytes,
            "option": "--staging-limit",
        },
        "cache_on_disk": {
            "limit_bytes": config.cache_size_max_bytes,
            "used_bytes": storage.cached_on_disk_bytes,
            "option": "--max-cache-size",
        },
    }


def _threads(staging: trio.CapacityLimiter) -> dict[str, Figures]:
    return {
        name: {"limit": limiter.total_tokens, "used": limiter.borrowed_tokens}
        for name, limiter in (
            ("worker_threads", trio.to_thread.current_default_thread_limiter()),
            ("staging_threads", staging),
        )
    }


def _names(config: Config, filesystem: FileSystem) -> dict[str, Figures]:
    used = filesystem.counts
    return {
        "handles": {"limit": None, "used": used["handles"]},
        "inodes": {"limit": None, "used": used["inodes"]},
        "listed_names": {"limit": config.listed_names_max, "used": used["listed_names"]},
        "attributes_remembered": {
            "limit": config.attributes_remembered_max,
            "used": used["attributes_remembered"],
        },
    }


def deadlines(config: Config) -> Figures:
    """How long each kind of thing may take."""
    return {
        "connect_seconds": config.connect_timeout_seconds,
        "metadata_request_seconds": config.metadata_deadline_seconds,
        "stalled_transfer_seconds": config.stall_timeout_seconds,
        "retry_seconds": config.retry_seconds,
        "full_staging_seconds": config.staging_patience_seconds,
        "stop_seconds": config.stop_timeout_seconds,
        "control_request_seconds": config.control_request_seconds,
        "option": "--metadata-deadline, --stall-timeout, --retry-timeout, --stop-timeout",
    }


def _open_files() -> Figures:
    """What the process has open: connections, segments of staging, pieces of the cache, logs."""
    try:
        used: int | None = len(os.listdir(PROC_SELF / "fd")) - 1  # the listing itself
    except OSError:
        used = None
    return {"limit": resource.getrlimit(resource.RLIMIT_NOFILE)[0], "used": used}


def _resident() -> Figures:
    """What the process has of the machine's memory, now and at most; it is more than what `--memory-limit` counts."""
    names = {"VmRSS": "resident_bytes", "VmHWM": "resident_most_bytes"}
    try:
        lines = (PROC_SELF / "status").read_text().splitlines()
    except OSError:
        return {}
    found = {name: rest for name, _, rest in (line.partition(":") for line in lines) if name in names}
    return {names[name]: int(rest.split()[0]) * 1024 for name, rest in sorted(found.items(), reverse=True)}
