"""TLS of the listeners: certificates are read again when their files change.

The files are polled, and symbolic links followed, because the files are replaced in many ways:
Kubernetes swaps a link to a directory, certbot a link to a file, and others write in place.
New connections get what was read last; open connections are not touched.
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Set
from pathlib import Path

from cryptography import x509

from entrepot.config.settings_tables import SettingsInvalid
from entrepot.config.tls_settings import TlsFiles
from entrepot.engine.certificates import ServedCertificate
from entrepot.event_kinds import EventKind, Severity
from entrepot.events import EventLog
from entrepot.formatting import day

CHECK_INTERVAL = 2.0
"""Seconds between two looks at the files."""

Signature = tuple[tuple[int, ...] | None, ...]
"""Device, inode, size and time of the last change of each file; None for one that is gone."""


class ServerTls:
    """The TLS of one certificate; new connections get what was read last."""

    def __init__(
        self, files: TlsFiles, by_host: Mapping[str, Callable[[], ssl.SSLContext]] | None = None
    ) -> None:
        """Read *files*. Blocks; raises `SettingsInvalid`.

        *by_host* has the contexts of hosts with a certificate of their own (RFC 6066, section 3).
        """
        self._files = files
        self._by_host = by_host or {}
        self._signature = _signature(files)
        self._refused: Signature | None = None
        """The files that could not be used at the last look."""
        self._context, self._context_with_hosts = self._read()
        self._digests = _digests(files)
        self.served = ServedCertificate(files.certificate, _expiry(files.certificate))

    def context(self) -> ssl.SSLContext:
        """The context for a new connection."""
        return self._context

    def context_with_hosts(self) -> ssl.SSLContext:
        """The context for a new connection that may name a host with its own certificate."""
        return self._context_with_hosts

    def refresh(self) -> dict[Path, str]:
        """Read the files again if they changed; those that did, with a sentence about each.

        A key that changed with its certificate is not in it.
        Files that can't be used are looked at once more, because a certificate and its key may be
        written one after the other; then ``served`` says what is wrong. Blocks.
        """
        signature = _signature(self._files)
        if signature == self._signature and self.served.problem is None:
            return {}
        try:
            contexts, digests = self._read(), _digests(self._files)
            expires = _expiry(self._files.certificate)
        except (SettingsInvalid, OSError, ValueError) as error:
            if signature == self._refused:
                self.served.problem = getattr(error, "what", None) or str(error)
            self._refused = signature
            return {}
        if signature != _signature(self._files):
            return {}
        changed = {path for path in digests if digests[path] != self._digests[path]}
        self._context, self._context_with_hosts = contexts
        self._digests, self._signature = digests, signature
        self._refused = None
        self.served.expires, self.served.problem = expires, None
        return dict(self._sentences(changed))

    def _sentences(self, changed: Set[Path]) -> Iterator[tuple[Path, str]]:
        files = self._files
        if files.certificate in changed:
            yield (
                files.certificate,
                f"The certificate in {files.certificate} was read again: it is valid until "
                f"{day(self.served.expires)}.",
            )
        elif files.key in changed:
            yield files.key, f"The key in {files.key} was read again."
        authorities = files.client_authorities
        if authorities is not None and authorities in changed:
            yield authorities, f"The client authorities in {authorities} were read again."

    def _read(self) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        context = self._files.context()
        if not self._by_host:
            return context, context
        with_hosts = self._files.context()
        with_hosts.sni_callback = self._choose
        return context, with_hosts

    def _choose(
        self, handshake: ssl.SSLSocket | ssl.SSLObject, host: str | None, _: ssl.SSLContext
    ) -> None:
        """Give a client the certificate of the host that it names."""
        if host is not None and (context := self._by_host.get(host.lower())) is not None:
            handshake.context = context()


class TlsCertificates:
    """The certificates of all listeners of an engine."""

    def __init__(self, events: EventLog, clock: Callable[[], float] = time.time) -> None:
        """*clock* is in seconds since the epoch."""
        self._events = events
        self._clock = clock
        self._all: dict[TlsFiles, ServerTls] = {}

    async def add(
        self, files: TlsFiles, by_host: Mapping[str, TlsFiles] | None = None
    ) -> ServerTls:
        """The TLS of *files*, read once however many listeners have them.

        *by_host* are the files of hosts with their own certificate; the first listener that has
        *files* gives them. Raises `SettingsInvalid`.
        """
        if files not in self._all:
            contexts = {
                host: (await self.add(own)).context
                for host, own in (by_host or {}).items()
                if own != files
            }
            self._all[files] = await asyncio.to_thread(ServerTls, files, contexts)
            self._warn_if_expired(self._all[files].served)
        return self._all[files]

    @property
    def served(self) -> list[ServedCertificate]:
        """What clients get."""
        return [each.served for each in self._all.values()]

    async def watch(self) -> None:
        """Read files again when they change, until cancelled."""
        while True:
            await asyncio.sleep(CHECK_INTERVAL)
            await self.refresh()

    async def refresh(self) -> None:
        """Read the files that changed, and record what came of it."""
        recorded: set[Path] = set()
        for tls in list(self._all.values()):
            before = tls.served.problem
            changed = await asyncio.to_thread(tls.refresh)
            served = tls.served
            # Several listeners may have a file.
            for file in [file for file in changed if file not in recorded]:
                recorded.add(file)
                self._events.record(EventKind.CERTIFICATE_READ, changed[file], str(file))
                if file == served.file:
                    self._warn_if_expired(served)
            if served.problem is not None and served.problem != before:
                self._events.record(
                    EventKind.CERTIFICATE_REFUSED,
                    f"{served.problem} What was read before goes on being used.",
                    str(served.file),
                    severity=Severity.ERROR,
                )

    def _warn_if_expired(self, served: ServedCertificate) -> None:
        if served.expires <= self._clock():
            # A client that does not check certificates can still pull, so the engine serves.
            self._events.record(
                EventKind.CERTIFICATE_EXPIRED,
                f"The certificate in {served.file} expired at {day(served.expires)}: "
                "clients refuse it. Renew it in place: it is read again by itself.",
                str(served.file),
                severity=Severity.ERROR,
            )


def _signature(files: TlsFiles) -> Signature:
    return tuple(_file_signature(path) for path in files.paths())


def _file_signature(path: Path) -> tuple[int, ...] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _digests(files: TlsFiles) -> dict[Path, bytes]:
    return {path: hashlib.sha256(path.read_bytes()).digest() for path in files.paths()}


def _expiry(certificate: Path) -> float:
    """When the server's certificate expires, in seconds since the epoch."""
    first = x509.load_pem_x509_certificates(certificate.read_bytes())[0]
    return first.not_valid_after_utc.timestamp()
