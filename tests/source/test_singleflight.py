"""One fetch for everyone who waits."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from entrepot.source.singleflight import FetchAbandoned, SingleFlight, TooManyFetches


class Fetch:
    def __init__(self) -> None:
        self.calls = 0
        self.cancelled = 0
        self.may_end = asyncio.Event()

    async def __call__(self) -> int:
        self.calls += 1
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return self.calls


async def test_all_who_wait_share_one_fetch() -> None:
    flights: SingleFlight[int] = SingleFlight()
    fetch = Fetch()
    waiting = [asyncio.create_task(flights.join("key", fetch)) for _ in range(10)]
    await asyncio.sleep(0)
    fetch.may_end.set()
    assert await asyncio.gather(*waiting) == [1] * 10
    assert await flights.join("key", fetch) == 2


async def test_a_client_that_leaves_changes_nothing_for_the_others() -> None:
    flights: SingleFlight[int] = SingleFlight()
    fetch = Fetch()
    first, second = (asyncio.create_task(flights.join("key", fetch)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    fetch.may_end.set()
    assert await second == 1
    assert first.cancelled()


async def test_a_fetch_goes_on_when_all_who_waited_have_left() -> None:
    flights: SingleFlight[int] = SingleFlight()
    fetch = Fetch()
    waiting = asyncio.create_task(flights.join("key", fetch))
    await asyncio.sleep(0)
    waiting.cancel()
    await ended(waiting)
    again = asyncio.create_task(flights.join("key", fetch))
    await asyncio.sleep(0)
    fetch.may_end.set()
    assert await again == 1


async def test_an_unawaited_fetch_is_cancelled_where_that_is_asked_for() -> None:
    flights: SingleFlight[int] = SingleFlight(cancels_unawaited=True)
    fetch = Fetch()
    first, second = (asyncio.create_task(flights.join("key", fetch)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await ended(first)
    assert fetch.cancelled == 0, "the second still waits"
    second.cancel()
    await ended(second)
    # The next one starts a fetch of its own, though the cancelled one has not ended yet.
    third = asyncio.create_task(flights.join("key", fetch))
    fetch.may_end.set()
    assert await third == 2
    assert fetch.cancelled == 1
    assert (flights._flights, flights._running, flights._groups) == ({}, set(), {})


async def test_everyone_gets_the_error_and_the_next_one_tries_again() -> None:
    flights: SingleFlight[int] = SingleFlight()

    async def fail() -> int:
        raise ValueError("no")

    outcomes = await asyncio.gather(
        *(flights.join("key", fail) for _ in range(3)), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [ValueError] * 3
    fetch = Fetch()
    fetch.may_end.set()
    assert await flights.join("key", fetch) == 1


async def test_closing_cancels_what_is_under_way() -> None:
    flights: SingleFlight[int] = SingleFlight()
    waiting = asyncio.create_task(flights.join("key", Fetch()))
    await asyncio.sleep(0)
    await flights.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def ended(*fetches: asyncio.Task[int]) -> None:
    await asyncio.gather(*fetches, return_exceptions=True)


async def test_fetches_do_not_pile_up_though_those_who_asked_have_left() -> None:
    flights: SingleFlight[int] = SingleFlight(limit=10)
    fetch = Fetch()
    asking = [asyncio.create_task(flights.join(number, fetch)) for number in range(50)]
    await asyncio.sleep(0)
    for each in asking:
        each.cancel()
    await ended(*asking)
    assert fetch.calls == 10
    with pytest.raises(TooManyFetches):
        await flights.join("another", fetch)
    # Who asks for what is under way already finds room.
    waiting = asyncio.create_task(flights.join(0, fetch))
    await asyncio.sleep(0)
    fetch.may_end.set()
    assert await waiting == 10
    assert await flights.join("another", fetch) == 11
    assert (flights._flights, flights._groups) == ({}, {})


async def test_one_source_does_not_take_the_room_of_the_others() -> None:
    flights: SingleFlight[int] = SingleFlight(limit=10, group_limit=2)
    fetch = Fetch()
    slow = [asyncio.create_task(flights.join(number, fetch, group="slow")) for number in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(TooManyFetches):
        await flights.join("third", fetch, group="slow")
    other = asyncio.create_task(flights.join("other", fetch, group="quick"))
    await asyncio.sleep(0)
    fetch.may_end.set()
    await ended(*slow, other)
    assert await other == 3
    assert flights._groups == {}


async def test_an_error_does_not_keep_what_failed() -> None:
    """S24: a fetch that refers to its error, which refers to the frame that waited for it, would
    stay until a collection of garbage."""

    class Answer:
        pass

    answers: list[weakref.ref[Answer]] = []

    async def fail() -> int:
        answer = Answer()
        answers.append(weakref.ref(answer))
        raise ValueError("no")

    flights: SingleFlight[int] = SingleFlight()
    gc.collect()
    gc.disable()
    try:
        with pytest.raises(ValueError, match="no"):
            await flights.join("key", fail)
        await asyncio.sleep(0)
        assert answers[0]() is None
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "kind",
    [ValueError, UnicodeError, RecursionError, OverflowError, KeyError, MemoryError, SystemError],
)
@pytest.mark.parametrize("at_once", [True, False])
async def test_whatever_a_fetch_raises_all_who_wait_get_it_and_the_key_is_free(
    kind: type[Exception], at_once: bool
) -> None:
    """S02."""
    flights: SingleFlight[int] = SingleFlight()

    async def fail() -> int:
        if not at_once:
            await asyncio.sleep(0)
        raise kind("unforeseen")

    async with asyncio.timeout(60):
        outcomes = await asyncio.gather(
            *(flights.join("key", fail) for _ in range(3)), return_exceptions=True
        )
    assert [type(outcome) for outcome in outcomes] == [kind] * 3
    assert not flights._flights


async def test_a_fetch_that_is_cancelled_from_within_is_an_error_for_those_who_wait() -> None:
    """S02: a request that takes it for its own cancellation gets no answer at all."""
    flights: SingleFlight[int] = SingleFlight()

    async def gives_up() -> int:
        await asyncio.sleep(0)
        raise asyncio.CancelledError

    outcomes = await asyncio.gather(
        *(flights.join("key", gives_up) for _ in range(2)), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [FetchAbandoned] * 2


async def test_a_fetch_that_does_not_end_is_given_up_for_all_who_wait() -> None:
    """S02, S37: a manifest that trickles in would hold its pull, and with a hundred of them all
    others."""
    flights: SingleFlight[int] = SingleFlight(timeout=0)
    fetch = Fetch()
    outcomes = await asyncio.gather(
        *(flights.join("key", fetch) for _ in range(3)), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [FetchAbandoned] * 3
    assert fetch.calls == 1


async def test_a_timeout_within_a_fetch_is_its_own() -> None:
    flights: SingleFlight[int] = SingleFlight()

    async def times_out() -> int:
        raise TimeoutError("of the connection")

    with pytest.raises(TimeoutError, match="of the connection"):
        await flights.join("key", times_out)
