"""TLS that trusts the certificate authorities of the system.

truststore reads all authorities of the system for each connection: with OpenSSL these are 25 ms of
the event loop for each, in which nothing else is answered, and six layers of an image take six
connections at once. So where OpenSSL verifies, the authorities are read once, and again when their
files change. Elsewhere (macOS, Windows) the system itself verifies, through truststore.
"""

from __future__ import annotations

import os
import re
import ssl
import sys

STORES = (
    "/etc/ssl/cert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/cert.pem",
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
)
"""Where the authorities of the system may be, besides the paths of OpenSSL."""

_HASHED_NAME = re.compile(r"[0-9a-f]{8}\.\d+")
"""The name of a certificate in a directory that OpenSSL reads (openssl-rehash(1))."""

_VERIFIES_ITSELF = frozenset({"darwin", "win32"})
"""Systems that verify certificates themselves."""


def system_trust() -> ssl.SSLContext:
    """TLS for a client, with the authorities of the system. Blocks."""
    if sys.platform in _VERIFIES_ITSELF:
        import truststore

        return truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context = _SystemTrust(ssl.PROTOCOL_TLS_CLIENT)
    context.read_authorities()
    return context


def holds_hashed(directory: str) -> bool:
    """Whether OpenSSL finds certificates in a directory."""
    try:
        return any(_HASHED_NAME.fullmatch(entry.name) for entry in os.scandir(directory))
    except OSError:
        return False


class _SystemTrust(ssl.SSLContext):
    """TLS that reads the authorities of the system again when their file has changed.

    In a directory OpenSSL looks for an authority when it needs it.
    """

    _last_read: tuple[object, ...] | None = None
    """The file that was read last, as it was then."""

    def read_authorities(self) -> None:
        """Read the authorities, unless their file is the one that was read last."""
        defaults = ssl.get_default_verify_paths()
        file: str | None = defaults.cafile
        has_defaults = file is not None or (
            defaults.capath is not None and holds_hashed(defaults.capath)
        )
        if not has_defaults:
            file = next((path for path in STORES if os.path.isfile(path)), None)
        version = (file, defaults.capath, *_version(file))
        if version == self._last_read:
            return
        self._last_read = version
        if has_defaults:
            self.set_default_verify_paths()
        elif file is not None:
            self.load_verify_locations(cafile=file)

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """A connection, verified by the authorities as they are now."""
        self.read_authorities()
        return super().wrap_bio(incoming, outgoing, server_side, server_hostname, session)


def _version(file: str | None) -> tuple[int, ...]:
    try:
        status = os.stat(file) if file is not None else None
    except OSError:
        status = None
    return (status.st_mtime_ns, status.st_size, status.st_ino) if status is not None else ()
