"""Options of ``entrepot serve`` that take the place of keys in ``settings.toml``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from entrepot.config.mirror_settings import Mirror
from entrepot.config.settings import Settings
from entrepot.config.settings_tables import parse_listen
from entrepot.config.tls_settings import TlsFiles, tls_files


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

        Mirrors that have the registry's certificate or client authorities get those of the options
        too. Blocks; raises `SettingsInvalid`.
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
        mirrors = tuple(_with_tls(mirror, settings.tls, tls) for mirror in settings.mirrors)
        return replace(
            settings,
            listen=settings.listen if self.listen is None else self.listen,
            tls=tls,
            mirrors=mirrors,
            allow_plain_http=settings.allow_plain_http or self.allow_plain_http,
            allow_anonymous=True if self.allow_anonymous else settings.allow_anonymous,
        )


def _with_tls(mirror: Mirror, before: TlsFiles | None, now: TlsFiles | None) -> Mirror:
    """The mirror of a registry whose TLS was *before* in the settings, and is *now* another."""
    if mirror.listen is None or mirror.plain_http:
        return mirror
    if mirror.tls is None or mirror.tls == before:
        return replace(mirror, tls=now)
    inherited = None if before is None else before.client_authorities
    if mirror.tls.client_authorities != inherited:
        return mirror
    return replace(
        mirror, tls=replace(mirror.tls, client_authorities=None).with_authorities_of(now)
    )
