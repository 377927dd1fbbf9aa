"""Secrets in an Azure Key Vault: Azure's own SDK, which speaks TLS to a stand-in of the vault's
REST API under the vault's real name."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import ssl
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from entrepot.core.secret_identifiers import SecretIdentifier
from entrepot.secrets import SecretForbidden, SecretUnavailable, read_secret, vault
from tests.fakes.faults import Answer
from tests.fakes.transport import Request, Server

pytest.importorskip("azure.keyvault.secrets.aio")
pytest.importorskip("azure.identity.aio")

from azure.core.credentials import AccessToken
from azure.core.exceptions import ClientAuthenticationError
from azure.core.pipeline.transport import AioHttpTransport

HOST = "contoso.vault.azure.net"


class Vault(Server):
    """Gives secrets to clients with the token, as Key Vault's REST API (7.x, "Get Secret") does."""

    def __init__(self, tls: ssl.SSLContext) -> None:
        super().__init__(tls)
        self.secrets: dict[str, str] = {}
        self.refusals: list[tuple[int, dict[str, Any], dict[str, str]]] = []
        """Answers instead, one after the other; the last one again and again."""

    def answer(self, request: Request) -> Answer:
        if request.headers.get("authorization") != "Bearer the-token":
            challenge = 'Bearer authorization="https://login.microsoftonline.com/contoso", resource="https://vault.azure.net"'
            return _json(
                401,
                {"error": {"code": "Unauthorized", "message": "AKV10000"}},
                {"WWW-Authenticate": challenge},
            )
        if self.refusals:
            refusal = self.refusals[0]
            if len(self.refusals) > 1:
                self.refusals.pop(0)
            return _json(*refusal)
        name = request.path.removeprefix("/secrets/").rstrip("/")
        if name not in self.secrets:
            return _json(
                404,
                {
                    "error": {
                        "code": "SecretNotFound",
                        "message": "A secret with (name/id) was not found.",
                    }
                },
                {},
            )
        return _json(
            200,
            {
                "value": self.secrets[name],
                "id": f"https://{HOST}/secrets/{name}/{'0a' * 16}",
                "attributes": {"enabled": True},
            },
            {},
        )


def _json(status: int, document: dict[str, Any], headers: dict[str, str]) -> Answer:
    return Answer(
        status,
        (("Content-Type", "application/json"), *headers.items()),
        json.dumps(document).encode(),
    )


class Identity:
    """An identity of the engine that is signed in, or is not."""

    def __init__(self, authority: str) -> None:
        self.authority = authority
        self.error: Exception | None = None
        self.scopes: tuple[str, ...] = ()
        self.closed = 0

    async def get_token(self, *scopes: str, **_: Any) -> AccessToken:
        self.scopes = scopes
        if self.error is not None:
            raise self.error
        return AccessToken("the-token", int(datetime.now(UTC).timestamp()) + 3600)

    async def close(self) -> None:
        self.closed += 1

    async def __aenter__(self) -> Identity:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()


class Loopback(aiohttp.abc.AbstractResolver):
    """Every name is this machine, at one port."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[aiohttp.abc.ResolveResult]:
        return [
            {
                "hostname": host,
                "host": "127.0.0.1",
                "port": self.port,
                "family": socket.AF_INET,
                "proto": 0,
                "flags": socket.AI_NUMERICHOST,
            }
        ]

    async def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a vault for tests")])
    now = datetime.now(UTC)
    certificate_of_vault = (
        x509.CertificateBuilder(
            name,
            name,
            key.public_key(),
            x509.random_serial_number(),
            now - timedelta(hours=1),
            now + timedelta(hours=1),
        )
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName(f"*.{HOST.partition('.')[2]}")]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = tmp_path_factory.mktemp("vault") / "vault.pem"
    path.write_bytes(secret + certificate_of_vault.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.fixture
def identities(monkeypatch: pytest.MonkeyPatch) -> list[Identity]:
    """Those that were used, in their order."""
    used: list[Identity] = []

    def credential(authority: str) -> Identity:
        identity = Identity(authority)
        used.append(identity)
        return identity

    monkeypatch.setattr(vault, "credential_of_engine", credential)
    return used


@pytest.fixture
async def contoso(
    certificate: Path, identities: list[Identity], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Vault]:
    """A vault that the engine finds under its name, behind TLS."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate)
    running = Vault(server)
    await running.start()
    sessions: list[aiohttp.ClientSession] = []

    def transport() -> AioHttpTransport:
        trusting = ssl.create_default_context(cafile=str(certificate))
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(resolver=Loopback(running.port), ssl=trusting)
        )
        sessions.append(session)
        return AioHttpTransport(session=session, session_owner=True)

    monkeypatch.setattr(vault, "transport_to_vault", transport)
    yield running
    assert [session for session in sessions if not session.closed] == [], (
        "the client was not closed"
    )
    await running.stop()


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The SDK waits between its attempts: here it only says for how long."""
    waited: list[float] = []

    async def sleep(_: object, seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr(AioHttpTransport, "sleep", sleep)
    return waited


async def read(name: str = "hub-token", host: str = HOST) -> str:
    return (
        await read_secret(SecretIdentifier.parse(f"https://{host}/secrets/{name}"), "docker.io")
    ).reveal()


async def test_the_newest_version_of_a_secret_is_read_each_time(
    contoso: Vault, identities: list[Identity]
) -> None:
    for value in ("one", "two"):
        contoso.secrets["hub-token"] = value
        assert await read() == value
    assert [each.authority for each in identities] == ["login.microsoftonline.com"] * 2
    assert identities[0].scopes == ("https://vault.azure.net/.default",)
    assert all(each.closed for each in identities)
    assert contoso.requests[0].headers["host"] == HOST


@pytest.mark.parametrize(
    ("inner", "why"),
    [
        (None, "does not let the engine get secrets"),
        ("ForbiddenByFirewall", "the firewall"),
        ("SecretDisabled", "is disabled, expired or not valid yet"),
    ],
)
async def test_a_vault_that_refuses_makes_acrs_code(
    contoso: Vault, identities: list[Identity], inner: str | None, why: str
) -> None:
    error: dict[str, Any] = {
        "code": "Forbidden",
        "message": "The user, group or application 'x' does not have secrets get permission on key vault 'contoso'.",
    }
    if inner is not None:
        error["innererror"] = {"code": inner}
    contoso.refusals.append((403, {"error": error}, {}))
    with pytest.raises(SecretForbidden, match=why) as caught:
        await read()
    assert caught.value.code == "Forbidden"
    assert identities[0].closed


async def test_a_missing_secret_is_said_to_be_missing(contoso: Vault) -> None:
    with pytest.raises(
        SecretUnavailable, match=r"contoso\.vault\.azure\.net has no secret hub-token"
    ):
        await read()


async def test_an_empty_secret_is_said_to_be_empty(contoso: Vault) -> None:
    contoso.secrets["hub-token"] = ""
    with pytest.raises(SecretUnavailable, match="is empty"):
        await read()


async def test_a_vault_that_was_asked_too_often_is_asked_again(
    contoso: Vault, no_waiting: list[float]
) -> None:
    contoso.secrets["hub-token"] = "hunter2"
    throttled = {
        "error": {
            "code": "Throttled",
            "message": "Request was not processed because too many requests were received.",
        }
    }
    contoso.refusals = [(429, throttled, {"Retry-After": "1"})]
    with pytest.raises(SecretUnavailable, match="was asked too often"):
        await read()
    assert no_waiting == [1, 1]
    assert [request.status for request in contoso.requests].count(429) == 3


async def test_an_engine_without_an_identity_is_told_which_it_can_have(
    contoso: Vault, identities: list[Identity], monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = Identity("")
    monkeypatch.setattr(vault, "credential_of_engine", lambda _: identity)
    identity.error = ClientAuthenticationError(
        message="DefaultAzureCredential failed to retrieve a token: hunter2"
    )
    with pytest.raises(SecretUnavailable, match="AZURE_CLIENT_ID") as caught:
        await read()
    assert (caught.value.code, "hunter2" in caught.value.message) == ("SecretUnavailable", False)
    identity.error = ClientAuthenticationError(
        message="AADSTS700016: Application with identifier 'x' was not found in the directory 'y'."
    )
    with pytest.raises(SecretUnavailable) as caught:
        await read()
    assert caught.value.code == "unauthorized_client"
    assert identity.closed == 2


async def test_a_vault_that_does_not_answer_is_not_waited_for(
    contoso: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vault, "VAULT_TIMEOUT", 0.5)
    monkeypatch.setattr(Vault, "answer", lambda *_: Answer(200, hangs_after=-1))
    with pytest.raises(SecretUnavailable, match="has not answered"):
        await read()


async def test_a_vault_whose_certificate_is_for_another_name_is_not_believed(
    contoso: Vault, no_waiting: list[float]
) -> None:
    contoso.secrets["hub-token"] = "hunter2"
    with pytest.raises(SecretUnavailable, match="can't be reached, or is not a Key Vault"):
        await read(host="contoso.vault.azure.cn")
    assert contoso.requests == []


async def test_without_the_extra_it_is_said_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "azure.keyvault.secrets.aio", None)
    with pytest.raises(SecretUnavailable, match=r"pip install 'entrepot\[azure\]'"):
        await read()


async def test_a_secret_of_a_vault_is_in_no_log(
    contoso: Vault, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    contoso.secrets["hub-token"] = "hunter2"
    assert await read() == "hunter2"
    await asyncio.sleep(0)
    assert caplog.records
    assert "hunter2" not in caplog.text
    assert "the-token" not in caplog.text
