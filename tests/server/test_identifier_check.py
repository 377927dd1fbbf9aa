"""Which secret identifiers may be written through one face of the management API (S13)."""

from __future__ import annotations

import pytest

from entrepot.core.credentials import CredentialSetDraft
from entrepot.core.permitted_identifiers import (
    DEFAULT_OVER_TCP,
    EVERY_IDENTIFIER,
    SecretKindNotAllowed,
)
from entrepot.engine.engine import Engine
from entrepot.server.identifier_check import IdentifierCheck
from tests.conftest import LOGIN_SERVER

PROGRAM = "command:/usr/bin/pass"


def draft(username: str, password: str, login_server: str = LOGIN_SERVER) -> CredentialSetDraft:
    return CredentialSetDraft("example-login", login_server, username, password)


async def test_each_identifier_that_is_not_permitted_is_refused_for_its_field(
    engine: Engine,
) -> None:
    check = IdentifierCheck(engine.credential_sets, DEFAULT_OVER_TCP)
    refusals = await check.refusals(draft(PROGRAM, PROGRAM))
    assert [refusal.field for refusal in refusals] == [
        "usernameSecretIdentifier",
        "passwordSecretIdentifier",
    ]
    with pytest.raises(SecretKindNotAllowed):
        await check.require(draft(PROGRAM, PROGRAM))


async def test_an_identifier_that_a_set_of_the_same_login_server_has_is_nothing_new(
    engine: Engine,
) -> None:
    await engine.credential_sets.create(draft(PROGRAM, PROGRAM))
    check = IdentifierCheck(engine.credential_sets, DEFAULT_OVER_TCP)
    assert await check.refusals(draft(PROGRAM, PROGRAM, LOGIN_SERVER.upper())) == []
    assert len(await check.refusals(draft(PROGRAM, PROGRAM, "ghcr.io"))) == 2


async def test_what_is_no_identifier_is_judged_elsewhere(engine: Engine) -> None:
    check = IdentifierCheck(engine.credential_sets, DEFAULT_OVER_TCP)
    assert await check.refusals(draft("", "no identifier")) == []


async def test_on_the_socket_every_identifier_is_permitted(engine: Engine) -> None:
    check = IdentifierCheck(engine.credential_sets, EVERY_IDENTIFIER)
    await check.require(draft(PROGRAM, "file:/run/secrets/password"))
