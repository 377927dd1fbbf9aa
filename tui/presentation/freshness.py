"""What a freshness means, and what it costs at Docker Hub."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT, ALWAYS, NEVER, INTERVAL = "default", "always", "never", "interval"


@dataclass(frozen=True, slots=True)
class FreshnessChoice:
    """A way to say how long tags are believed."""

    id: str
    title: str
    short: str
    why: str


def freshness_choices(of_settings: str) -> tuple[FreshnessChoice, ...]:
    """The choices, where the settings say *of_settings*."""
    return (
        FreshnessChoice(
            DEFAULT,
            "as the settings say",
            _now(of_settings),
            f"{_meaning(of_settings)} When the settings change, the rule follows.\n{_cost(of_settings)}",
        ),
        FreshnessChoice(
            ALWAYS,
            "ask each time",
            "a moved tag is seen at once",
            f"{_meaning(ALWAYS)}\n{_cost(ALWAYS)}",
        ),
        FreshnessChoice(
            NEVER,
            "never ask again",
            "a tag stays what it was",
            f"{_meaning(NEVER)}\n{_cost(NEVER)}",
        ),
        FreshnessChoice(
            INTERVAL,
            "ask after a time",
            "you say after which",
            f"Write a number with s, min, h or d, such as 10 min. {_meaning('it')}\n{_cost('it')}",
        ),
    )


def _now(freshness: str) -> str:
    if freshness == ALWAYS:
        return "ask each time"
    return "never ask again" if freshness == NEVER else f"ask after {freshness}"


def _meaning(freshness: str) -> str:
    if freshness == ALWAYS:
        return "Before a tag is served, its source is asked whether it has moved. Each pull waits for that answer."
    if freshness == NEVER:
        return "A tag that is held is served as it is, for ever. For tags that never move; r in Repositories asks all the same."
    after = "that long" if freshness == "it" else freshness
    return f"A tag is served without a question for {after}; then its source is asked once, for all clients, whether it has moved."


def _cost(freshness: str) -> str:
    if freshness == NEVER:
        return "Docker Hub: costs nothing of its limit, ever, as long as the image is held."
    often = (
        " Many pulls mean many questions, though, and it slows down whoever asks too often."
        if freshness == ALWAYS
        else ""
    )
    return f"Docker Hub: the question is not counted against its pull limit; only a tag that has moved costs a pull.{often}"
