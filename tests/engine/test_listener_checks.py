"""What doctor says of certificates and of what other machines reach."""

from __future__ import annotations

from pathlib import Path

import pytest

from entrepot.config.mirror_settings import Mirror
from entrepot.config.settings import Settings, TlsFiles
from entrepot.core.states import Outcome
from entrepot.engine.certificates import ServedCertificate
from entrepot.engine.endpoints import Endpoints
from entrepot.engine.listener_checks import ListenerChecks

NOW = 1_780_000_000.0
DAY = 86_400.0


def findings(
    *certificates: ServedCertificate, settings: Settings | None = None
) -> list[tuple[str, Outcome, str]]:
    endpoints = Endpoints("127.0.0.1:5000", certificates=list(certificates))
    checks = ListenerChecks(settings=settings or Settings(), endpoints=endpoints, clock=lambda: NOW)
    return [(each.check, each.outcome, each.what) for each in checks.check()]


def test_loopback_without_tls_has_nothing_to_check() -> None:
    assert findings() == []


@pytest.mark.parametrize(
    ("days", "outcome", "says"),
    [
        (15, Outcome.OK, "server.crt is valid until 2026-06-"),
        (13, Outcome.WARNING, "The certificate in server.crt expires in 13 d."),
        (-2, Outcome.FAILED, "The certificate in server.crt expired 2 d ago: clients refuse it."),
    ],
)
def test_a_certificate_warns_two_weeks_before_it_expires(
    days: int, outcome: Outcome, says: str
) -> None:
    ((check, result, what),) = findings(ServedCertificate(Path("server.crt"), NOW + days * DAY))
    assert (check, result) == ("certificate", outcome)
    assert says in what


def test_files_that_are_not_used_are_a_warning() -> None:
    certificate = ServedCertificate(Path("server.crt"), NOW + 90 * DAY, "The key is missing.")
    ((_, outcome, what),) = findings(certificate)
    assert outcome is Outcome.WARNING
    assert "What was read last goes on being used: The key is missing." in what


def test_what_other_machines_reach_is_a_warning() -> None:
    settings = Settings(listen="0.0.0.0:5000", allow_plain_http=True, allow_anonymous=True)
    assert [(check, outcome) for check, outcome, _ in findings(settings=settings)] == [
        ("access", Outcome.WARNING),
        ("access", Outcome.WARNING),
    ]


def test_where_client_certificates_are_required_is_said() -> None:
    tls = TlsFiles(Path("server.crt"), Path("server.key"), Path("clients.pem"))
    mirrors = (
        Mirror("docker.io", "127.0.0.1:5002", tls=tls),
        Mirror("quay.io", "127.0.0.1:5003", plain_http=True),
    )
    assert findings(settings=Settings(tls=tls, mirrors=mirrors)) == [
        (
            "client certificates",
            Outcome.OK,
            "127.0.0.1:5000, 127.0.0.1:5002 require a client certificate of clients.pem",
        ),
        (
            "client certificates",
            Outcome.WARNING,
            "127.0.0.1:5003 requires no client certificates, although the registry does.",
        ),
    ]
