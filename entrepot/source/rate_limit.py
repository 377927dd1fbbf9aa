"""Rate limits of source registries, as responses state them, and pauses after 429.

Docker Hub sends ``ratelimit-limit: 100;w=21600`` and ``ratelimit-remaining: 76;w=21600`` with
manifests (``w`` is the window in seconds); it counts GETs of manifests, not HEADs. Others write
``X-RateLimit-…`` or ``RateLimit-Reset``; with a 429 most send ``Retry-After``, in seconds or as a
date (RFC 9110, section 10.2.3).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC
from email.utils import parsedate_to_datetime

MAX_PAUSE = 300.0
"""Seconds after which a source that answered 429 is asked again, however long it asks to wait: a
rate limit may be raised, or a larger one be bought, meanwhile."""

MAX_RETRY_AFTER = 366 * 24 * 3600.0
"""The longest time that a source may name, in seconds: no clock shows a date beyond it."""

_EPOCH_FROM = 1_000_000_000
"""A number of seconds from here on (September 2001) is a time and not a duration: Docker Hub and
GitHub send such ones."""

HEADER_LENGTH = 256
"""Characters of a header that are read: a number with its window, or a date."""

_WINDOW = re.compile(r";[ \t]{0,8}w=([0-9]{1,9})(?![0-9])")
_NUMBER = re.compile(r"[ \t]{0,8}([0-9]{1,15})(?![0-9])")


@dataclass(frozen=True, slots=True)
class RateLimit:
    """How many more manifests a source registry lets us pull; None: it does not say.

    *resets* is in seconds since the epoch; *window* is the seconds in which they are counted.
    """

    limit: int | None = None
    remaining: int | None = None
    resets: float | None = None
    window: float | None = None


def read_rate_limit(headers: Mapping[str, str], now: float) -> RateLimit | None:
    """The rate limit that a response states; *now* is in seconds since the epoch."""
    fields = {
        name.lower().replace("-", "").removeprefix("x"): value[:HEADER_LENGTH]
        for name, value in headers.items()
    }
    limit, remaining, reset = (
        _number(fields.get(f"ratelimit{name}")) for name in ("limit", "remaining", "reset")
    )
    if limit is None and remaining is None:
        return None
    window = next(
        (
            float(match[1])
            for name in ("limit", "remaining")
            if (match := _WINDOW.search(fields.get(f"ratelimit{name}", "")))
        ),
        None,
    )
    resets = None if reset is None else float(reset) if reset >= _EPOCH_FROM else now + reset
    if resets is not None and resets - now > MAX_RETRY_AFTER:
        resets = None
    return RateLimit(limit, remaining, resets, window)


def read_retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """The seconds that a response asks to wait, if it does; a year at the most."""
    value = headers.get("retry-after")
    if value is None:
        return None
    value = value[:HEADER_LENGTH]
    if (number := _number(value)) is not None:
        return min(
            MAX_RETRY_AFTER, max(0.0, number - now) if number >= _EPOCH_FROM else float(number)
        )
    try:
        until = parsedate_to_datetime(value)
        return min(
            MAX_RETRY_AFTER,
            max(0.0, (until if until.tzinfo else until.replace(tzinfo=UTC)).timestamp() - now),
        )
    except (ValueError, OverflowError, TypeError):
        return None


def _number(value: str | None) -> int | None:
    number = _NUMBER.match(value) if value is not None else None
    return int(number[1]) if number else None


@dataclass(frozen=True, slots=True)
class _Recorded:
    rate_limit: RateLimit
    resets: float | None
    """On the monotonic clock."""


class RateLimits:
    """The last stated rate limits of all source registries, and those that are paused.

    The caller chooses the keys by what a rate limit belongs to. *clock* is monotonic, *wall_clock*
    since the epoch, both in seconds: what is remembered are spans, so a wall clock that is set back
    or forward neither prolongs nor ends a pause (S14, F69).
    """

    def __init__(
        self, clock: Callable[[], float], wall_clock: Callable[[], float] | None = None
    ) -> None:
        self._clock = clock
        self._wall_clock = wall_clock if wall_clock is not None else clock
        self._recorded: dict[Hashable, _Recorded] = {}
        self._pauses: dict[Hashable, float] = {}

    def record(self, key: Hashable, headers: Mapping[str, str]) -> None:
        """Remember the rate limit that a response states."""
        now = self._wall_clock()
        rate_limit = read_rate_limit(headers, now)
        if rate_limit is not None:
            span = None if rate_limit.resets is None else rate_limit.resets - now
            self._recorded[key] = _Recorded(
                rate_limit, None if span is None else self._clock() + span
            )

    def record_exceeded(
        self, key: Hashable, pause_key: Hashable, retry_after: float | None
    ) -> None:
        """Remember that a source answered 429.

        With *retry_after*, in seconds, *pause_key* is paused for that time.
        """
        recorded = self._recorded.get(key, _Recorded(RateLimit(), None))
        resets = recorded.resets
        if retry_after is not None:
            now = self._clock()
            self._pauses[pause_key] = now + min(retry_after, MAX_PAUSE)
            resets = now + retry_after
        self._recorded[key] = _Recorded(replace(recorded.rate_limit, remaining=0), resets)

    def remaining_pause(self, pause_key: Hashable) -> float | None:
        """Seconds until a paused key may be asked for again; None when it is not paused."""
        until = self._pauses.get(pause_key)
        if until is None:
            return None
        remaining = until - self._clock()
        if remaining > 0:
            return remaining
        del self._pauses[pause_key]
        return None

    def get(self, key: Hashable) -> RateLimit:
        """The last stated rate limit; an empty one where none was stated.

        Its reset is on the wall clock as it stands now.
        """
        recorded = self._recorded.get(key)
        if recorded is None:
            return RateLimit()
        resets = (
            None
            if recorded.resets is None
            else self._wall_clock() + (recorded.resets - self._clock())
        )
        return replace(recorded.rate_limit, resets=resets)
