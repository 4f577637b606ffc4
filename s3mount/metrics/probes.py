"""When a mount is healthy, and when it is ready to be used: reasons in words, [] when it is. Pure.

Healthy: its loop runs; what restarts an unhealthy mount shall not do so because a store is down. Ready: mounted, not
stopping, and no outage of the store is known.
"""

from collections.abc import Mapping

LIVES_WATCHED = ("serving", "stopping")
"""Before and after these nobody beats the heart: a start that hangs ends by its own deadlines, and an end does."""


def unhealthy(life: str, heartbeat_age_seconds: float, *, healthy_seconds: float) -> list[str]:
    """Why the mount should be restarted."""
    if life in LIVES_WATCHED and heartbeat_age_seconds >= healthy_seconds:
        return [f"the event loop was not heard of for {heartbeat_age_seconds:.0f} s"]
    return []


def unready(
    life: str,
    heartbeat_age_seconds: float,
    figures: Mapping[str, object],
    *,
    healthy_seconds: float,
) -> list[str]:
    """Why nothing should be sent to the mount now."""
    reasons = unhealthy(life, heartbeat_age_seconds, healthy_seconds=healthy_seconds)
    if life != "serving":
        reasons.append(f"the mount is {life}")
    store = figures.get("store")
    outage = store.get("outage") if isinstance(store, Mapping) else None
    if isinstance(outage, Mapping):
        reasons.append(f"the store has not been reached for {outage.get('since_seconds')} s: {outage.get('reason')}")
    return reasons
