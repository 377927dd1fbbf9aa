"""Secrets in a keyring: the real library, with a backend of the test's own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import keyring
import pytest
from keyring.backend import KeyringBackend
from keyring.backends import fail, null
from keyring.errors import KeyringError, KeyringLocked

import entrepot.secrets.keyring as store
from entrepot.core.secret_identifiers import SecretIdentifier
from entrepot.secrets import SecretUnavailable, read_secret


class MemoryKeyring(KeyringBackend):
    """A keyring in memory."""

    priority = 1

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.entries: dict[tuple[str, str], str] = {}
        self.error: Exception | None = None
        self.asked = 0
        self.answers = threading.Event()
        self.answers.set()

    def get_password(self, service: str, username: str) -> str | None:
        self.asked += 1
        self.answers.wait(30)
        if self.error is not None:
            raise self.error
        return self.entries.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.entries[service, username] = password


@pytest.fixture(autouse=True)
def memory_keyring() -> Iterator[MemoryKeyring]:
    before = keyring.get_keyring()
    backend = MemoryKeyring()
    keyring.set_keyring(backend)
    yield backend
    backend.answers.set()
    keyring.set_keyring(before)


async def read(place: str = "entrepot/hub") -> str:
    return (await read_secret(SecretIdentifier.parse(f"keyring:{place}"), "docker.io")).reveal()


async def test_a_secret_is_read_from_the_keyring_each_time(memory_keyring: MemoryKeyring) -> None:
    for password in ("one", "two"):
        keyring.set_password("entrepot", "hub", password)
        assert await read() == password


async def test_a_service_may_have_slashes_in_its_name(memory_keyring: MemoryKeyring) -> None:
    keyring.set_password("https://docker.io/v1", "ann", "hunter2")
    assert await read("https://docker.io/v1/ann") == "hunter2"


@pytest.mark.parametrize("backend", [fail.Keyring, null.Keyring])
async def test_without_a_keyring_that_holds_anything_it_is_said_what_to_do(
    backend: type[KeyringBackend],
) -> None:
    keyring.set_keyring(backend())
    with pytest.raises(
        SecretUnavailable,
        match=r"There is no keyring for the engine.*\. .*PYTHON_KEYRING_BACKEND.*file:/path",
    ):
        await read()


async def test_a_missing_entry_is_said_to_be_missing(memory_keyring: MemoryKeyring) -> None:
    with pytest.raises(
        SecretUnavailable,
        match=r"no entry for user hub of service entrepot.*keyring set entrepot hub",
    ):
        await read()
    keyring.set_password("entrepot", "hub", "")
    with pytest.raises(SecretUnavailable, match="is empty"):
        await read()


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (KeyringLocked("hunter2"), "is locked"),
        (KeyringError("hunter2"), "fails"),
        (OSError("hunter2"), "fails"),
    ],
)
async def test_a_keyring_that_fails_tells_how_and_nothing_of_what_it_said(
    memory_keyring: MemoryKeyring, error: Exception, why: str
) -> None:
    memory_keyring.error = error
    with pytest.raises(SecretUnavailable, match=why) as caught:
        await read()
    assert "hunter2" not in caught.value.message


async def test_a_keyring_that_hangs_is_not_waited_for_and_asked_once_only(
    memory_keyring: MemoryKeyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory_keyring.answers.clear()
    monkeypatch.setattr(store, "KEYRING_TIMEOUT", 0.2)
    for _ in range(3):
        with pytest.raises(SecretUnavailable, match="the keyring has not answered"):
            await read()
    assert memory_keyring.asked == 1
    keyring.set_password("entrepot", "hub", "hunter2")
    memory_keyring.answers.set()
    async with asyncio.timeout(30):
        while store._pending:
            await asyncio.sleep(0)
    monkeypatch.setattr(store, "KEYRING_TIMEOUT", 30)
    assert await read() == "hunter2"
