"""How long a tag is believed before its source is asked again: always asked, an interval, or never
asked again. Pure: no I/O.

ACR has no such property, and notices a moved tag after five minutes at most. Here a cache rule may
have a freshness of its own; ``settings.toml`` has that of all others.
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
"""A tag that is held is never checked."""

LONGEST: Final = 365 * 24 * 3600.0
"""The longest interval, in seconds."""

_UNITS = {"s": 1, "sec": 1, "min": 60, "m": 60, "h": 3600, "d": 86_400}
_INTERVAL = re.compile(r"(?P<number>[0-9]{1,12}(?:\.[0-9]{1,6})?)\s*(?P<unit>[a-z]*)", re.ASCII)
_HINT = 'Write "always", "never", or an interval: a number of seconds, "30 s", "10 min", "6 h" or "1 d".'


class FreshnessInvalid(Refusal):
    """A freshness is neither ``always`` nor ``never`` nor an interval."""

    code = "FreshnessInvalid"


def parse_freshness(value: str | float, *, field: str = "freshness") -> float:
    """Seconds from what a person writes: ``"always"``, ``"never"``, ``"10 min"``, ``"1 h"``, or a
    number of seconds; raises `FreshnessInvalid` for *field*."""
    if isinstance(value, str):
        written = value.strip().lower()
        if written in {"always", "never"}:
            return ALWAYS if written == "always" else NEVER
        found = _INTERVAL.fullmatch(written)
        if found is None or (found["unit"] and found["unit"] not in _UNITS):
            raise FreshnessInvalid(f"{quoted(value)} is not a freshness.", _HINT, field=field)
        seconds = float(found["number"]) * _UNITS.get(found["unit"], 1)
    else:
        seconds = float(value)
    if not 0 <= seconds <= LONGEST:
        raise FreshnessInvalid(
            f"{quoted(str(value))} is no freshness that could be used: it lies between 0 and 365 days.",
            'Write "never" for a tag that is not to be checked again.',
            field=field,
        )
    return seconds


def parse_optional_freshness(
    value: str | float | None, *, field: str = "freshness"
) -> float | None:
    """The same where it may be left out: None, an empty text and ``"default"`` stand for the
    freshness of the settings, and give None."""
    if value is None or (isinstance(value, str) and value.strip().lower() in {"", "default"}):
        return None
    return parse_freshness(value, field=field)


def freshness_text(seconds: float) -> str:
    """What `parse_freshness` reads back as the same: ``always``, ``never``, or the interval in the
    largest unit that fits it, such as ``10 min``."""
    if seconds in {ALWAYS, NEVER}:
        return "always" if seconds == ALWAYS else "never"
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds % length == 0:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.6f}".rstrip("0").rstrip(".") + " s"
