"""Waiting for the first sign-in of a credential set."""

from __future__ import annotations

import httpx
import msgspec
import pytest

from entrepot.api.models import CredentialSetSnapshot
from tests.api.fakes import client_of

UNCHECKED = CredentialSetSnapshot(
    name="hub-login", login_server="docker.io", username_id="env:U", password_id="env:P", created=0
)
CHECKED = msgspec.structs.replace(UNCHECKED, checked=1.0)


async def test_a_set_is_returned_once_its_first_sign_in_has_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("entrepot.api.credential_sets.POLL_INTERVAL", 0.0)
    answers = iter([UNCHECKED, UNCHECKED, CHECKED])

    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=msgspec.json.encode(next(answers)))

    async with client_of(answer) as client:
        assert await client.credential_sets.wait_for_sign_in("hub-login") == CHECKED


async def test_a_silent_source_is_waited_for_no_longer_than_said() -> None:
    content = msgspec.json.encode(UNCHECKED)
    async with client_of(lambda _: httpx.Response(200, content=content)) as client:
        waited = await client.credential_sets.wait_for_sign_in("hub-login", max_wait=0.0)
    assert waited == UNCHECKED


async def test_an_update_names_only_what_changes() -> None:
    bodies = []

    def answer(request: httpx.Request) -> httpx.Response:
        bodies.append(msgspec.json.decode(request.content))
        return httpx.Response(200, json={})

    async with client_of(answer) as client:
        await client.credential_sets.update("hub-login", password_id="env:NEW")
    credential = {"name": "Credential1", "passwordSecretIdentifier": "env:NEW"}
    assert bodies == [{"properties": {"authCredentials": [credential]}}]
