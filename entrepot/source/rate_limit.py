"""What a source registry still lets us pull, as its answers tell it, and when to stop asking.

Docker Hub sends ``ratelimit-limit: 100;w=21600`` and ``ratelimit-remaining: 76;w=21600`` with
manifests (``w`` is the window in seconds); it counts GETs of manifests, not HEADs. Others write
``X-RateLimit-…`` or ``RateLimit-Reset``; with a 429 most say ``Retry-After``, in seconds or as a
date (RFC 9110, 10.2.3).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC
from email.utils import parsedate_to_datetime

LONGEST_PAUSE = 300.0
"""Seconds after which a source that said 429 is asked again, however long it wants us to wait: an
allowance may be raised, or another be bought, meanwhile."""

LONGEST_TOLD = 366 * 24 * 3600.0
"""The longest time that a source is believed to mean, in seconds: what lies beyond is no date on
which anything could be shown."""

_EPOCH_FROM = 1_000_000_000
"""A number of seconds from here on (September 2001) is a time and not a duration: Docker Hub and
GitHub send such ones."""

HEADER_LENGTH = 256
"""Characters of a header that are looked at: a number with its window, or a date."""

_WINDOW = re.compile(r";[ \t]{0,8}w=([0-9]{1,9})(?![0-9])")
_NUMBER = re.compile(r"[ \t]{0,8}([0-9]{1,15})(?![0-9])")


@dataclass(frozen=True, slots=True)
class RateLimit:
    """How many more manifests a source registry gives us. *resets* is in seconds since the epoch;
    *window* the seconds in which they are counted."""

    limit: int | None = None
    remaining: int | None = None
    resets: float | None = None
    window: float | None = None


def read_rate_limit(headers: Mapping[str, str], now: float) -> RateLimit | None:
    """The allowance that an answer tells of, if it does. *now* is in seconds since the epoch."""
    told = {
        name.lower().replace("-", "").removeprefix("x"): value[:HEADER_LENGTH]
        for name, value in headers.items()
    }
    limit, remaining, reset = (
        _number(told.get(f"ratelimit{what}")) for what in ("limit", "remaining", "reset")
    )
    if limit is None and remaining is None:
        return None
    window = next(
        (
            float(found[1])
            for what in ("limit", "remaining")
            if (found := _WINDOW.search(told.get(f"ratelimit{what}", "")))
        ),
        None,
    )
    resets = None if reset is None else float(reset) if reset >= _EPOCH_FROM else now + reset
    return RateLimit(
        limit, remaining, None if resets is None or resets - now > LONGEST_TOLD else resets, window
    )


def read_retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """The seconds that an answer asks us to wait, if it does; a year at the most."""
    value = headers.get("retry-after")
    if value is None:
        return None
    value = value[:HEADER_LENGTH]
    if (number := _number(value)) is not None:
        return min(LONGEST_TOLD, max(0.0, number - now) if number >= _EPOCH_FROM else float(number))
    try:
        until = parsedate_to_datetime(value)
        return min(
            LONGEST_TOLD,
            max(0.0, (until if until.tzinfo else until.replace(tzinfo=UTC)).timestamp() - now),
        )
    except (ValueError, OverflowError, TypeError):
        return None


def _number(value: str | None) -> int | None:
    found = _NUMBER.match(value) if value is not None else None
    return int(found[1]) if found else None


@dataclass(frozen=True, slots=True)
class _Told:
    allowance: RateLimit
    resets: float | None
    """On the monotonic clock."""


class RateLimits:
    """What all source registries last told of their allowance, and which of them are not to be
    asked for now.

    The keys are whatever an allowance belongs to. *clock* is monotonic, *wall_clock* since the
    epoch, both in seconds: what is remembered are spans, so a wall clock that is set back or
    forward neither prolongs nor ends a pause (S14, F69).
    """

    def __init__(
        self, clock: Callable[[], float], wall_clock: Callable[[], float] | None = None
    ) -> None:
        self._clock = clock
        self._wall_clock = wall_clock if wall_clock is not None else clock
        self._told: dict[Hashable, _Told] = {}
        self._pauses: dict[Hashable, float] = {}

    def note(self, key: Hashable, headers: Mapping[str, str]) -> None:
        """Remember what an answer tells."""
        now = self._wall_clock()
        allowance = read_rate_limit(headers, now)
        if allowance is not None:
            span = None if allowance.resets is None else allowance.resets - now
            self._told[key] = _Told(allowance, None if span is None else self._clock() + span)

    def exceeded(self, key: Hashable, pause_key: Hashable, retry_after: float | None) -> None:
        """Remember that a source said 429. With *retry_after*, what belongs to *pause_key* is not
        asked for until then."""
        told = self._told.get(key, _Told(RateLimit(), None))
        resets = told.resets
        if retry_after is not None:
            now = self._clock()
            self._pauses[pause_key] = now + min(retry_after, LONGEST_PAUSE)
            resets = now + retry_after
        self._told[key] = _Told(replace(told.allowance, remaining=0), resets)

    def pause_left(self, pause_key: Hashable) -> float | None:
        """Seconds until it may be asked for again; None when it may now."""
        until = self._pauses.get(pause_key)
        if until is None:
            return None
        left = until - self._clock()
        if left > 0:
            return left
        del self._pauses[pause_key]
        return None

    def get(self, key: Hashable) -> RateLimit:
        """What was last told; nothing when nothing was. Its reset is on the wall clock as it stands
        now."""
        told = self._told.get(key)
        if told is None:
            return RateLimit()
        resets = None if told.resets is None else self._wall_clock() + (told.resets - self._clock())
        return replace(told.allowance, resets=resets)
