"""What a tag lifetime means, and what it costs at Docker Hub."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT, ALWAYS, NEVER, INTERVAL = "default", "always", "never", "interval"


@dataclass(frozen=True, slots=True)
class FreshnessChoice:
    """A choice of tag lifetime."""

    id: str
    title: str
    short: str
    why: str


def freshness_choices(default: str) -> tuple[FreshnessChoice, ...]:
    """The choices; *default* is the tag lifetime of the settings."""
    return (
        FreshnessChoice(
            DEFAULT,
            "the default",
            _now(default),
            f"{_meaning(default)} It follows settings.toml.\n{_cost(default)}",
        ),
        FreshnessChoice(
            ALWAYS,
            "ask each time",
            "a moved tag is noticed at once",
            f"{_meaning(ALWAYS)}\n{_cost(ALWAYS)}",
        ),
        FreshnessChoice(
            NEVER,
            "never ask again",
            "a tag never changes here",
            f"{_meaning(NEVER)}\n{_cost(NEVER)}",
        ),
        FreshnessChoice(
            INTERVAL,
            "ask after a time",
            "a time of your own",
            f"Write a number with s, min, h or d, such as 10 min. {_meaning('it')}\n{_cost('it')}",
        ),
    )


def _now(freshness: str) -> str:
    if freshness == ALWAYS:
        return "ask each time"
    return "never ask again" if freshness == NEVER else f"ask after {freshness}"


def _meaning(freshness: str) -> str:
    if freshness == ALWAYS:
        return (
            "Before a tag is served, its source is asked whether it has moved. "
            "Each pull waits for the answer."
        )
    if freshness == NEVER:
        return (
            "A cached tag is served as it is, without asking again. For tags that never move; "
            "r in Repositories still asks."
        )
    after = "that time" if freshness == "it" else freshness
    return (
        f"A tag is served without asking its source for {after}; then the source is asked once, "
        "for all clients, whether it has moved."
    )


def _cost(freshness: str) -> str:
    if freshness == NEVER:
        return "Docker Hub: never counts against its rate limit while the image is cached."
    throttling = (
        " Many pulls mean many requests, though, and it throttles clients that send too many."
        if freshness == ALWAYS
        else ""
    )
    return (
        "Docker Hub: the request does not count against its rate limit; only a tag that has moved "
        f"costs a pull.{throttling}"
    )
