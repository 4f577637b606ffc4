"""A log record taken apart: the words of the fact, its key=value pairs, the exception it is about. Pure.

Lines are written as `words key=%s other=%d`: the template tells which argument is which, whatever is in them.
"""

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_PLACE = re.compile(r"(?:(?P<name>[a-z_]+)=)?(?P<how>%[-#0 +]*\d*(?:\.\d+)?[a-zA-Z%])")


@dataclass(frozen=True, slots=True)
class Fact:
    """What one record says."""

    words: str
    fields: dict[str, object] = field(default_factory=dict)
    error: BaseException | None = None


def fact_of(record: logging.LogRecord) -> Fact:
    """The fact of a record; of one that is not written in our way the words are all there is."""
    arguments = record.args if isinstance(record.args, tuple) else ()
    template = str(record.msg)
    places = list(_PLACE.finditer(template)) if arguments else []
    error = next((argument for argument in arguments if isinstance(argument, BaseException)), None)
    if error is None and record.exc_info:
        error = record.exc_info[1]
    foreign = bool(record.args) and not arguments
    if foreign or [place["how"] == "%%" for place in places].count(False) != len(arguments):
        return Fact(" ".join(record.getMessage().split()), {}, error)
    words: list[str] = []
    fields: dict[str, object] = {}
    left, position = iter(arguments), 0
    for place in places:
        words.append(template[position : place.start()])
        position = place.end()
        words += _take(place, left, fields)
    words.append(template[position:])
    return Fact(" ".join("".join(words).split()).rstrip(":"), fields, error)


def _take(place: "re.Match[str]", left: Iterator[object], fields: dict[str, object]) -> list[str]:
    """Move the arguments of one place into the fields; what of them belongs into the words."""
    how = place["how"]
    if how == "%%":
        return [f"{place['name']}=%"] if place["name"] else ["%"]
    value = next(left)
    if place["name"] is None:
        return [how % value]
    if isinstance(value, (bool, int)) or value is None:
        fields[place["name"]] = value
    elif isinstance(value, float):
        fields[place["name"]] = float(how % value) if how[-1] in "fg" else value
    else:
        fields[place["name"]] = str(value)
    return []
