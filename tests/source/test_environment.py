"""What this machine's environment says: its clock, its trust store, its name server."""

from __future__ import annotations

import ssl
from email.utils import formatdate
from pathlib import Path

import httpx
import pytest

from entrepot.source.environment import (
    ClockEvidence,
    describe_clock,
    has_name_server,
    trust_store_problem,
)
from tests.authority import CertificateAuthority
from tests.source.conftest import Clock, verify_paths


def test_a_machine_without_ca_certificates_is_told_to_install_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: verify_paths(None, None))
    monkeypatch.setattr("entrepot.source.system_trust.STORES", ())
    for each in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(each, raising=False)
    problem = trust_store_problem()
    assert problem is not None
    assert "ca-certificates" in problem[1]


def test_a_file_with_one_authority_is_a_trust_store(
    authority: CertificateAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.path))
    assert trust_store_problem() is None


def test_spans_of_the_clock_evidence_are_monotonic() -> None:
    """F69: a clock that is set right after a source was heard counts as right."""
    monotonic, wall = Clock(1_000.0), Clock(1_000_000.0)
    evidence = ClockEvidence(clock=monotonic, wall_clock=wall)
    evidence.note("quay.io", {"date": formatdate(1_086_400.0, usegmt=True)})
    monotonic.now += 50
    wall.now += 50
    assert evidence.ahead() == 86_400
    wall.now += 86_400
    assert evidence.ahead() == 0
    evidence.note("docker.io", {"date": formatdate(5_000_000.0, usegmt=True)})
    assert evidence.ahead() == 0, "one source that agrees is believed"
    assert evidence.ahead(without="quay.io") == 5_000_000 - wall.now


def test_an_answer_from_a_cache_on_the_way_says_nothing_of_the_clock() -> None:
    evidence = ClockEvidence(clock=Clock(), wall_clock=Clock(1_000_000.0))
    evidence.note(
        "quay.io", httpx.Headers({"Date": formatdate(900_000.0, usegmt=True), "Age": "7"})
    )
    assert evidence.ahead() is None


@pytest.mark.parametrize("date", [None, "", "yesterday", "Mon, 99 Foo 99999 99:99:99 GMT"])
def test_a_date_that_is_none_says_nothing_of_the_clock(date: str | None) -> None:
    evidence = ClockEvidence(clock=Clock(), wall_clock=Clock())
    evidence.note("quay.io", {} if date is None else {"date": date})
    assert evidence.ahead() is None


def test_the_sources_that_are_remembered_are_bounded() -> None:
    evidence = ClockEvidence(clock=Clock(), wall_clock=Clock(0.0))
    for number in range(100):
        evidence.note(f"{number}.example", {"date": formatdate(1_000 + number, usegmt=True)})
    assert evidence.ahead() == 1_084, "those heard last"


def test_a_clock_that_is_minutes_off_is_told_with_the_time() -> None:
    assert (
        describe_clock(600, 1_780_000_000.0)
        == "This machine's clock is 10 min behind (2026-05-28 20:26 UTC)"
    )
    assert (
        describe_clock(-2.5 * 86_400, 1_780_000_000.0)
        == "This machine's clock is 2 days ahead (2026-05-28)"
    )


@pytest.mark.parametrize(
    ("text", "has"),
    [
        ("", False),
        ("# nameserver 1.1.1.1\n", False),
        ("nameserver\n", False),
        ("search x\nnameserver 9.9.9.9\n", True),
        (None, False),
    ],
)
def test_a_name_server_is_looked_for_in_resolv_conf(
    tmp_path: Path, text: str | None, has: bool
) -> None:
    path = tmp_path / "resolv.conf"
    if text is not None:
        path.write_text(text)
    assert has_name_server(path) is has
