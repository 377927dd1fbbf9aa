"""The certificate that a server presents, looked at without trusting it, to say why it is refused.

The connection ends as soon as the certificate is here. Only where it is the time that is in
question, a request goes over it, without any credential, and of its answer nothing is used but the
Date header: what a stranger says decides no more than the words of an error.
"""

from __future__ import annotations

import asyncio
import ssl
import warnings
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import httpx

from entrepot.formatting import printable
from entrepot.source.environment import parse_date

if TYPE_CHECKING:
    from cryptography import x509

    from entrepot.source.addresses import Reach

PRESENT_TIMEOUT = 10.0
"""Seconds that a look at a certificate may take in all; its client waits."""

CERTIFICATE_LENGTH = 64 * 1024
"""The longest certificate that is read, in bytes."""

NAMES_SHOWN = 3
"""Names of a certificate in a sentence."""

TEXT_LENGTH = 80
"""Characters of a name that a certificate gives."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a server presented. Times are in UTC; *date* is what it says the time is."""

    names: tuple[str, ...]
    issuer: str
    is_self_signed: bool
    not_before: datetime
    not_after: datetime
    is_alone: bool
    """Whether it came without that of its issuer, which it says where to get."""
    date: float | None


class _Handshake(ssl.SSLObject):
    """An end of a connection that is over once the certificate is here, unless a date is asked for."""

    def do_handshake(self) -> None:
        """One step; at the end the context remembers the connection. Raises `ssl.SSLError` to end
        it."""
        super().do_handshake()
        looking = self.context
        assert isinstance(looking, _Looking)
        looking.last = self
        if not looking.asks_date:
            raise ssl.SSLError("the certificate is here")


class _Looking(ssl.SSLContext):
    """TLS that trusts everybody and remembers the last connection."""

    sslobject_class = _Handshake
    last: ssl.SSLObject | None = None
    asks_date = False


async def presented(url: httpx.URL, reach: Reach, *, asks_date: bool) -> Certificate | None:
    """What the host of *url* presents, reached as ever (guards and proxies); None: can't be seen.

    With *asks_date* one request without credentials asks it for the time as well.
    """
    from entrepot.source.transport import SourceTransport

    tls = _Looking(ssl.PROTOCOL_TLS_CLIENT)
    tls.asks_date = asks_date
    tls.check_hostname = False
    tls.verify_mode = ssl.CERT_NONE
    transport = SourceTransport(tls, connections=1, reach=reach, lookup_timeout=PRESENT_TIMEOUT)
    date = None
    try:
        with suppress(TimeoutError, httpx.TransportError, ValueError):
            async with asyncio.timeout(PRESENT_TIMEOUT):
                response = await transport.handle_async_request(_head(url))
                date = parse_date(response.headers.get("date"))
                await response.aclose()
        return None if tls.last is None else await asyncio.to_thread(_read, tls.last, date)
    finally:
        await transport.aclose()


async def speaks_http(url: httpx.URL, reach: Reach) -> bool:
    """Whether the host and port of an https address answer plain HTTP."""
    from entrepot.source.transport import SourceTransport

    port = url.port or 443
    transport = SourceTransport(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), connections=1, reach=reach)
    try:
        async with asyncio.timeout(PRESENT_TIMEOUT):
            response = await transport.handle_async_request(
                _head(url.copy_with(scheme="http", port=port))
            )
            await response.aclose()
    except (TimeoutError, httpx.TransportError, ValueError):
        return False
    finally:
        await transport.aclose()
    return True


def _head(url: httpx.URL) -> httpx.Request:
    timeout = httpx.Timeout(PRESENT_TIMEOUT / 2)
    address = url.copy_with(path="/v2/", query=None)
    return httpx.Request("HEAD", address, extensions={"timeout": timeout.as_dict()})


def _read(connection: ssl.SSLObject, date: float | None) -> Certificate | None:
    """Blocks for the import of cryptography, which keyring's backend for Linux brings anyway."""
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        content = connection.getpeercert(binary_form=True)
    except ValueError:
        # No handshake came to its end.
        return None
    if content is None or len(content) > CERTIFICATE_LENGTH:
        return None
    with warnings.catch_warnings():
        # What a foreign certificate does against the rules is no news for this log.
        warnings.simplefilter("ignore")
        try:
            certificate = x509.load_der_x509_certificate(content)
            return Certificate(
                names=_names(certificate),
                issuer=_name(certificate.issuer),
                is_self_signed=certificate.issuer == certificate.subject,
                not_before=certificate.not_valid_before_utc,
                not_after=certificate.not_valid_after_utc,
                is_alone=_chain_length(connection) == 1 and _names_issuer(certificate),
                date=date,
            )
        except (ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension):
            return None


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    from cryptography import x509

    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    found = [*names.get_values_for_type(x509.DNSName)]
    found += [str(each) for each in names.get_values_for_type(x509.IPAddress)]
    return tuple(printable(each, TEXT_LENGTH) for each in found[:100])


def _name(name: x509.Name) -> str:
    """The common name, else the organisation, else all of it."""
    from cryptography.x509.oid import NameOID

    for kind in (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME):
        for attribute in name.get_attributes_for_oid(kind):
            value = attribute.value
            return printable(value if isinstance(value, str) else value.hex(), TEXT_LENGTH)
    return printable(name.rfc4514_string(), TEXT_LENGTH) or "an issuer without a name"


def _names_issuer(certificate: x509.Certificate) -> bool:
    """Whether it says where its issuer's certificate is (RFC 5280, 4.2.2.1), as public ones do."""
    from cryptography import x509
    from cryptography.x509.oid import AuthorityInformationAccessOID

    try:
        access = certificate.extensions.get_extension_for_class(
            x509.AuthorityInformationAccess
        ).value
    except x509.ExtensionNotFound:
        return False
    return any(each.access_method == AuthorityInformationAccessOID.CA_ISSUERS for each in access)


def _chain_length(connection: ssl.SSLObject) -> int | None:
    """Certificates that were sent; None where this Python does not tell (public from 3.13)."""
    chain = getattr(connection, "get_unverified_chain", None)
    if chain is None:
        chain = getattr(getattr(connection, "_sslobj", None), "get_unverified_chain", None)
    certificates = chain() if chain is not None else None
    return None if certificates is None else len(certificates)
