"""Turns at a source: they go round by repository, and none is lost."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable

import pytest

from entrepot.cache.fair_turns import MAX_REPOSITORIES, FairTurns, TurnRequest


class Queue:
    """Requests that are named, and the order in which they got their turns."""

    def __init__(self, count: int) -> None:
        self.turns = FairTurns(count)
        self.order: list[str] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self._ends: dict[str, asyncio.Event] = {}

    async def begin(self, *names: str, repositories: Iterable[str] = ()) -> TurnRequest:
        """Request turns in this order, for the repository with the first letter of each name."""
        for name in names:
            request = TurnRequest(name[0])
            for repository in repositories:
                self.turns.add_repository(request, repository)
            self._ends[name] = asyncio.Event()
            self.tasks[name] = asyncio.create_task(self._have_turn(name, request))
        await settle()
        return request

    async def _have_turn(self, name: str, request: TurnRequest) -> None:
        repository = await self.turns.acquire(request)
        try:
            self.order.append(name)
            await self._ends[name].wait()
        finally:
            self.turns.release(repository)

    async def end(self, *names: str) -> None:
        for name in names:
            self._ends[name].set()
            await settle()

    async def end_all(self) -> list[str]:
        for event in self._ends.values():
            event.set()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)
        return self.order


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_turns_go_round_by_repository_and_in_order_within_one() -> None:
    queue = Queue(1)
    await queue.begin("a1", "a2", "a3", "b1", "b2", "c1")
    assert await queue.end_all() == ["a1", "b1", "c1", "a2", "b2", "a3"]


async def test_a_repository_without_a_turn_gets_the_next_one_that_ends() -> None:
    queue = Queue(6)
    await queue.begin(*(f"a{number}" for number in range(50)))
    await queue.begin("b1")
    await queue.end("a3")
    assert queue.order == ["a0", "a1", "a2", "a3", "a4", "a5", "b1"]
    await queue.end_all()


async def test_two_repositories_with_many_blobs_have_half_of_the_turns_each() -> None:
    queue = Queue(6)
    await queue.begin(*(f"a{number}" for number in range(20)))
    await queue.begin(*(f"b{number}" for number in range(20)))
    await queue.end(*(f"a{number}" for number in range(6)))
    running = queue.order[6:]
    assert sorted(name[0] for name in running) == ["a", "a", "a", "b", "b", "b"]
    await queue.end_all()


async def test_a_request_gets_the_first_turn_of_any_of_its_repositories() -> None:
    queue = Queue(1)
    await queue.begin("a1", "a2", "a3")
    await queue.begin("a-shared", repositories=["b"])
    await queue.begin("b1")
    assert await queue.end_all() == ["a1", "a-shared", "a2", "b1", "a3"]


async def test_where_all_have_equally_many_the_one_whose_last_turn_is_longest_ago_is_next() -> None:
    queue = Queue(2)
    await queue.begin("a1", "b1", "b2", "a2")
    await queue.end("a1", "b1")
    assert queue.order == ["a1", "b1", "a2", "b2"]
    await queue.end_all()
    assert queue.turns._last_turns == {}


async def test_a_repository_that_joins_a_waiting_request_counts_for_it_too() -> None:
    queue = Queue(1)
    await queue.begin("a1", "a2")
    shared = await queue.begin("a-shared")
    queue.turns.add_repository(shared, "b")
    await queue.end("a1")
    assert queue.order == ["a1", "a-shared"]
    # Its turn is one of b's: the next one is a's again.
    await queue.begin("b1")
    await queue.end("a-shared")
    assert queue.order == ["a1", "a-shared", "a2"]
    await queue.end_all()


async def test_a_repository_that_joins_a_request_with_a_turn_has_nothing_waiting() -> None:
    queue = Queue(1)
    first = await queue.begin("a1")
    queue.turns.add_repository(first, "b")
    await queue.begin("a2")
    assert await queue.end_all() == ["a1", "a2"]
    assert (queue.turns.free, queue.turns.waiting, queue.turns._queues) == (1, 0, {})


async def test_the_repositories_of_one_request_are_bounded() -> None:
    turns = FairTurns(1)
    request = TurnRequest("a")
    for number in range(2 * MAX_REPOSITORIES):
        turns.add_repository(request, f"b{number}")
    assert len(request.repositories) == MAX_REPOSITORIES


async def test_a_request_that_is_cancelled_leaves_its_turn_to_the_next() -> None:
    queue = Queue(1)
    await queue.begin("a1", "a2", "b1")
    queue.tasks["b1"].cancel()
    await settle()
    await queue.end("a1")
    assert queue.order == ["a1", "a2"]
    await queue.end_all()
    assert queue.turns.free == 1


async def test_a_request_that_is_cancelled_as_it_gets_its_turn_hands_it_on() -> None:
    queue = Queue(1)
    repository = await queue.turns.acquire(TurnRequest("a"))
    await queue.begin("a1", "a2")
    # a1 has the turn from here on, and has not run yet.
    queue.turns.release(repository)
    assert queue.turns.free == 0
    queue.tasks["a1"].cancel()
    await settle()
    assert queue.order == ["a2"]


@pytest.mark.parametrize("seed", range(20))
async def test_no_turn_is_lost_or_given_twice_whoever_leaves(seed: int) -> None:
    choice = random.Random(seed)
    turns = FairTurns(3)
    running = 0

    async def have_turn() -> None:
        nonlocal running
        request = TurnRequest(choice.choice("abcd"))
        turns.add_repository(request, choice.choice("abcd"))
        repository = await turns.acquire(request)
        running += 1
        assert running <= 3
        try:
            for _ in range(choice.randrange(4)):
                await asyncio.sleep(0)
        finally:
            running -= 1
            turns.release(repository)

    tasks = [asyncio.create_task(have_turn()) for _ in range(200)]
    while not all(task.done() for task in tasks):
        choice.choice(tasks).cancel()
        await asyncio.sleep(0)
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(end) for end in ends} <= {type(None), asyncio.CancelledError}
    assert (turns.free, turns.waiting) == (3, 0)
    assert not turns._taken
    assert not turns._queues
    assert not turns._last_turns
