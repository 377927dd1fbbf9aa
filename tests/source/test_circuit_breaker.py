"""When a host that could not be reached is tried again, whatever becomes of the clock."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from entrepot.source.circuit_breaker import CircuitBreakers
from entrepot.source.errors import SourceAvoided, SourceUnreachable
from tests.source.conftest import Clock


@pytest.mark.parametrize("jump", [-86_400.0, 3_600.0])
async def test_a_wall_clock_that_is_set_does_not_move_the_next_try(jump: float) -> None:
    """S14, F69: clients were told to come back in an hour."""
    clock, wall_clock = Clock(50.0), Clock()
    breakers = CircuitBreakers(clock, wall_clock)
    waiting = asyncio.Event()

    async def wait(_: float) -> None:
        waiting.set()
        await asyncio.Event().wait()

    async def reaches(_: str) -> bool:
        return False

    breakers.wait = wait
    breaker = breakers.of("docker.io", httpx.URL("https://registry-1.docker.io"))
    breakers.open(breaker, SourceUnreachable("docker.io can't be reached."), reaches)
    await waiting.wait()
    wall_clock.now += jump
    with pytest.raises(SourceAvoided) as raised:
        breaker.check()
    assert raised.value.retry_after <= 1.2
    assert breaker.next_try is not None
    assert 0 < breaker.next_try - wall_clock.now <= 1.2
    await breakers.close()
