"""Certificate, key and client authorities of a listener, as ``settings.toml`` names them."""

from __future__ import annotations

import stat
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from entrepot.certificates import CertificatesInvalid, foreign_format, read_certificates
from entrepot.config.settings_tables import SettingsInvalid, beside
from entrepot.secrets.exposure import find_exposure

if TYPE_CHECKING:
    import ssl

_ENCRYPTED: Final = (b"-----BEGIN ENCRYPTED PRIVATE KEY-----", b"Proc-Type: 4,ENCRYPTED")
"""How a key with a pass phrase begins (RFC 7468, section 11; RFC 1421, section 4.6.1.1)."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """The files of a listener that speaks TLS, all in PEM format."""

    certificate: Path
    """The server's certificate with those between it and its authority."""
    key: Path
    """The private key of the certificate, without a pass phrase."""
    client_authorities: Path | None = None
    """Authorities of the certificates that clients must send; None asks for none."""

    def paths(self) -> tuple[Path, ...]:
        """All of the files."""
        optional = () if self.client_authorities is None else (self.client_authorities,)
        return (self.certificate, self.key, *optional)

    def with_authorities_of(self, registry: TlsFiles | None) -> TlsFiles:
        """These files, with the client authorities of *registry* where they have none.

        What requires client certificates must not be open at an address beside it.
        """
        if registry is None or self.client_authorities is not None:
            return self
        return replace(self, client_authorities=registry.client_authorities)

    def context(self) -> ssl.SSLContext:
        """A server's TLS context of what the files hold now.

        TLS 1.2 and later, HTTP/1.1 only. Blocks; raises `SettingsInvalid`, whose ``field`` is the
        key of the file at fault.
        """
        import ssl

        _check_readable(self.certificate)
        _check_key(self.key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        # Renegotiation within TLS 1.2 serves no client, and costs the server more than the client.
        context.options |= getattr(ssl, "OP_NO_RENEGOTIATION", 0)
        self._load_pair(context)
        if self.client_authorities is not None:
            _require_client_certificates(context, self.client_authorities)
        return context

    def _load_pair(self, context: ssl.SSLContext) -> None:

        try:
            # Without a password OpenSSL would ask for a pass phrase on the terminal.
            context.load_cert_chain(self.certificate, self.key, password=lambda: b"")
        except (OSError, ValueError) as error:
            if getattr(error, "reason", "") == "KEY_VALUES_MISMATCH":
                raise SettingsInvalid(
                    f"The key in {self.key} is not that of the certificate in {self.certificate}.",
                    "Put the key and the certificate that were made together there. The file may "
                    "have several certificates: that of the server is the first one.",
                    field="key",
                ) from None
            hint = (
                foreign_format(self.certificate)
                or foreign_format(self.key)
                or "Both are in PEM format, and the key has no pass phrase."
            )
            raise SettingsInvalid(
                f"{self.certificate} and {self.key} are not a certificate and its key.",
                hint,
                field="certificate",
            ) from None


def tls_files(
    settings: Path,
    certificate: str | None,
    key: str | None,
    client_authorities: str | None = None,
) -> TlsFiles | None:
    """The files of these three keys, relative to the directory of *settings*.

    None where none of them is given. Blocks; raises `SettingsInvalid` where no server could use
    them.
    """
    if (certificate is None) != (key is None):
        missing, present = ("key", "certificate") if key is None else ("certificate", "key")
        raise SettingsInvalid(
            f"There is no {missing} beside the {present}.",
            "TLS needs both: give both, or none.",
            field=present,
        )
    if certificate is None or key is None:
        if client_authorities is not None:
            raise SettingsInvalid(
                "Certificates of clients are checked within TLS, and there is none.",
                "Give certificate and key too, or remove client_authorities.",
                field="client_authorities",
            )
        return None
    files = TlsFiles(
        beside(settings, certificate, "certificate"),
        beside(settings, key, "key"),
        None
        if client_authorities is None
        else beside(settings, client_authorities, "client_authorities"),
    )
    files.context()
    return files


def _require_client_certificates(context: ssl.SSLContext, authorities: Path) -> None:
    import ssl

    try:
        certificates = read_certificates(authorities)
    except CertificatesInvalid as error:
        raise SettingsInvalid(
            f"{authorities} {error}.", error.hint, field="client_authorities"
        ) from None
    except OSError as error:
        raise _unreadable("client_authorities", authorities, error) from None
    context.load_verify_locations(cadata=certificates)
    # An authority below another one is trusted without that one.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.verify_mode = ssl.CERT_REQUIRED


def _check_readable(certificate: Path) -> None:
    """Raise `SettingsInvalid` for a file that can't be read: OpenSSL does not say which one."""
    try:
        with certificate.open("rb") as opened:
            opened.read(1)
    except OSError as error:
        raise _unreadable("certificate", certificate, error) from None


def _check_key(key: Path) -> None:
    try:
        with key.open("rb") as opened:
            # A key that Docker or Kubernetes mounts has an open mode; only its place protects it
            # (F71).
            exposure = find_exposure(opened.fileno(), str(key), allowed=stat.S_IRWXG)
            beginning = opened.read(64 * 1024)
    except OSError as error:
        raise _unreadable("key", key, error) from None
    if exposure is not None:
        raise SettingsInvalid(
            f"The key in {key} is open to every user of this machine (mode {exposure.mode:04o}).",
            exposure.hint,
            field="key",
        )
    if any(mark in beginning for mark in _ENCRYPTED):
        raise SettingsInvalid(
            f"The key in {key} has a pass phrase, which an engine can't type.",
            f"Remove it: openssl pkey -in {key} -out PLAIN, with mode 0600; then name that file.",
            field="key",
        )


def _unreadable(field: str, file: Path, error: OSError) -> SettingsInvalid:
    what = field.replace("_", " ")
    return SettingsInvalid(
        f"The {what} in {file} can't be read: {error.strerror}.",
        f"Put the file there, or correct {field}."
        if isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError)
        else "Let the engine's user read it.",
        field=field,
    )
