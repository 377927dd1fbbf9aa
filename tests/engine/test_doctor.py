"""What ``entrepot doctor`` finds, each thing brought about."""

from __future__ import annotations

import errno
import ipaddress
import json
import os
import resource
import socket
import ssl
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from entrepot.api.models import DoctorReport, Finding
from entrepot.config.directories import Directories
from entrepot.config.settings import Settings
from entrepot.core.credentials import CredentialSetDraft
from entrepot.core.registries import DeclaredRegistry, LoginServerNotSupported
from entrepot.core.rules import RuleDraft
from entrepot.core.states import Outcome, SignIn
from entrepot.engine import source_checks
from entrepot.engine.engine import Engine
from entrepot.engine.source_checks import SourceChecks
from entrepot.errors import EngineError
from entrepot.files import file_system
from entrepot.source.proxies import Proxy
from tests.conftest import LOGIN_SERVER
from tests.fakes import BasicSignIn, FakeRegistry, Headers, Html, Status


def finding(found: DoctorReport, check: str, about: str | None = None) -> Finding:
    [each] = [
        each for each in found.findings if each.check == check and about in {None, each.about}
    ]
    assert each.outcome is Outcome.OK or each.advice or check == "sign-in", "it says what to do"
    return each


def checks(found: DoctorReport, about: str = LOGIN_SERVER) -> list[str]:
    return [each.check for each in found.findings if each.about == about]


async def examined(
    directories: Directories, endpoint: str, *, ca_file: Path | None = None
) -> DoctorReport:
    """What is found with a source at an endpoint, on an engine of its own."""
    upstream = DeclaredRegistry(LOGIN_SERVER, "Example", SignIn.OPTIONAL, endpoint)
    settings = Settings(
        listen="127.0.0.1:0", connect_timeout=5, ca_file=ca_file, upstreams=(upstream,)
    )
    async with Engine.open(directories, settings) as engine:
        await engine.rules.create(
            RuleDraft("example-library", f"{LOGIN_SERVER}/library/*", "library/*")
        )
        return await engine.doctor().examine()


def certificate(path: Path, *, days: float) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "stand-in")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(
            name,
            name,
            key.public_key(),
            x509.random_serial_number(),
            now - timedelta(hours=1),
            now + timedelta(days=days),
        )
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(secret + made.public_bytes(serialization.Encoding.PEM))
    return path


def served_with(path: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


async def test_one_source_can_be_looked_at_alone(
    directories: Directories, settings: Settings, source: FakeRegistry
) -> None:
    other = DeclaredRegistry("other.example.com", "Other", SignIn.OPTIONAL, source.url)
    async with Engine.open(
        directories, replace(settings, upstreams=(*settings.upstreams, other))
    ) as engine:
        await engine.rules.create(
            RuleDraft("example-library", f"{LOGIN_SERVER}/library/*", "library/*")
        )
        await engine.rules.create(
            RuleDraft("other-things", "other.example.com/things/*", "things/*")
        )
        assert {
            each.about
            for each in (await engine.doctor().examine(source="other.example.com")).findings
        } == {"other.example.com", "this machine"}
        assert {each.about for each in (await engine.doctor().examine()).findings} == {
            LOGIN_SERVER,
            "other.example.com",
            "this machine",
        }


async def test_all_is_well_and_nothing_counts_as_a_pull(
    engine: Engine, source: FakeRegistry
) -> None:
    source.add_image("acme/api", "latest")
    await engine.rules.create(RuleDraft("acme-api", f"{LOGIN_SERVER}/acme/api", "acme/api"))
    report = await engine.doctor().examine()
    assert {each.outcome for each in report.findings} == {Outcome.OK}
    assert checks(report) == ["name", "connection", "registry", "sign-in", "manifest", "allowance"]
    assert checks(report, "this machine") == ["space", "data directory", "open files", "readers"]
    assert source.count("GET", "/manifests/") == 0
    assert source.count("GET", "/blobs/") == 0


async def test_a_name_that_is_not_known(directories: Directories) -> None:
    found = await examined(directories, "https://registry.invalid")
    assert finding(found, "name").outcome is Outcome.FAILED
    assert checks(found) == ["name"], "what follows from it is not looked at"


async def test_a_registry_of_the_table_that_is_said_to_be_this_machine(
    directories: Directories, source: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S21."""

    def here(host: str, *_: object, **__: object) -> list[object]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", here)
    async with Engine.open(directories, Settings()) as engine:
        await engine.rules.create(RuleDraft("quay-things", "quay.io/things/*", "things/*"))
        report = await engine.doctor().examine()
    assert checks(report, "quay.io") == ["name"]
    assert "a local address" in finding(report, "name").what


async def test_a_connection_that_is_refused(directories: Directories, source: FakeRegistry) -> None:
    await source.stop()
    check = finding(await examined(directories, source.url), "connection")
    assert (check.outcome, "accepts no connections" in check.what) == (Outcome.FAILED, True)


async def test_a_certificate_that_is_not_trusted(directories: Directories, tmp_path: Path) -> None:
    async with FakeRegistry(tls=served_with(certificate(tmp_path / "own.pem", days=90))) as source:
        check = finding(await examined(directories, source.url), "certificate")
    assert check.outcome is Outcome.FAILED
    assert (
        check.what
        == f"{LOGIN_SERVER} (127.0.0.1) can't be reached safely: its certificate is not trusted: self-signed certificate."
    )


async def test_a_certificate_that_the_settings_trust(
    directories: Directories, tmp_path: Path
) -> None:
    path = certificate(tmp_path / "own.pem", days=90)
    async with FakeRegistry(tls=served_with(path)) as source:
        check = finding(await examined(directories, source.url, ca_file=path), "certificate")
    assert check.outcome is Outcome.OK


@pytest.mark.parametrize(("days", "outcome"), [(90.5, Outcome.OK), (3.5, Outcome.WARNING)])
async def test_a_certificate_that_ends_soon(
    directories: Directories,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    days: float,
    outcome: Outcome,
) -> None:
    path = certificate(tmp_path / "own.pem", days=days)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    async with FakeRegistry(tls=served_with(path)) as source:
        check = finding(await examined(directories, source.url), "certificate")
    assert (check.outcome, f"{int(days)} days" in check.what) == (outcome, True)


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (Html(), "web page"),
        (Status(404), "does not answer as a registry"),
        (Status(500), "fails with status 500"),
    ],
)
async def test_what_answers_as_no_registry(
    engine: Engine, source: FakeRegistry, fault: Html | Status, told: str
) -> None:
    source.fault("/v2/", fault)
    report = await engine.doctor().examine()
    assert finding(report, "registry").outcome is Outcome.FAILED
    assert told in finding(report, "registry").what
    assert checks(report) == ["name", "connection", "registry"]


async def test_a_wrong_password_is_told_once_for_all_rules_that_use_it(
    engine: Engine, source: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.sign_in = BasicSignIn({"ann": "right"})
    monkeypatch.setenv("EXAMPLE_USER", "ann")
    monkeypatch.setenv("EXAMPLE_PASSWORD", "hunter2")
    await engine.credential_sets.create(
        CredentialSetDraft(
            "example-login", LOGIN_SERVER, "env:EXAMPLE_USER", "env:EXAMPLE_PASSWORD"
        )
    )
    for name in ("one", "two"):
        await engine.rules.create(
            RuleDraft(f"rule-{name}", f"{LOGIN_SERVER}/{name}/api", f"{name}/api", "example-login")
        )
    report = await engine.doctor().examine("rule-one")
    sign_in = finding(report, "sign-in")
    assert sign_in.outcome is Outcome.FAILED
    assert sign_in.what.startswith(f"example-login: {LOGIN_SERVER} refuses")
    assert "hunter2" not in str(report)
    assert "manifest" not in checks(report)
    both = await engine.doctor().examine()
    assert [
        each.what.partition(":")[0]
        for each in both.findings
        if each.check == "sign-in" and "example-login" in each.what
    ] == ["example-login"]


async def test_a_repository_that_the_source_does_not_have_and_one_without_a_tag_latest(
    engine: Engine, source: FakeRegistry
) -> None:
    source.add_image("acme/api", "1.0")
    for name in ("api", "none"):
        await engine.rules.create(
            RuleDraft(f"acme-{name}", f"{LOGIN_SERVER}/acme/{name}", f"acme/{name}")
        )
    assert finding(await engine.doctor().examine("acme-api"), "manifest").outcome is Outcome.OK
    missing = finding(await engine.doctor().examine("acme-none"), "manifest")
    assert (missing.outcome, "acme/none" in missing.what) == (Outcome.FAILED, True)


@pytest.mark.parametrize(
    ("remaining", "outcome"), [(60, Outcome.OK), (5, Outcome.WARNING), (0, Outcome.FAILED)]
)
async def test_the_allowance(
    engine: Engine, source: FakeRegistry, remaining: int, outcome: Outcome
) -> None:
    source.fault(
        "/v2/",
        Headers({"ratelimit-limit": "100;w=21600", "ratelimit-remaining": f"{remaining};w=21600"}),
    )
    assert finding(await engine.doctor().examine(), "allowance").outcome is outcome


async def test_a_disk_without_space(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine.blobs, "free", lambda: 1000)
    report = finding(await engine.doctor().examine(), "space")
    assert (report.outcome, "is full" in report.what) == (Outcome.FAILED, True)


async def test_foreign_names_in_the_data_directory_are_counted(engine: Engine) -> None:
    """F84: they are passed over, and stop nothing."""
    (engine.directories.blobs / "lost+found").mkdir()
    (engine.directories.blobs / ".DS_Store").write_bytes(b"")
    await engine.maintenance.reconcile()
    data = finding(await engine.doctor().examine(), "data directory")
    assert data.outcome is Outcome.OK
    assert "; 2 names in " in data.what
    assert "lost+found" in data.what
    (engine.directories.blobs / ".DS_Store").unlink()
    await engine.maintenance.reconcile()
    data = finding(await engine.doctor().examine(), "data directory")
    assert "belongs to no blob and is ignored: lost+found" in data.what


async def test_a_directory_of_blobs_that_can_not_be_used_is_no_foreign_name(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was counted as one name more that is no blob, and all was said to be well."""
    monkeypatch.setattr(engine.blobs, "forbidden_directory", lambda: engine.directories.blobs)
    data = finding(await engine.doctor().examine(), "data directory")
    assert (data.outcome, data.cause) == (Outcome.FAILED, "permission")


async def test_a_data_directory_that_is_gone_is_not_told_as_full(engine: Engine) -> None:
    """B4.3: nothing is to be freed there."""
    data = engine.directories.data
    data.rename(data.with_name("moved"))
    try:
        space = finding(await engine.doctor().examine(), "space")
    finally:
        data.with_name("moved").rename(data)
    assert (space.outcome, "is not there" in space.what) == (Outcome.FAILED, True)
    assert "Put it back" in space.advice


@pytest.mark.parametrize(
    ("limit", "outcome"),
    [
        (256, Outcome.FAILED),
        (1024, Outcome.WARNING),
        (65536, Outcome.OK),
        (resource.RLIM_INFINITY, Outcome.OK),
    ],
)
async def test_the_limit_of_open_files(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, limit: int, outcome: Outcome
) -> None:
    monkeypatch.setattr(
        "entrepot.engine.machine_checks.resource.getrlimit", lambda _: (limit, limit)
    )
    assert finding(await engine.doctor().examine(), "open files").outcome is outcome


@pytest.mark.parametrize(
    ("off", "outcome", "told"),
    [
        (0, Outcome.OK, "is right"),
        (3700, Outcome.FAILED, "1 h behind"),
        (-3700, Outcome.FAILED, "1 h ahead"),
        (120, Outcome.WARNING, "2 min behind"),
    ],
)
async def test_the_clock_is_held_against_what_the_sources_say(
    engine: Engine, source: FakeRegistry, off: int, outcome: Outcome, told: str
) -> None:
    source.fault("/v2/", Headers({"Date": formatdate(time.time() + off + 1, usegmt=True)}))
    report = finding(await engine.doctor().examine(), "clock")
    assert (report.outcome, told in report.what) == (outcome, True)


async def test_behind_a_proxy_the_proxy_is_named_without_its_password(
    engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        source_checks,
        "proxy_of",
        lambda _: Proxy("http", "proxy.example.com", 3128, "HTTPS_PROXY", "me", "hunter2"),
    )
    report = await engine.doctor().examine()
    assert finding(report, "connection").what == "goes through the proxy proxy.example.com:3128"
    assert "hunter2" not in str(report)


@pytest.mark.parametrize("odd", ["\x1b]0;T\x07", "../../../admin?x=1", "a b", "x" * 200])
async def test_an_odd_tag_name_of_a_source_does_not_end_the_report(
    engine: Engine, source: FakeRegistry, odd: str
) -> None:
    """S27: it was sent as another path with the rule's credentials, or ended the report for all."""
    image = source.add_image("acme/api", "1.0")
    source.fault("/tags/", Status(200, body=json.dumps({"tags": [odd, "1.0"]}).encode()))
    await engine.rules.create(RuleDraft("acme-api", f"{LOGIN_SERVER}/acme/api", "acme/api"))
    report = await engine.doctor().examine()
    assert finding(report, "manifest").outcome is Outcome.OK
    assert [each.path for each in source.requests if "/manifests/" in each.path] == [
        f"/v2/acme/api/manifests/{tag}" for tag in ("latest", "1.0")
    ]
    assert image.tag == "1.0"
    source.clear_faults()
    source.fault("/tags/", Status(200, body=json.dumps({"tags": [odd]}).encode()))
    only = finding(await engine.doctor().examine(), "manifest")
    assert (only.outcome, "no tags" in only.what) == (Outcome.WARNING, True)


@pytest.mark.parametrize(
    ("broken", "check"),
    [
        ("_check_name", "name"),
        ("_check_connection", "connection"),
        ("_check_registry", "registry"),
        ("_check_sign_in", "sign-in"),
        ("_check_manifest", "manifest"),
    ],
)
async def test_a_check_that_fails_itself_is_a_finding_and_the_others_go_on(
    engine: Engine,
    source: FakeRegistry,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    broken: str,
    check: str,
) -> None:
    """S27: one failure of a check ended the report for all."""

    async def fail(*_: object) -> Finding:
        raise ValueError("odd \x1b[31m thing")

    monkeypatch.setattr(SourceChecks, broken, fail)
    source.add_image("acme/api", "latest")
    await engine.rules.create(RuleDraft("acme-api", f"{LOGIN_SERVER}/acme/api", "acme/api"))
    report = await engine.doctor().examine()
    failed = finding(report, check, LOGIN_SERVER)
    assert failed.outcome is Outcome.FAILED
    assert failed.what == r"This could not be checked: ValueError: odd \x1b[31m thing."
    assert {"space", "data directory", "open files"} <= {each.check for each in report.findings}
    assert "failed in an unforeseen way" in caplog.text


async def test_a_catalog_that_fails_is_a_finding_too(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S27."""

    async def fail() -> None:
        raise EngineError("The catalog fails: disk I/O error.", "Look at the disk.")

    monkeypatch.setattr(engine.status, "get", fail)
    report = await engine.doctor().examine()
    assert finding(report, "space") == Finding(
        about="this machine",
        check="space",
        outcome=Outcome.FAILED,
        what="The catalog fails: disk I/O error.",
        advice="Look at the disk.",
    )
    assert finding(report, "open files").outcome is Outcome.OK


async def test_a_rule_whose_source_is_no_longer_declared_is_a_finding(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S27."""

    def find(*_: object, **__: object) -> None:
        raise LoginServerNotSupported("Unsupported upstream or login server.", "Declare it.")

    monkeypatch.setattr(engine.registries, "find", find)
    report = await engine.doctor().examine()
    assert finding(report, "registry", LOGIN_SERVER).outcome is Outcome.FAILED
    assert checks(report, "this machine")


@pytest.mark.parametrize(
    "date",
    ["x" * 10_000, "Fri, 15 Jan 2027 08:00:01 +99999999", "Mon, 1 Jan 0001 00:00:00 -9999", ""],
)
async def test_an_absurd_date_of_a_source_says_nothing_of_the_clock(
    engine: Engine, source: FakeRegistry, date: str
) -> None:
    """S02."""
    source.fault("/v2/", Headers({"Date": date[:8_000]}))
    report = await engine.doctor().examine()
    assert finding(report, "registry").outcome is Outcome.OK


async def test_the_file_system_of_the_data_is_named(engine: Engine) -> None:
    """F88."""
    [finding] = [
        each
        for each in (await engine.doctor().examine()).findings
        if each.check == "data directory"
    ]
    assert finding.outcome is Outcome.OK
    assert f"({file_system(engine.directories.data)})" in finding.what


async def test_a_disk_that_can_not_be_written_is_not_told_to_be_full(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Path) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(engine.health, "_probe", refuse)
    monkeypatch.setattr(engine.blobs, "free", lambda: 0)
    await engine.health.check()
    report = await engine.doctor().examine()
    assert "space" not in checks(report, "this machine")
    data = finding(report, "data directory")
    assert (data.outcome, data.cause) == (Outcome.FAILED, "file-system-read-only")
    engine.fills.refusal = OSError(errno.EROFS, os.strerror(errno.EROFS))
    await engine.maintenance._record_refusal(engine.fills.refusal)
    notices = [notice for notice in (await engine.status.get()).notices if data.what in notice]
    assert notices == [f"{data.what} {data.advice}"], "once"
