"""The checks of ``entrepot doctor`` on what other machines reach.

They cover the certificates of listeners, and what is open to everyone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

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
        for what, advice in access_problems(self._settings):
            yield warning(REGISTRY, "access", what, advice)
