"""The certificate of a server, read without trusting it, to say why it is refused.

The connection ends as soon as the certificate is here. Only where the time is in question, a
request goes over it, without any credential, and of its response nothing is used but the Date
header: what an untrusted server says decides no more than the words of an error.
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

PROBE_TIMEOUT = 10.0
"""Seconds that a probe may take in all; a client waits for it."""

CERTIFICATE_LENGTH = 64 * 1024
"""The longest certificate that is read, in bytes."""

EXAMPLES_IN_MESSAGE = 3
"""Names of a certificate that a message lists."""

NAME_LENGTH = 80
"""Characters of a name in a certificate that are kept."""

MAX_NAMES = 100
"""Names of a certificate that are kept."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """The certificate of a server.

    Times are in UTC; *date* is the Date header of the server, in seconds since the epoch.
    """

    names: tuple[str, ...]
    issuer: str
    is_self_signed: bool
    not_before: datetime
    not_after: datetime
    is_alone: bool
    """Whether it came without that of its issuer, and says where to get that one."""
    date: float | None


class _ProbeConnection(ssl.SSLObject):
    """A connection that ends once the certificate is here, unless a date is asked for."""

    def do_handshake(self) -> None:
        """Do one step; at the end the context remembers the connection.

        Raises `ssl.SSLError` to end it.
        """
        super().do_handshake()
        context = self.context
        assert isinstance(context, _ProbeContext)
        context.last = self
        if not context.asks_date:
            raise ssl.SSLError("the certificate is here")


class _ProbeContext(ssl.SSLContext):
    """TLS that trusts every certificate and remembers the last connection."""

    sslobject_class = _ProbeConnection
    last: ssl.SSLObject | None = None
    asks_date = False


async def fetch_certificate(url: httpx.URL, reach: Reach, *, asks_date: bool) -> Certificate | None:
    """The certificate of the host of *url*; None where it can't be fetched.

    The connection has the usual guards and proxies. With *asks_date* one request without
    credentials asks the host for the time as well.
    """
    from entrepot.source.transport import SourceTransport

    tls = _ProbeContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.asks_date = asks_date
    tls.check_hostname = False
    tls.verify_mode = ssl.CERT_NONE
    transport = SourceTransport(tls, connections=1, reach=reach, lookup_timeout=PROBE_TIMEOUT)
    date = None
    try:
        with suppress(TimeoutError, httpx.TransportError, ValueError):
            async with asyncio.timeout(PROBE_TIMEOUT):
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
        async with asyncio.timeout(PROBE_TIMEOUT):
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
    timeout = httpx.Timeout(PROBE_TIMEOUT / 2)
    address = url.copy_with(path="/v2/", query=None)
    return httpx.Request("HEAD", address, extensions={"timeout": timeout.as_dict()})


def _read(connection: ssl.SSLObject, date: float | None) -> Certificate | None:
    """Read a certificate. Blocks for the import of cryptography.

    keyring's backend for Linux depends on it anyway.
    """
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
        # The faults of a foreign certificate are no news for the log.
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
    hosts = [*names.get_values_for_type(x509.DNSName)]
    hosts += [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    return tuple(printable(host, NAME_LENGTH) for host in hosts[:MAX_NAMES])


def _name(name: x509.Name) -> str:
    """The common name, else the organisation, else all of it."""
    from cryptography.x509.oid import NameOID

    for kind in (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME):
        for attribute in name.get_attributes_for_oid(kind):
            value = attribute.value
            return printable(value if isinstance(value, str) else value.hex(), NAME_LENGTH)
    return printable(name.rfc4514_string(), NAME_LENGTH) or "an issuer without a name"


def _names_issuer(certificate: x509.Certificate) -> bool:
    """Whether it says where its issuer's certificate is (RFC 5280, section 4.2.2.1)."""
    from cryptography import x509
    from cryptography.x509.oid import AuthorityInformationAccessOID

    try:
        access = certificate.extensions.get_extension_for_class(
            x509.AuthorityInformationAccess
        ).value
    except x509.ExtensionNotFound:
        return False
    return any(
        description.access_method == AuthorityInformationAccessOID.CA_ISSUERS
        for description in access
    )


def _chain_length(connection: ssl.SSLObject) -> int | None:
    """How many certificates the server sent; None where this Python does not say.

    The function is public from Python 3.13 on.
    """
    chain = getattr(connection, "get_unverified_chain", None)
    if chain is None:
        chain = getattr(getattr(connection, "_sslobj", None), "get_unverified_chain", None)
    certificates = chain() if chain is not None else None
    return None if certificates is None else len(certificates)
