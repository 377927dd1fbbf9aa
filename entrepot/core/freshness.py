"""Tag lifetimes: how long a tag's digest is trusted. Pure: no I/O.

Then the source is asked again. ``freshness`` in options and documents: ``always`` asks each time,
``never`` never again. ACR has no such property, and notices a moved tag after five minutes at most.
Here a cache rule may have its own; ``settings.toml`` has that of all others.
"""

from __future__ import annotations

import math
import re
from typing import Final

from entrepot.core.reference import quoted
from entrepot.errors import Refusal

ALWAYS: Final = 0.0
"""The source is asked each time."""

NEVER: Final = math.inf
"""The source is never asked about a cached tag."""

LONGEST: Final = 365 * 24 * 3600.0
"""The longest tag lifetime but `NEVER`, in seconds."""

_UNITS = {"s": 1, "sec": 1, "min": 60, "m": 60, "h": 3600, "d": 86_400}
_INTERVAL = re.compile(r"(?P<number>[0-9]{1,12}(?:\.[0-9]{1,6})?)\s*(?P<unit>[a-z]*)", re.ASCII)
_HINT = (
    'Write "always", "never", or an interval: a number of seconds, "30 s", "10 min", "6 h" '
    'or "1 d".'
)


class FreshnessInvalid(Refusal):
    """A tag lifetime is neither ``always`` nor ``never`` nor an interval."""

    code = "FreshnessInvalid"


def parse_freshness(value: str | float, *, field: str = "freshness") -> float:
    """A tag lifetime in seconds, from what a person writes.

    That is ``"always"``, ``"never"``, ``"10 min"``, ``"1 h"``, or a number of seconds. Raises
    `FreshnessInvalid` for *field*.
    """
    if isinstance(value, str):
        text = value.strip().lower()
        if text in {"always", "never"}:
            return ALWAYS if text == "always" else NEVER
        interval = _INTERVAL.fullmatch(text)
        if interval is None or (interval["unit"] and interval["unit"] not in _UNITS):
            raise FreshnessInvalid(
                f"{quoted(value)} is not a tag lifetime (freshness).", _HINT, field=field
            )
        seconds = float(interval["number"]) * _UNITS.get(interval["unit"], 1)
    else:
        seconds = float(value)
    if not 0 <= seconds <= LONGEST:
        raise FreshnessInvalid(
            f"{quoted(str(value))} is not a possible tag lifetime: that lies between 0 and 365 "
            "days.",
            'Write "never" for a tag that is not to be checked again.',
            field=field,
        )
    return seconds


def parse_optional_freshness(
    value: str | float | None, *, field: str = "freshness"
) -> float | None:
    """The same for a value that may be left out.

    None, an empty text and ``"default"`` stand for the tag lifetime of the settings, and give None.
    """
    if value is None or (isinstance(value, str) and value.strip().lower() in {"", "default"}):
        return None
    return parse_freshness(value, field=field)


def freshness_text(seconds: float) -> str:
    """A tag lifetime as text: ``always``, ``never``, or an interval.

    `parse_freshness` reads it back. The interval has the largest unit that fits it: ``10 min``.
    """
    if seconds in {ALWAYS, NEVER}:
        return "always" if seconds == ALWAYS else "never"
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds % length == 0:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.6f}".rstrip("0").rstrip(".") + " s"
