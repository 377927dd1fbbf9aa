"""When a host that can't be reached gets no requests, and when it is tried again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from entrepot.causes import CauseCode
from entrepot.source.circuit_breaker import (
    MAX_BREAKERS,
    MAX_OPEN_PER_SOURCE,
    MAX_PROBE_DELAY,
    SUSPICION_TIME,
    CircuitBreaker,
    CircuitBreakers,
)
from entrepot.source.errors import SourceAvoided, SourceUnreachable
from tests.source.conftest import Clock

HUB = "docker.io"
REGISTRY = httpx.URL("https://registry-1.docker.io/v2/library/nginx/manifests/latest")
STORAGE = httpx.URL("https://storage.example/layers/1")


class Host:
    """A host that answers probes when the test says so; it records the waits between them."""

    def __init__(self, breakers: CircuitBreakers) -> None:
        self.breakers = breakers
        self.delays: list[float] = []
        self.probed: list[str] = []
        self.answers = False
        self.waiting = asyncio.Event()
        self._may_go_on = asyncio.Semaphore(0)
        breakers.wait = self._wait

    async def _wait(self, seconds: float) -> None:
        self.delays.append(seconds)
        self.waiting.set()
        await self._may_go_on.acquire()

    async def probe(self, origin: str) -> bool:
        self.probed.append(origin)
        return self.answers

    async def let_probe(self) -> None:
        """Let the wait end that is under way, and wait until the next one begins."""
        await self.waiting.wait()
        self.waiting.clear()
        self._may_go_on.release()
        if not self.answers:
            await self.waiting.wait()


@pytest.fixture
def wall_clock() -> Clock:
    return Clock()


@pytest.fixture
async def breakers(clock: Clock, wall_clock: Clock) -> AsyncIterator[CircuitBreakers]:
    breakers = CircuitBreakers(clock, wall_clock)
    yield breakers
    await breakers.close()


@pytest.fixture
def host(breakers: CircuitBreakers) -> Host:
    return Host(breakers)


def failure() -> SourceUnreachable:
    error = SourceUnreachable("docker.io can't be reached.", "Check the network.")
    error.cause = CauseCode.NO_ROUTE
    return error


def open_breaker(host: Host, url: httpx.URL = REGISTRY) -> CircuitBreaker:
    breaker = host.breakers.of(HUB, url)
    host.breakers.open(breaker, failure(), host.probe)
    return breaker


def test_a_closed_breaker_lets_requests_pass(breakers: CircuitBreakers) -> None:
    breaker = breakers.of(HUB, REGISTRY)
    breaker.check()
    assert (breaker.since, breaker.next_try) == (None, None)
    assert breakers.opened_first(HUB) is None


def test_each_host_of_a_source_has_its_own_breaker(breakers: CircuitBreakers) -> None:
    breaker = breakers.of(HUB, REGISTRY)
    assert breaker.origin == "https://registry-1.docker.io"
    assert breakers.of(HUB, REGISTRY.copy_with(path="/v2/")) is breaker
    others = [
        breakers.of(HUB, STORAGE),
        breakers.of(HUB, REGISTRY.copy_with(scheme="http")),
        breakers.of(HUB, REGISTRY.copy_with(port=5000)),
        breakers.of("quay.io", REGISTRY),
    ]
    assert len({id(each) for each in (breaker, *others)}) == 5


async def test_an_open_breaker_refuses_with_the_failure_and_the_next_try(
    host: Host, clock: Clock
) -> None:
    breaker = open_breaker(host)
    await host.waiting.wait()
    clock.now -= 9
    with pytest.raises(SourceAvoided) as refused:
        breaker.check()
    assert refused.value.what == "docker.io can't be reached."
    assert refused.value.cause is CauseCode.NO_ROUTE
    assert refused.value.retry_after == pytest.approx(9 + host.delays[0])
    assert refused.value.hint.startswith(
        "Check the network. docker.io is not asked before it can be reached again; the next try is"
    )


async def test_a_refusal_never_asks_for_less_than_a_second(host: Host, clock: Clock) -> None:
    breaker = open_breaker(host)
    await host.waiting.wait()
    clock.now += 60
    with pytest.raises(SourceAvoided) as refused:
        breaker.check()
    assert refused.value.retry_after == 1.0


async def test_the_first_answer_closes_the_breaker(host: Host) -> None:
    changes: list[bool] = []
    closed = asyncio.Event()

    def record(breaker: CircuitBreaker) -> None:
        changes.append(breaker.since is not None)
        if breaker.since is None:
            closed.set()

    host.breakers.on_change = record
    breaker = open_breaker(host)
    await host.let_probe()
    host.answers = True
    await host.let_probe()
    await closed.wait()
    breaker.check()
    assert host.probed == ["https://registry-1.docker.io"] * 2
    assert changes == [True, False], "it opened and closed"
    assert (breaker.since, breaker.error, breaker.next_try, breaker.responses) == (
        None,
        None,
        None,
        1,
    )


async def test_delays_between_probes_double_up_to_a_minute(host: Host) -> None:
    open_breaker(host)
    for _ in range(9):
        await host.let_probe()
    expected = [min(2.0**number, MAX_PROBE_DELAY) for number in range(10)]
    assert len(host.delays) == 10
    for delay, nominal in zip(host.delays, expected, strict=True):
        assert nominal * 0.8 <= delay <= nominal * 1.2


async def test_a_breaker_that_is_open_keeps_its_first_failure(
    host: Host, wall_clock: Clock
) -> None:
    breaker = open_breaker(host)
    since = breaker.since
    wall_clock.now += 30
    host.breakers.open(breaker, SourceUnreachable("Another failure."), host.probe)
    assert breaker.since == since
    assert breaker.error is not None
    assert breaker.error.what == "docker.io can't be reached."


async def test_of_several_open_breakers_the_first_speaks_for_the_source(
    host: Host, wall_clock: Clock
) -> None:
    wall_clock.now += 10
    open_breaker(host, STORAGE)
    wall_clock.now -= 10
    first = open_breaker(host, REGISTRY)
    assert host.breakers.opened_first(HUB) is first
    assert host.breakers.opened_first("quay.io") is None


async def test_a_source_with_ever_more_dead_hosts_starts_no_more_probes_than_a_bound(
    host: Host,
) -> None:
    opened = [
        open_breaker(host, httpx.URL(f"https://{number}.example/"))
        for number in range(MAX_OPEN_PER_SOURCE + 1)
    ]
    assert [breaker.since is not None for breaker in opened] == [True] * MAX_OPEN_PER_SOURCE + [
        False
    ]
    other = host.breakers.of("quay.io", REGISTRY)
    host.breakers.open(other, failure(), host.probe)
    assert other.since is not None, "the bound is one source's own"


async def test_closed_breakers_are_forgotten_first(host: Host) -> None:
    is_open = open_breaker(host)
    oldest = host.breakers.of(HUB, STORAGE)
    for number in range(MAX_BREAKERS):
        host.breakers.of(HUB, httpx.URL(f"https://{number}.example/"))
    assert host.breakers.of(HUB, REGISTRY) is is_open
    assert host.breakers.of(HUB, STORAGE) is not oldest


def test_a_host_that_kept_a_client_waiting_is_suspected_for_a_while(
    breakers: CircuitBreakers, clock: Clock
) -> None:
    breaker = breakers.of(HUB, REGISTRY)
    assert not breaker.is_suspected
    breaker.suspect()
    clock.now += SUSPICION_TIME - 1
    assert breaker.is_suspected
    clock.now += 2
    assert not breaker.is_suspected


def test_a_response_ends_the_suspicion(breakers: CircuitBreakers) -> None:
    breaker = breakers.of(HUB, REGISTRY)
    breaker.suspect()
    breaker.record_response()
    assert not breaker.is_suspected


async def test_closing_ends_the_probes(clock: Clock) -> None:
    breakers = CircuitBreakers(clock, clock)
    host = Host(breakers)
    open_breaker(host)
    await host.waiting.wait()
    await breakers.close()
    assert host.probed == []


@pytest.mark.parametrize("jump", [-86_400.0, 3_600.0])
async def test_a_wall_clock_that_is_set_does_not_move_the_next_try(
    host: Host, wall_clock: Clock, jump: float
) -> None:
    """S14, F69: clients were told to come back in an hour."""
    breaker = open_breaker(host)
    await host.waiting.wait()
    wall_clock.now += jump
    with pytest.raises(SourceAvoided) as raised:
        breaker.check()
    assert raised.value.retry_after <= 1.2
    assert breaker.next_try is not None
    assert 0 < breaker.next_try - wall_clock.now <= 1.2
