"""A private certificate authority and a server certificate, for trying out TLS."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from entrepot.core.hosts import HOST_LENGTH
from entrepot.core.reference import quoted
from entrepot.errors import EngineError

AUTHORITY_DAYS: Final = 3650
SERVER_DAYS: Final = 397
"""Days of a server's certificate. Some clients take none that is longer (CA/Browser Forum, Baseline
Requirements, 6.3.2)."""

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"(?:\*\.)?{_LABEL}(?:\.{_LABEL})*")


@dataclass(frozen=True, slots=True)
class PrivateAuthority:
    """The files of an authority and of the server certificate that it signed, all in PEM format."""

    directory: Path

    @property
    def certificate(self) -> Path:
        """The authority's certificate, which clients trust."""
        return self.directory / "authority.crt"

    @property
    def key(self) -> Path:
        """The authority's private key."""
        return self.directory / "authority.key"

    @property
    def server_certificate(self) -> Path:
        """The server's certificate."""
        return self.directory / "server.crt"

    @property
    def server_key(self) -> Path:
        """The server's private key."""
        return self.directory / "server.key"


def create_authority(directory: Path, hosts: Sequence[str]) -> PrivateAuthority:
    """Create an authority in *directory*, and a server certificate for *hosts*.

    Hosts are names, also ``*.example.com``, and addresses. An authority that is there already signs
    the new certificate. No file is overwritten; keys are for this user only. Raises `EngineError`.
    """
    files = PrivateAuthority(directory)
    names = [_general_name(host) for host in hosts]
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        has_authority = files.certificate.exists() and files.key.exists()
        mine = (files.server_certificate, files.server_key)
        for file in mine if has_authority else (files.certificate, files.key, *mine):
            if os.path.lexists(file):
                raise EngineError(
                    f"{file} is there already.",
                    "Name another directory, or remove what is no longer needed.",
                )
        if has_authority:
            certificate, key = _load(files)
        else:
            certificate, key = _authority()
            _write(files.key, _private(key), 0o600)
            _write(files.certificate, _public(certificate), 0o644)
        server_key = ec.generate_private_key(ec.SECP256R1())
        _write(files.server_key, _private(server_key), 0o600)
        server = _server(names, hosts, server_key, certificate, key)
        _write(files.server_certificate, _public(server), 0o644)
    except OSError as error:
        raise EngineError(
            f"{error.filename or directory} can't be written: {error.strerror}.",
            "Name another directory.",
        ) from None
    return files


def _authority() -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Entrepot private authority")])
    usage = _usage(signs_certificates=True)
    certificate = (
        _builder(name, name, key, AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate, key


def _server(
    names: Sequence[x509.GeneralName],
    hosts: Sequence[str],
    key: ec.EllipticCurvePrivateKey,
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0][:64])])
    return (
        _builder(subject, authority.subject, key, SERVER_DAYS)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()),
            critical=False,
        )
        .sign(authority_key, hashes.SHA256())
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return x509.CertificateBuilder(
        issuer,
        subject,
        key.public_key(),
        x509.random_serial_number(),
        # Clocks of clients may be behind.
        now - timedelta(hours=1),
        now + timedelta(days=days),
    ).add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _load(files: PrivateAuthority) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    try:
        certificate = x509.load_pem_x509_certificate(files.certificate.read_bytes())
        key = serialization.load_pem_private_key(files.key.read_bytes(), None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise EngineError(
            f"{files.certificate} and {files.key} are not an authority that this command created.",
            "Name another directory.",
        )
    return certificate, key


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        name = host.lower().rstrip(".")
    if not _NAME.fullmatch(name) or len(name) > HOST_LENGTH:
        raise EngineError(
            f"{quoted(host)} is not a host name or an address.",
            "Write it without a scheme, port or path: --host cache.example.com.",
        )
    return x509.DNSName(name)


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _public(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _write(file: Path, content: bytes, mode: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with open(os.open(file, flags, mode), "wb") as opened:
        opened.write(content)
