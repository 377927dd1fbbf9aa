"""TLS of the listeners: contexts of the certificates that their files hold now."""

from __future__ import annotations

import ssl

from entrepot.config.tls_settings import TlsFiles


class ServerTls:
    """The TLS of one certificate; new connections get what was read last."""

    def __init__(self, files: TlsFiles) -> None:
        """Read *files*. Blocks; raises `SettingsInvalid`."""
        self.files = files
        self._context = files.context()

    def context(self) -> ssl.SSLContext:
        """The context for a new connection."""
        return self._context
