"""The figures of `s3mount status` as families of metrics in the names that Prometheus asks for. Pure.

Labels are words of ours (operations, statuses, outcomes, errnos, names of caches): their number is bounded, and no
path, key or secret is among them. A figure that is missing is left out.
"""

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from s3mount.metrics.snapshots import Snapshot
from s3mount.metrics.tables import CACHES, FIGURES

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def text(snapshot: Snapshot, *, heartbeat_age_seconds: float, snapshot_age_seconds: float) -> bytes:
    """The page that Prometheus reads."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Families(snapshot, heartbeat_age_seconds, snapshot_age_seconds))
    ProcessCollector(registry=registry)
    return generate_latest(registry)


class Families(Collector):
    """All families of one snapshot."""

    def __init__(self, snapshot: Snapshot, heartbeat_age_seconds: float, snapshot_age_seconds: float) -> None:
        self._figures = snapshot.figures
        self._ages = heartbeat_age_seconds, snapshot_age_seconds

    def collect(self) -> Iterator[Metric]:
        heartbeat, snapshot = self._ages
        yield _gauge("s3mount_loop_heartbeat_age_seconds", "Since the event loop was last heard of", heartbeat)
        yield _gauge("s3mount_snapshot_age_seconds", "Since the other figures were gathered", snapshot)
        figures = self._figures
        mount = _table(figures, "mount")
        if mount:
            names = ("version", "source", "mountpoint")
            info = GaugeMetricFamily("s3mount_info", "What is mounted where", labels=names)
            info.add_metric([str(mount.get(name)) for name in names], 1)
            yield info
        for figure in FIGURES:
            value = _number(figures, figure.place)
            if value is not None:
                kind = CounterMetricFamily if figure.counts else GaugeMetricFamily
                yield kind(figure.name, figure.help, value=value)
        store = _table(figures, "store")
        if store:
            outage = _number(store, ("outage", "since_seconds")) or 0.0
            yield _gauge("s3mount_store_outage_seconds", "How long the store is of no use; 0 while it is", outage)
        yield from _caches(figures)
        yield from _requests(store)
        yield from _operations(_table(figures, "operations"))
        yield from _troubles(_table(figures, "troubles"))


def _caches(figures: Mapping[str, object]) -> Iterator[Metric]:
    hits = CounterMetricFamily("s3mount_cache_hits", "What a cache could answer", labels=["cache"])
    misses = CounterMetricFamily("s3mount_cache_misses", "What it could not", labels=["cache"])
    for name, place in CACHES.items():
        for family, word in ((hits, "hits"), (misses, "misses")):
            value = _number(figures, (*place, word))
            if value is not None:
                family.add_metric([name], value)
    yield hits
    yield misses


def _requests(store: Mapping[str, object]) -> Iterator[Metric]:
    requests = CounterMetricFamily(
        "s3mount_requests",
        "Attempts at requests to the store; status 0: there was no reply",
        labels=["operation", "status", "outcome"],
    )
    answers = store.get("answers")
    for answer in answers if isinstance(answers, list) else ():
        requests.add_metric([str(answer[name]) for name in ("operation", "status", "outcome")], answer["count"])
    yield requests
    seconds = HistogramMetricFamily("s3mount_request_seconds", "How long an attempt took", labels=["operation"])
    for name, times in _table(store, "seconds").items():
        assert isinstance(times, Mapping)
        buckets, below = [], 0
        for end, count in times["classes"].items():
            below += count
            buckets.append((end, float(below)))
        seconds.add_metric([name], buckets, times["total"])
    yield seconds


def _operations(operations: Mapping[str, object]) -> Iterator[Metric]:
    count = CounterMetricFamily("s3mount_fuse_requests", "Requests of the kernel answered", labels=["operation"])
    seconds = CounterMetricFamily("s3mount_fuse_seconds", "What answering them took in sum", labels=["operation"])
    errors = CounterMetricFamily("s3mount_fuse_errors", "Those answered by an errno", labels=["operation", "errno"])
    for name, told in operations.items():
        assert isinstance(told, Mapping)
        count.add_metric([name], told["count"])
        seconds.add_metric([name], told["seconds"])
        for word, times in told["errors"].items():
            errors.add_metric([name, word], times)
    yield count
    yield seconds
    yield errors


def _troubles(troubles: Mapping[str, object]) -> Iterator[Metric]:
    lines = CounterMetricFamily("s3mount_log_lines", "Warnings and errors in the log", labels=["level"])
    for level, name in (("error", "errors"), ("warning", "warnings")):
        value = _number(troubles, (name,))
        if value is not None:
            lines.add_metric([level], value)
    yield lines


def _gauge(name: str, words: str, value: float) -> Metric:
    return GaugeMetricFamily(name, words, value=value)


def _table(figures: Mapping[str, object], name: str) -> Mapping[str, object]:
    found = figures.get(name)
    return found if isinstance(found, Mapping) else {}


def _number(figures: Mapping[str, object], place: tuple[str, ...]) -> float | None:
    """The figure at a path of names; of a list its length."""
    found: object = figures
    for name in place:
        if not isinstance(found, Mapping):
            return None
        found = found.get(name)
    if isinstance(found, (bool, int, float)):
        return float(found)
    return float(len(found)) if isinstance(found, list) else None
