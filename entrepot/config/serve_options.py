"""Options of ``entrepot serve`` that take the place of keys in ``settings.toml``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from entrepot.config.settings import Settings
from entrepot.config.settings_tables import parse_listen
from entrepot.config.tls_settings import tls_files


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """The options; None and False leave the settings as they are."""

    listen: str | None = None
    certificate: Path | None = None
    key: Path | None = None
    client_authorities: Path | None = None
    allow_plain_http: bool = False
    allow_anonymous: bool = False

    def applied_to(self, settings: Settings) -> Settings:
        """The settings with these options; files are relative to the working directory.

        Mirrors that have the registry's certificate get the one of the options too. Blocks; raises
        `SettingsInvalid`.
        """
        if self.listen is not None:
            parse_listen(self.listen)
        tls = settings.tls
        if self.certificate is not None or self.key is not None or self.client_authorities:
            certificate, key, authorities = self.certificate, self.key, self.client_authorities
            if tls is not None:
                if certificate is None and key is None:
                    certificate, key = tls.certificate, tls.key
                authorities = authorities or tls.client_authorities
            names = (
                None if file is None else str(file) for file in (certificate, key, authorities)
            )
            tls = tls_files(Path.cwd() / "options", *names)
        mirrors = tuple(
            replace(mirror, tls=tls)
            if mirror.listen is not None and not mirror.plain_http and mirror.tls == settings.tls
            else mirror
            for mirror in settings.mirrors
        )
        return replace(
            settings,
            listen=settings.listen if self.listen is None else self.listen,
            tls=tls,
            mirrors=mirrors,
            allow_plain_http=settings.allow_plain_http or self.allow_plain_http,
            allow_anonymous=True if self.allow_anonymous else settings.allow_anonymous,
        )
