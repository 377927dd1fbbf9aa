"""The checks of ``entrepot doctor`` on what other machines reach.

They cover the certificates of listeners, those of clients, and what is open to everyone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from entrepot.api.models import Finding
from entrepot.config.network_access import access_problems
from entrepot.config.settings import Settings
from entrepot.engine.certificates import certificate_problems
from entrepot.engine.endpoints import Endpoints
from entrepot.engine.findings import failed, ok, warning
from entrepot.formatting import day

REGISTRY = "the registry"
"""What the findings are about."""


class ListenerChecks:
    """The checks of the listeners. *clock* is in seconds since the epoch."""

    def __init__(
        self, *, settings: Settings, endpoints: Endpoints, clock: Callable[[], float]
    ) -> None:
        self._settings = settings
        self._endpoints = endpoints
        self._clock = clock

    def check(self) -> Iterator[Finding]:
        """All of them; none on loopback without TLS."""
        certificates = self._endpoints.certificates
        problems = list(certificate_problems(certificates, self._clock()))
        for certificate in certificates:
            if all(problem.certificate is not certificate for problem in problems):
                what = f"{certificate.file} is valid until {day(certificate.expires)}"
                yield ok(REGISTRY, "certificate", what)
        for problem in problems:
            judge = failed if problem.is_failure else warning
            yield judge(REGISTRY, "certificate", problem.what, problem.advice)
        yield from self._client_certificates()
        for what, advice in access_problems(self._settings):
            yield warning(REGISTRY, "access", what, advice)

    def _client_certificates(self) -> Iterator[Finding]:
        """Where clients must send certificates, and where they need none beside that."""
        by_authorities: dict[Path | None, list[str]] = {}
        listeners = [
            (self._settings.listen, self._settings.tls),
            *((mirror.listen, mirror.tls) for mirror in self._settings.mirrors),
        ]
        for listen, tls in listeners:
            if listen is not None:
                authorities = None if tls is None else tls.client_authorities
                by_authorities.setdefault(authorities, []).append(listen)
        check = "client certificates"
        for file, addresses in by_authorities.items():
            if file is not None:
                what = f"require{'s' if len(addresses) == 1 else ''} a client certificate of {file}"
                yield ok(REGISTRY, check, f"{', '.join(addresses)} {what}")
        registry = self._settings.tls
        if registry is not None and registry.client_authorities is not None:
            for listen in by_authorities.get(None, []):
                yield warning(
                    REGISTRY,
                    check,
                    f"{listen} requires no client certificates, although the registry does.",
                    "If that is not meant, remove plain_http from the mirror in settings.toml.",
                )
