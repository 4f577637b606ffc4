"""When a mount is healthy, and when it is ready to be used: reasons in words, [] when it is. Pure.

Healthy: its loop runs; what restarts an unhealthy mount shall not do so because a store is down. Ready: mounted, not
stopping, and the store answers.
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
    ready_seconds: float,
) -> list[str]:
    """Why nothing should be sent to the mount now."""
    reasons = unhealthy(life, heartbeat_age_seconds, healthy_seconds=healthy_seconds)
    if life != "serving":
        reasons.append(f"the mount is {life}")
    store = figures.get("store")
    if isinstance(store, Mapping):
        answered, failed = store.get("last_answer_seconds"), store.get("last_failure_seconds")
        if isinstance(failed, float) and failed < ready_seconds and (answered is None or failed < answered):
            reasons.append(f"the store failed to answer its last request, {failed:.0f} s ago")
    return reasons
