"""The certificates that listeners have, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from entrepot.formatting import duration

EXPIRY_WARNING = 14 * 86_400.0
"""Seconds before a certificate expires from which on it is a problem: certbot renews 30 days
before, and has failed for two weeks then."""


@dataclass(slots=True)
class ServedCertificate:
    """A certificate that clients get; the server keeps it up to date."""

    file: Path
    expires: float
    """Seconds since the epoch."""
    problem: str | None = None
    """Why what is in the files now is not used; None: it is."""


@dataclass(frozen=True, slots=True)
class CertificateProblem:
    """What is wrong with a certificate, and what to do, in sentences."""

    certificate: ServedCertificate
    what: str
    advice: str
    is_failure: bool
    """Whether clients fail already."""


def certificate_problems(
    certificates: Iterable[ServedCertificate], now: float
) -> Iterator[CertificateProblem]:
    """What is wrong with *certificates*; *now* is in seconds since the epoch."""
    for certificate in certificates:
        left = certificate.expires - now
        file = certificate.file
        if certificate.problem is not None:
            yield CertificateProblem(
                certificate,
                f"What was read last goes on being used: {certificate.problem}",
                "The engine tries again by itself when the files change.",
                False,
            )
        if left < EXPIRY_WARNING:
            yield CertificateProblem(
                certificate,
                f"The certificate in {file} expired {duration(-left)} ago: clients refuse it."
                if left <= 0
                else f"The certificate in {file} expires in {duration(left)}.",
                "Renew it in place: the engine reads it again by itself.",
                left <= 0,
            )
