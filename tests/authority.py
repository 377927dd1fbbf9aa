"""Certificates with one fault, from an authority that a test must trust explicitly."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import AuthorityInformationAccessOID, NameOID


class CertificateAuthority:
    """Signs certificates. Its own is in `path`; with *above* another one signs it.

    Its own certificate is good from 2015 to 2100: what is wrong with the time is wrong with a leaf.
    """

    def __init__(self, root: Path, name: str, above: CertificateAuthority | None = None) -> None:
        self._root = root
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._above = above
        signer = above if above is not None else self
        certificate = (
            x509.CertificateBuilder(
                signer._name,
                self._name,
                self._key.public_key(),
                x509.random_serial_number(),
                datetime(2015, 1, 1, tzinfo=UTC),
                datetime(2100, 1, 1, tzinfo=UTC),
            )
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(signer._key, hashes.SHA256())
        )
        self.content = certificate.public_bytes(serialization.Encoding.PEM)
        self.path = root / f"{name.replace(' ', '-')}.pem"
        self.path.write_bytes(self.content)

    def server(
        self,
        names: Sequence[str] = ("127.0.0.1",),
        *,
        begins: datetime | None = None,
        ends: datetime | None = None,
        chain: bool = True,
        is_public: bool = False,
    ) -> ssl.SSLContext:
        """What a server needs; without *chain* it sends its own certificate alone.

        *is_public*: the certificate says where its issuer's is, as those of public authorities do.
        """
        now = datetime.now(UTC)
        key = ec.generate_private_key(ec.SECP256R1())
        builder = x509.CertificateBuilder(
            self._name,
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])]),
            key.public_key(),
            x509.random_serial_number(),
            begins or now - timedelta(days=1),
            ends or now + timedelta(days=30),
        ).add_extension(
            x509.SubjectAlternativeName([_general_name(each) for each in names]), critical=False
        )
        if is_public:
            place = x509.UniformResourceIdentifier("http://authority.example/issuer.crt")
            access = x509.AccessDescription(AuthorityInformationAccessOID.CA_ISSUERS, place)
            builder = builder.add_extension(
                x509.AuthorityInformationAccess([access]), critical=False
            )
        certificate = builder.sign(self._key, hashes.SHA256())
        secret = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        path = self._root / f"server-{x509.random_serial_number()}.pem"
        above = self.content if chain and self._above is not None else b""
        path.write_bytes(secret + certificate.public_bytes(serialization.Encoding.PEM) + above)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
