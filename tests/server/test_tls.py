"""Certificates are read again when their files change."""

from __future__ import annotations

import os
import ssl
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from entrepot.config.settings import SettingsInvalid, TlsFiles
from entrepot.event_kinds import EventKind
from entrepot.events import EventLog
from entrepot.server.tls import TlsCertificates
from tests.authority import CertificateAuthority

NOW = datetime.now(UTC)


class Served:
    """A directory with a certificate and its key, and what clients get of it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.authority = CertificateAuthority(root, "authority")
        self.events = EventLog(lambda: NOW.timestamp())
        self.certificates = TlsCertificates(self.events, lambda: NOW.timestamp())
        self.files = TlsFiles(root / "server.crt", root / "server.key")

    def issue(self, days: int = 30) -> tuple[bytes, bytes]:
        """A certificate and its key."""
        before = set(self.root.glob("server-*.pem"))
        self.authority.server(
            ["localhost"], ends=NOW + timedelta(days=days), begins=NOW.replace(year=2020)
        )
        (pem,) = set(self.root.glob("server-*.pem")) - before
        key = serialization.load_pem_private_key(pem.read_bytes(), None)
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        certificate = pem.read_bytes()[pem.read_bytes().index(b"-----BEGIN CERTIFICATE") :]
        return certificate, private

    def write(self, certificate: bytes, key: bytes) -> None:
        self.files.certificate.write_bytes(certificate)
        self.files.key.write_bytes(key)
        self.files.key.chmod(0o600)

    def kinds(self) -> list[EventKind]:
        return [event.kind for event in self.events.recent()]


def peer_certificate(context: ssl.SSLContext) -> bytes:
    """What a client of this server context gets, in DER format."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server_side = context.wrap_bio(to_server, to_client, server_side=True)
    client_side = client.wrap_bio(to_client, to_server, server_hostname="localhost")
    for _ in range(4):
        for side in (client_side, server_side):
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
    certificate = client_side.getpeercert(binary_form=True)
    assert certificate is not None
    return certificate


@pytest.fixture
def served(tmp_path: Path) -> Served:
    return Served(tmp_path)


async def test_a_renewed_pair_is_for_new_connections(served: Served) -> None:
    served.write(*served.issue())
    tls = await served.certificates.add(served.files)
    first, context = peer_certificate(tls.context()), tls.context()
    await served.certificates.refresh()
    assert tls.context() is context
    served.write(*served.issue(90))
    await served.certificates.refresh()
    assert peer_certificate(tls.context()) != first
    assert served.kinds() == [EventKind.CERTIFICATE_READ]
    assert (NOW + timedelta(days=90)).strftime("%Y-%m-%d") in served.events.recent()[0].message


async def test_client_authorities_that_changed_are_named_once(served: Served) -> None:
    served.write(*served.issue())
    shared = served.root / "clients.pem"
    shared.write_bytes(served.authority.content)
    other = TlsFiles(served.root / "other.crt", served.root / "other.key", shared)
    other.certificate.write_bytes(served.files.certificate.read_bytes())
    other.key.write_bytes(served.files.key.read_bytes())
    other.key.chmod(0o600)
    for files in (replace(served.files, client_authorities=shared), other):
        await served.certificates.add(files)
    shared.write_bytes(CertificateAuthority(served.root, "another").content)
    await served.certificates.refresh()
    [event] = served.events.recent()
    assert event.kind is EventKind.CERTIFICATE_READ
    assert event.message == f"The client authorities in {shared} were read again."
    assert event.subject == str(shared)


async def test_a_key_that_is_written_anew_for_its_certificate_is_named(served: Served) -> None:
    certificate, key = served.issue()
    served.write(certificate, key)
    await served.certificates.add(served.files)
    served.files.key.write_bytes(key + b"\n")
    await served.certificates.refresh()
    [event] = served.events.recent()
    assert event.message == f"The key in {served.files.key} was read again."


async def test_a_pair_that_is_half_written_does_not_take_the_last_one_away(
    served: Served,
) -> None:
    served.write(*served.issue())
    tls = await served.certificates.add(served.files)
    first = peer_certificate(tls.context())
    certificate, key = served.issue()
    served.files.certificate.write_bytes(certificate)
    await served.certificates.refresh()
    assert served.kinds() == [], "the key may follow in a moment"
    for _ in range(3):
        await served.certificates.refresh()
    assert served.kinds() == [EventKind.CERTIFICATE_REFUSED]
    assert "is not that of the certificate" in (tls.served.problem or "")
    assert peer_certificate(tls.context()) == first
    served.files.key.write_bytes(key)
    await served.certificates.refresh()
    assert peer_certificate(tls.context()) != first
    assert tls.served.problem is None


async def test_a_symbolic_link_that_is_swapped_is_followed(served: Served) -> None:
    """As Kubernetes does for a secret: ..data points to a directory for each version."""
    for version in ("1", "2"):
        (served.root / version).mkdir()
        certificate, key = served.issue()
        (served.root / version / "tls.crt").write_bytes(certificate)
        (served.root / version / "tls.key").write_bytes(key)
        (served.root / version / "tls.key").chmod(0o600)
    data = served.root / "..data"
    data.symlink_to("1")
    tls = await served.certificates.add(TlsFiles(data / "tls.crt", data / "tls.key"))
    first = peer_certificate(tls.context())
    (served.root / "next").symlink_to("2")
    os.replace(served.root / "next", data)
    await served.certificates.refresh()
    assert peer_certificate(tls.context()) != first


async def test_files_that_are_gone_for_a_while_are_a_problem_until_they_are_back(
    served: Served,
) -> None:
    served.write(*served.issue())
    tls = await served.certificates.add(served.files)
    away = served.files.key.rename(served.root / "away")
    for _ in range(2):
        await served.certificates.refresh()
    assert "can't be read: No such file" in (tls.served.problem or "")
    away.rename(served.files.key)
    await served.certificates.refresh()
    assert tls.served.problem is None
    assert served.kinds() == [EventKind.CERTIFICATE_REFUSED]


async def test_an_expired_certificate_is_served_and_reported(served: Served) -> None:
    served.write(*served.issue(-1))
    tls = await served.certificates.add(served.files)
    assert served.kinds() == [EventKind.CERTIFICATE_EXPIRED]
    assert peer_certificate(tls.context())


async def test_a_pair_is_read_once_for_all_its_listeners(served: Served) -> None:
    served.write(*served.issue())
    assert await served.certificates.add(served.files) is await served.certificates.add(
        served.files
    )
    assert len(served.certificates.served) == 1


async def test_a_pair_that_can_not_be_used_at_the_start_is_refused(served: Served) -> None:
    certificate, _ = served.issue()
    served.write(certificate, served.issue()[1])
    with pytest.raises(SettingsInvalid, match="is not that of the certificate"):
        await served.certificates.add(served.files)
