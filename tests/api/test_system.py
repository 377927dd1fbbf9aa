"""The event stream: recent events and new ones, none missed and none twice."""

from __future__ import annotations

from collections.abc import Sequence

import httpx
import msgspec
import pytest

from entrepot.api.models import Event
from entrepot.event_kinds import Severity
from tests.api.fakes import client_of


def event(number: int) -> Event:
    return Event(time=float(number), kind="rule-created", message=f"event {number}")


def engine(recent: Sequence[Event], new: Sequence[Event]) -> httpx.MockTransport:
    """An engine with *recent* events, which streams *new* ones and ends."""

    def answer(request: httpx.Request) -> httpx.Response:
        if "recent" in request.url.params:
            return httpx.Response(200, content=msgspec.json.encode(recent))
        lines = [b": entrepot\n\n", *(b"data: %b\n\n" % msgspec.json.encode(each) for each in new)]
        return httpx.Response(200, content=b"".join(lines))

    return httpx.MockTransport(answer)


@pytest.mark.parametrize(
    ("recent", "new", "limit", "expected"),
    [
        ((1, 2), (3, 4), 10, [1, 2, 3, 4]),
        ((1, 2), (3,), 1, [2, 3]),
        ((1, 2), (3,), 0, [3]),
        ((1, 2, 3), (2, 3, 4), 10, [1, 2, 3, 4]),
        ((1, 2, 3), (2, 3, 4), 0, [4]),
        ((), (), 10, []),
    ],
    ids=[
        "recent events come first",
        "only the last recent ones",
        "no recent ones",
        "events that came while the recent ones were fetched",
        "the same without recent ones",
        "nothing happens",
    ],
)
async def test_each_event_comes_once_and_in_order(
    recent: Sequence[int], new: Sequence[int], limit: int, expected: list[int]
) -> None:
    transport = engine([event(number) for number in recent], [event(number) for number in new])
    async with client_of(transport.handler) as client:  # type: ignore[arg-type]
        events = [found async for found in client.system.follow_events(limit)]
    assert events == [event(number) for number in expected]


async def test_an_event_repeated_later_comes_again() -> None:
    transport = engine([event(1)], [event(2), event(1)])
    async with client_of(transport.handler) as client:  # type: ignore[arg-type]
        events = [found async for found in client.system.follow_events(10)]
    assert events == [event(1), event(2), event(1)]


async def test_an_older_engine_sends_events_without_a_severity() -> None:
    document = {"time": 1.0, "kind": "rule-created", "message": "It was."}
    async with client_of(lambda _: httpx.Response(200, json=[document])) as client:
        [recorded] = await client.system.recent_events()
    assert recorded.severity is Severity.INFO
