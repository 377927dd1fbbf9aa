"""The certificate authorities of the system."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from entrepot.source import system_trust
from entrepot.source.system_trust import STORES
from tests.authority import CertificateAuthority
from tests.source.conftest import verify_paths


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was read for each reading of authorities."""
    reads: list[str] = []

    def read_defaults(context: ssl.SSLContext) -> None:
        reads.append("defaults")
        ssl.SSLContext.set_default_verify_paths(context)

    monkeypatch.setattr(system_trust._SystemTrust, "set_default_verify_paths", read_defaults)
    return reads


def connect(context: ssl.SSLContext) -> None:
    context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="registry.example.com")


def subjects(context: ssl.SSLContext) -> int:
    return context.cert_store_stats()["x509"]


def test_authorities_are_read_once_for_all_connections(
    reads: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(CertificateAuthority(tmp_path, "First").path))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "none"))
    context = system_trust.system_trust()
    for _ in range(5):
        connect(context)

    assert reads == ["defaults"]
    assert subjects(context) == 1


def test_an_authority_that_comes_is_trusted_by_the_next_connection(
    reads: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by truststore, without a restart of the engine."""
    first = CertificateAuthority(tmp_path, "First").path
    second = CertificateAuthority(tmp_path, "Other").path
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes(first.read_bytes())
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "none"))
    context = system_trust.system_trust()
    bundle.write_bytes(first.read_bytes() + second.read_bytes())
    assert subjects(context) == 1

    connect(context)

    assert subjects(context) == 2
    assert len(reads) == 2


def test_a_store_where_openssl_does_not_look_is_read_as_well(
    reads: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: verify_paths(None, None))
    monkeypatch.setattr(
        system_trust,
        "STORES",
        (str(tmp_path / "none"), str(CertificateAuthority(tmp_path, "First").path)),
    )
    context = system_trust.system_trust()
    connect(context)

    assert reads == []
    assert subjects(context) == 1


def test_a_machine_without_a_store_trusts_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: verify_paths(None, None))
    monkeypatch.setattr(system_trust, "STORES", (str(tmp_path / "none"),))
    context = system_trust.system_trust()

    assert subjects(context) == 0
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


def test_it_looks_wherever_truststore_looks() -> None:
    import truststore._openssl

    assert set(truststore._openssl._CA_FILE_CANDIDATES) <= set(STORES)


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_systems_that_verify_themselves_are_asked(
    platform: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import truststore

    monkeypatch.setattr("sys.platform", platform)
    assert isinstance(system_trust.system_trust(), truststore.SSLContext)
