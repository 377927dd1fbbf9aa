from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from entrepot.config.settings import Settings
from entrepot.core.credentials import CredentialSet
from entrepot.core.reference import Repository, Tag
from entrepot.source.errors import SourceAnswerInvalid, SourceUnreachable
from entrepot.source.sources import Sources
from tests.fakes import FakeRegistry, Redirect, TokenSignIn
from tests.source.conftest import registry

NGINX = Repository("library/nginx")

pytestmark = pytest.mark.usefixtures("each_transport")


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate for 127.0.0.1 that signs itself, and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "stand-in")])
    now = datetime.now(UTC)
    self_signed = (
        x509.CertificateBuilder(
            name,
            name,
            key.public_key(),
            x509.random_serial_number(),
            now - timedelta(hours=1),
            now + timedelta(hours=1),
        )
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = tmp_path / "stand-in.pem"
    path.write_bytes(secret + self_signed.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.fixture
def tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


async def test_a_certificate_that_the_system_does_not_know_is_refused(
    opened: Callable[..., Sources], tls: ssl.SSLContext
) -> None:
    async with FakeRegistry(tls=tls) as source:
        with pytest.raises(
            SourceUnreachable, match="its certificate is not trusted: self-signed certificate"
        ):
            await opened().client(registry(source.url), None).head_manifest(NGINX, Tag("latest"))
        assert not source.requests


async def test_a_certificate_that_the_system_knows_is_trusted(
    opened: Callable[..., Sources],
    tls: ssl.SSLContext,
    certificate: Path,
    credential_set: CredentialSet,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    async with FakeRegistry(TokenSignIn({"ann": "s3cret"}), tls=tls) as source:
        layer = (
            source.add_image("library/nginx", "latest", layers=[3_000_000])
            .platforms["linux/amd64"]
            .layers[0]
        )
        client = opened().client(registry(source.url), credential_set)
        await client.manifest(NGINX, Tag("latest"))
        async with client.blob(NGINX, layer.digest) as stream:
            assert b"".join([chunk async for chunk in stream]) == layer.content
        async with client.blob(NGINX, layer.digest) as stream:
            async for _ in stream:
                break
        await source.stop()
        with pytest.raises(SourceUnreachable, match="accepts no connections"):
            await client.head_manifest(NGINX, Tag("latest"))


async def test_from_https_no_redirect_leads_to_http(
    opened: Callable[..., Sources],
    tls: ssl.SSLContext,
    certificate: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    async with FakeRegistry(tls=tls) as source, FakeRegistry() as storage:
        source.fault("/manifests/", Redirect(f"{storage.url}/x"))
        with pytest.raises(SourceAnswerInvalid, match="from https to http"):
            await opened().client(registry(source.url), None).manifest(NGINX, Tag("latest"))
        assert not storage.requests


async def test_the_authority_in_the_settings_is_trusted_besides_those_of_the_system(
    opened: Callable[..., Sources], tls: ssl.SSLContext, certificate: Path, tmp_path: Path
) -> None:
    (tmp_path / "settings.toml").write_text(f'ca_file = "{certificate.name}"')
    ca_file = Settings.load(tmp_path / "settings.toml").ca_file
    assert ca_file == certificate
    async with FakeRegistry(tls=tls) as source:
        source.add_image("library/nginx", "latest")
        await (
            opened(ca_file=ca_file)
            .client(registry(source.url), None)
            .manifest(NGINX, Tag("latest"))
        )
        assert source.count("GET", "/manifests/latest") == 1
