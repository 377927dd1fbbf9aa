from __future__ import annotations

import httpx
import pytest

from entrepot.source.rate_limit import (
    MAX_PAUSE,
    RateLimit,
    RateLimits,
    read_rate_limit,
    read_retry_after,
)
from tests.source.conftest import Clock

NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (
            {"ratelimit-limit": "100;w=21600", "ratelimit-remaining": "76;w=21600"},
            RateLimit(100, 76, None, 21_600),
        ),
        (
            {"RateLimit-Limit": "100;w=21600", "RateLimit-Remaining": "0;w=21600"},
            RateLimit(100, 0, None, 21_600),
        ),
        ({"RATELIMITLIMIT": "100", "RATELIMITREMAINING": "5"}, RateLimit(100, 5, None)),
        (
            {
                "X-RateLimit-Limit": "5000",
                "X-RateLimit-Remaining": "4999",
                "X-RateLimit-Reset": "1800000060",
            },
            RateLimit(5000, 4999, NOW + 60),
        ),
        (
            {
                "RateLimit-Limit": "10, 10;w=60",
                "RateLimit-Remaining": " 9",
                "RateLimit-Reset": "30",
            },
            RateLimit(10, 9, NOW + 30, 60),
        ),
        ({"ratelimit-remaining": "7"}, RateLimit(None, 7, None)),
        ({"ratelimit-limit": "unlimited"}, None),
        ({"content-type": "text/plain"}, None),
    ],
)
def test_the_allowance_is_read_however_its_headers_are_written(
    headers: dict[str, str], expected: RateLimit | None
) -> None:
    assert read_rate_limit(headers, NOW) == expected
    assert read_rate_limit(httpx.Headers(headers), NOW) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("120", 120.0),
        (" 0 ", 0.0),
        ("Fri, 15 Jan 2027 08:00:30 GMT", 30.0),
        ("Fri, 15 Jan 2027 07:00:00 GMT", 0.0),
        ("1800000045", 45.0),
        ("soon", None),
        ("", None),
    ],
)
def test_retry_after_is_read_as_seconds_or_as_a_date(value: str, expected: float | None) -> None:
    assert read_retry_after(httpx.Headers({"Retry-After": value}), NOW) == expected


def test_without_retry_after_nothing_is_known() -> None:
    assert read_retry_after(httpx.Headers(), NOW) is None


def test_a_source_over_its_allowance_is_left_alone_until_it_said() -> None:
    clock = Clock(NOW)
    rate_limits = RateLimits(clock)
    rate_limits.record("docker.io", {"ratelimit-limit": "100", "ratelimit-remaining": "1"})
    rate_limits.record_exceeded("docker.io", "ann at docker.io", 20.0)
    assert rate_limits.remaining_pause("ann at docker.io") == 20.0
    assert rate_limits.remaining_pause("bob at docker.io") is None
    assert rate_limits.get("docker.io") == RateLimit(100, 0, NOW + 20)
    clock.now += 20.0
    assert rate_limits.remaining_pause("ann at docker.io") is None


def test_a_source_that_wants_hours_is_asked_again_after_minutes() -> None:
    rate_limits = RateLimits(Clock(NOW))
    rate_limits.record_exceeded("docker.io", "ann", 6 * 3600.0)
    assert rate_limits.remaining_pause("ann") == MAX_PAUSE
    assert rate_limits.get("docker.io").resets == NOW + 6 * 3600.0


def test_a_source_that_does_not_say_how_long_is_asked_again_at_once() -> None:
    rate_limits = RateLimits(Clock(NOW))
    rate_limits.record_exceeded("docker.io", "ann", None)
    assert rate_limits.remaining_pause("ann") is None
    assert rate_limits.get("docker.io").remaining == 0


@pytest.mark.parametrize("jump", [-86_400.0, -3_600.0, 3_600.0, 86_400.0])
def test_a_wall_clock_that_is_set_neither_prolongs_nor_ends_a_pause(jump: float) -> None:
    """S14, F69: a pause of 30 s was 3,630 after the clock had been set back by an hour."""
    clock, wall_clock = Clock(50.0), Clock(NOW)
    rate_limits = RateLimits(clock, wall_clock)
    rate_limits.record(
        "docker.io",
        {"ratelimit-limit": "100", "ratelimit-remaining": "1", "ratelimit-reset": "600"},
    )
    rate_limits.record_exceeded("docker.io", "ann", 30.0)
    wall_clock.now += jump
    assert rate_limits.remaining_pause("ann") == 30.0
    assert rate_limits.get("docker.io").resets == wall_clock.now + 30, (
        "what is shown is told by the clock as it stands"
    )
    clock.now += 29
    assert rate_limits.remaining_pause("ann") == 1.0
    clock.now += 2
    assert rate_limits.remaining_pause("ann") is None


def test_a_reset_that_a_source_names_as_a_time_is_a_span_from_when_it_was_told() -> None:
    """S14, F69."""
    clock, wall_clock = Clock(50.0), Clock(NOW)
    rate_limits = RateLimits(clock, wall_clock)
    rate_limits.record(
        "docker.io", {"ratelimit-remaining": "1", "ratelimit-reset": str(int(NOW) + 600)}
    )
    wall_clock.now -= 7_200
    clock.now += 100
    assert rate_limits.get("docker.io").resets == wall_clock.now + 500


@pytest.mark.parametrize(
    "value",
    [
        "9" * 5_000,
        "1" * 16,
        "Fri, 15 Jan 9999999 08:00:01 GMT",
        "Fri, 15 Jan 2027 08:00:01 +99999999",
        "٣",
        "-1",
        "\x00",
        "Mon, 1 Jan 0001 00:00:00 -9999",
    ],
)
def test_absurd_numbers_and_dates_ask_for_no_pause(value: str) -> None:
    """S02, S25: more digits than Python reads, and dates beyond its calendar."""
    assert read_retry_after(httpx.Headers([(b"Retry-After", value.encode())]), NOW) in {None, 0.0}
    assert read_rate_limit({"ratelimit-limit": value, "ratelimit-remaining": value}, NOW) is None


@pytest.mark.parametrize("value", ["999999999999999", "999999999", "Fri, 31 Dec 9999 08:00:01 GMT"])
def test_a_time_beyond_a_year_is_none_that_could_be_shown(value: str) -> None:
    """S02, F67: the dashboard shows when an allowance is counted anew, and no clock has the year
    31,000,000."""
    assert read_retry_after({"retry-after": value}, NOW) == 366 * 86_400
    allowance = read_rate_limit({"ratelimit-remaining": "1", "ratelimit-reset": value}, NOW)
    assert allowance == RateLimit(None, 1, None)
