"""Tells the tasks that do what a program was answered already: nobody waits for them, and a failure would undo it."""

from contextvars import Context, ContextVar

_acknowledged: ContextVar[bool] = ContextVar("acknowledged", default=False)


def acknowledge() -> None:
    """From now on this task, and those that it starts, do what was answered already."""
    _acknowledged.set(True)


def is_acknowledged(context: Context | None = None) -> bool:
    """Whether a task does, told by its context; this task."""
    return _acknowledged.get() if context is None else context.get(_acknowledged, False)
