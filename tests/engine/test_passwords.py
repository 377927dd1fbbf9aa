"""Passwords of readers: checked in a thread, remembered for a while, guesses slowed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import bcrypt
import pytest

from entrepot.engine.passwords import (
    DEFAULT_COST,
    FAILURE_TTL,
    FREE_GUESSES,
    KNOWN_TTL,
    MAX_WAIT,
    QUIET,
    REMEMBERED,
    SUCCESS_LIMIT,
    SUCCESS_TTL,
    GuessLimit,
    PasswordCheck,
    TooManyGuesses,
)
from tests.conftest import Clock

HERE = "192.0.2.1"


def hashed(password: str, cost: int = 4) -> bytes:
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(cost))


@pytest.fixture
async def check(clock: Clock) -> AsyncIterator[PasswordCheck]:
    check = PasswordCheck(clock)
    check.use({"alice": hashed("right"), "long": hashed("x" * 72)})
    yield check
    await check.close()


@pytest.fixture
def hashes(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The hashes that a password was compared with."""
    compared: list[bytes] = []
    checkpw = bcrypt.checkpw

    def counting(password: bytes, password_hash: bytes) -> bool:
        compared.append(password_hash)
        return checkpw(password, password_hash)

    monkeypatch.setattr(bcrypt, "checkpw", counting)
    return compared


async def test_right_credentials_are_hashed_once_in_a_while(
    check: PasswordCheck, hashes: list[bytes], clock: Clock
) -> None:
    many = [check.is_right("alice", "right", HERE) for _ in range(20)]
    assert await asyncio.gather(*many) == [True] * 20
    assert len(hashes) == 1
    clock.now += SUCCESS_TTL
    assert await check.is_right("alice", "right", HERE)
    assert len(hashes) == 2


async def test_right_credentials_that_are_used_are_hashed_once_an_hour(
    check: PasswordCheck, hashes: list[bytes], clock: Clock
) -> None:
    uses = round(SUCCESS_LIMIT / (SUCCESS_TTL / 2))
    for _ in range(uses):
        assert await check.is_right("alice", "right", HERE)
        clock.now += SUCCESS_TTL / 2
    assert len(hashes) == 1
    assert await check.is_right("alice", "right", HERE)
    assert len(hashes) == 2


async def guess(check: PasswordCheck, address: str = HERE) -> None:
    """Guess until *address* is slowed."""
    for number in range(FREE_GUESSES + 1):
        with suppress(TooManyGuesses):
            await check.is_right("alice", f"guess-{number}", address)
    with pytest.raises(TooManyGuesses):
        await check.is_right("alice", "another guess", address)


async def test_credentials_that_were_right_are_not_held_up_by_guesses_from_their_address(
    check: PasswordCheck, hashes: list[bytes], clock: Clock
) -> None:
    assert await check.is_right("alice", "right", HERE)
    for seconds in (0, SUCCESS_TTL, SUCCESS_LIMIT, KNOWN_TTL - 1):
        clock.now += seconds
        await guess(check)
        hashed_before = len(hashes)
        assert await check.is_right("alice", "right", HERE)
        assert len(hashes) == hashed_before + (seconds > 0)
    clock.now += KNOWN_TTL
    await guess(check)
    with pytest.raises(TooManyGuesses):
        await check.is_right("alice", "right", HERE)


async def test_an_edit_of_the_file_ends_only_what_it_changes(
    check: PasswordCheck, hashes: list[bytes]
) -> None:
    unchanged = hashed("right")
    check.use({"alice": unchanged, "bob": hashed("right")})
    assert await check.is_right("alice", "right", HERE)
    assert await check.is_right("bob", "right", HERE)
    assert not await check.is_right("carol", "right", HERE)
    del hashes[:]
    check.use({"alice": unchanged, "bob": hashed("another"), "carol": hashed("right")})
    assert await check.is_right("alice", "right", HERE)
    assert hashes == []
    assert not await check.is_right("bob", "right", HERE)
    assert await check.is_right("carol", "right", HERE)


async def test_wrong_credentials_count_as_one_guess_however_often_they_come(
    check: PasswordCheck, hashes: list[bytes], clock: Clock
) -> None:
    for _ in range(100):
        assert not await check.is_right("alice", "wrong", HERE)
    assert len(hashes) == 1
    clock.now += FAILURE_TTL
    assert not await check.is_right("alice", "wrong", HERE)
    assert len(hashes) == 2


def rounds(hashes: list[bytes]) -> int:
    """The rounds of bcrypt that checks against *hashes* take, on which their time depends."""
    return sum(2 ** int(password_hash[4:6]) for password_hash in hashes)


async def test_a_wrong_password_takes_as_long_for_every_name(
    check: PasswordCheck, hashes: list[bytes]
) -> None:
    costs = {"four": 4, "five": 5, "seven": 7}
    check.use({name: hashed("right", cost) for name, cost in costs.items()})
    for name in (*costs, "nobody"):
        del hashes[:]
        assert not await check.is_right(name, "wrong", HERE)
        assert rounds(hashes) == 2**7, name


async def test_without_a_name_a_check_takes_time_too(hashes: list[bytes]) -> None:
    assert not await PasswordCheck(Clock()).is_right("nobody", "right", HERE)
    assert rounds(hashes) == 2**DEFAULT_COST


async def test_name_and_password_are_not_one_text(check: PasswordCheck) -> None:
    check.use({"a": hashed("bc")})
    assert await check.is_right("a", "bc", HERE)
    assert not await check.is_right("ab", "c", HERE)


@pytest.mark.parametrize("password", ["a\0b", "x" * 2000, ""])
async def test_a_password_that_bcrypt_can_not_take_is_wrong(
    check: PasswordCheck, password: str
) -> None:
    assert not await check.is_right("alice", password, HERE)


async def test_bcrypt_takes_72_bytes_as_htpasswd_does(check: PasswordCheck) -> None:
    assert await check.is_right("long", "x" * 80, HERE)


async def test_other_hashes_end_what_is_remembered(check: PasswordCheck) -> None:
    assert await check.is_right("alice", "right", HERE)
    before = check.fingerprint("alice")
    check.use({"alice": hashed("another")})
    assert not await check.is_right("alice", "right", HERE)
    assert check.fingerprint("alice") not in {None, before}
    assert check.fingerprint("nobody") is None


def test_guesses_of_one_address_take_longer_and_longer(clock: Clock) -> None:
    limit = GuessLimit(clock)
    for _ in range(FREE_GUESSES):
        limit.begin(HERE)
    waits = []
    for _ in range(10):
        limit.begin(HERE)
        with pytest.raises(TooManyGuesses) as raised:
            limit.begin(HERE)
        waits.append(raised.value.retry_after)
        limit.begin("192.0.2.2")
        clock.now += raised.value.retry_after
    assert waits == [1, 2, 4, 8, 16, 32, *[MAX_WAIT] * 4]
    clock.now += QUIET + 1
    for _ in range(FREE_GUESSES):
        limit.begin(HERE)


def test_addresses_of_one_network_of_ipv6_count_as_one_and_all_are_bounded(clock: Clock) -> None:
    limit = GuessLimit(clock)
    for number in range(FREE_GUESSES + 1):
        limit.begin(f"2001:db8::{number:x}")
    with pytest.raises(TooManyGuesses):
        limit.begin("2001:db8::ffff")
    limit.begin("2001:db8:0:1::1")
    for number in range(REMEMBERED + 10):
        limit.begin(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert len(limit._guesses) == REMEMBERED


def test_a_right_guess_does_not_count(clock: Clock) -> None:
    limit = GuessLimit(clock)
    for _ in range(100):
        limit.begin(HERE)
        limit.was_right(HERE)


async def test_an_address_that_guesses_is_reported_once_and_each_refusal_is_logged(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    slowed: list[str] = []
    check = PasswordCheck(clock, slowed.append)
    check.use({"alice": hashed("right")})
    for number in range(FREE_GUESSES):
        assert not await check.is_right("alice", f"guess-{number}", HERE)
        assert not await check.is_right("alice", f"guess-{number}", HERE)
    assert await check.is_right("alice", "right", HERE)
    assert slowed == []
    assert not await check.is_right("mallory\n", "guess", HERE)
    assert slowed == [HERE]
    clock.now += MAX_WAIT
    assert not await check.is_right("alice", "another guess", HERE)
    assert slowed == [HERE]
    clock.now += QUIET + 1
    await guess(check)
    assert slowed == [HERE, HERE]
    messages = [record.getMessage() for record in caplog.records]
    assert messages[:FREE_GUESSES] == [f"The sign-in of alice from {HERE} is refused"] * 10
    assert "\n" not in messages[FREE_GUESSES]
    assert "guess" not in "".join(messages)
    await check.close()
