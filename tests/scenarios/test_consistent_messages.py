"""One fault has one sentence and one advice, wherever a user looks for what is wrong."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from pathlib import Path

import httpx
import pytest

from entrepot.config.directories import Directories
from entrepot.config.settings import Settings
from entrepot.core.credentials import CredentialSetDraft
from entrepot.core.registries import DeclaredRegistry
from entrepot.core.rules import RuleDraft
from entrepot.core.states import HealthStatus, Outcome, SignIn
from entrepot.engine.api_models import pull_snapshot
from entrepot.engine.engine import Engine
from entrepot.server.run import registry_app
from tests.authority import CertificateAuthority
from tests.conftest import LOGIN_SERVER, answering
from tests.fakes import FakeRegistry, Headers, TokenSignIn
from tests.programs import require_program
from tui.presentation.overview import needs
from tui.presentation.pulls import ended_text
from tui.presentation.sources import doctor_report_cells, source_detail


@dataclass
class MachineFault:
    """What a fault looks like where the machine is set up so that it happens."""

    code: str
    what: str
    hint: str
    check: str
    """The check of doctor that finds it."""


async def wrong_everywhere(
    directories: Directories, settings: Settings, fault: MachineFault
) -> None:
    """Cause a fault by a pull, and check all places that report it."""
    async with Engine.open(directories, settings) as engine:
        secret = f"file:{directories.data}/secret"
        await engine.credential_sets.create(
            CredentialSetDraft("example-login", LOGIN_SERVER, secret, secret)
        )
        await engine.rules.create(
            RuleDraft("example-library", f"{LOGIN_SERVER}/library/*", "library/*", "example-login")
        )
        (directories.data / "secret").write_text("s3cret")
        (directories.data / "secret").chmod(0o600)
        transport = httpx.ASGITransport(registry_app(engine), raise_app_exceptions=False)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://entrepot", timeout=60
        ) as client:
            answer = await client.get("/v2/library/nginx/manifests/1")
            [error] = answer.json()["errors"]
            assert answer.status_code == 503
            assert (
                error["detail"]["cause"],
                error["detail"]["atFault"] in {"machine", "network"},
            ) == (fault.code, True)
            assert error["message"].startswith(fault.what)
            assert fault.hint in error["message"]
        # The pull of the command line and the dashboard.
        pull = engine.cache.pulls.get((await engine.pulls.start("library/nginx:2", None, "cli")).id)
        await pull.finished.wait()
        ended_pull = pull_snapshot(pull.progress())
        assert ended_pull.error_cause == fault.code
        assert fault.what in ended_text(ended_pull)
        assert fault.hint in ended_text(ended_pull)
        # credential-set check.
        checked = await engine.credential_sets.verify("example-login")
        assert checked.health is HealthStatus.UNKNOWN
        assert checked.error_message is not None
        assert fault.what in checked.error_message
        assert fault.hint in checked.error_message
        # The source.
        [upstream] = [
            each for each in engine.status.source_registries() if each.login_server == LOGIN_SERVER
        ]
        assert (upstream.problem, upstream.advice, upstream.cause) == (
            fault.what,
            fault.hint,
            fault.code,
        )
        assert source_detail(upstream, (), 0.0).lines[0] == f"{fault.what} {fault.hint}"
        # The status and the overview.
        status = await engine.status.get()
        assert f"{fault.what} {fault.hint}" in status.notices
        _, tone, rows = needs(status, 80)
        assert tone == "warn"
        assert f"{fault.what} {fault.hint}" in " ".join(
            " ".join(row.cells[0].text.strip("! ") for row in rows).split()
        )
        # doctor.
        examination = await engine.doctor().examine()
        [finding] = [
            each
            for each in examination.findings
            if each.cause == fault.code and each.about == LOGIN_SERVER
        ]
        assert (finding.check, finding.outcome, finding.what, finding.advice) == (
            fault.check,
            Outcome.FAILED,
            fault.what,
            fault.hint,
        )
        assert any(fault.what in cell.text for cell in doctor_report_cells(examination))
        assert any(fault.hint in cell.text for cell in doctor_report_cells(examination))
        # The log and the events.
        events = [event.message for event in engine.events.recent()]
        assert any(fault.what in message and fault.hint in message for message in events)


@pytest.fixture
def authority(tmp_path: Path) -> CertificateAuthority:
    return CertificateAuthority(tmp_path, "Example Root")


def declared(endpoint: str) -> tuple[DeclaredRegistry, ...]:
    return (DeclaredRegistry(LOGIN_SERVER, "Example", SignIn.OPTIONAL, endpoint),)


@pytest.fixture
async def late(authority: CertificateAuthority) -> AsyncIterator[FakeRegistry]:
    """A source for which it is 400 days later."""
    right = datetime.now(UTC) + timedelta(days=400)
    async with FakeRegistry(
        tls=authority.server(begins=right - timedelta(days=10), ends=right + timedelta(days=10))
    ) as source:
        source.fault("/v2/", Headers({"Date": formatdate(right.timestamp(), usegmt=True)}))
        yield source


async def test_a_clock_that_is_behind(
    directories: Directories, authority: CertificateAuthority, late: FakeRegistry
) -> None:
    fault = MachineFault(
        "clock-wrong",
        f"This machine's clock is 400 days behind ({datetime.now(UTC):%Y-%m-%d}), so the certificate of {LOGIN_SERVER} (127.0.0.1) counts as not yet valid.",
        "Set the clock of this machine (of its host, if this is a container or a virtual machine), and let chrony or systemd-timesyncd keep it right.",
        "certificate",
    )
    await wrong_everywhere(
        directories,
        Settings(listen="127.0.0.1:0", ca_file=authority.path, upstreams=declared(late.url)),
        fault,
    )


async def test_an_issuer_that_is_not_trusted(
    directories: Directories, authority: CertificateAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(variable, raising=False)
    async with FakeRegistry(tls=authority.server()) as source:
        fault = MachineFault(
            "certificate-untrusted",
            f"{LOGIN_SERVER} (127.0.0.1) can't be reached safely: this machine does not trust the issuer of its certificate, Example Root.",
            "If it is your company's or a proxy's, name its certificate as ca_file in settings.toml or add it to the system's.",
            "certificate",
        )
        await wrong_everywhere(
            directories, Settings(listen="127.0.0.1:0", upstreams=declared(source.url)), fault
        )


async def test_a_proxy_that_takes_no_connections(
    directories: Directories, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        place = f"127.0.0.1:{server.getsockname()[1]}"
    monkeypatch.setenv("https_proxy", f"http://{place}")
    fault = MachineFault(
        "proxy-unreachable",
        f"The proxy {place} (the engine's https_proxy) accepts no connections, so {LOGIN_SERVER} can't be reached.",
        f"Start it, correct https_proxy where the engine is started, or put {LOGIN_SERVER} into NO_PROXY if a direct way leads there.",
        "registry",
    )
    await wrong_everywhere(
        directories,
        Settings(listen="127.0.0.1:0", upstreams=declared(f"https://{LOGIN_SERVER}")),
        fault,
    )


async def test_a_variable_that_names_no_proxy(
    directories: Directories, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "gopher://proxy.example")
    async with Engine.open(
        directories, Settings(listen="127.0.0.1:0", upstreams=declared(f"https://{LOGIN_SERVER}"))
    ) as engine:
        await engine.rules.create(
            RuleDraft("example-library", f"{LOGIN_SERVER}/library/*", "library/*")
        )
        [notice] = (await engine.status.get()).notices
        findings = [
            each
            for each in (await engine.doctor().examine()).findings
            if each.cause == "proxy-unusable"
        ]
        assert {each.about for each in findings} == {LOGIN_SERVER, "this machine"}
        assert {f"{each.what} {each.advice}" for each in findings} == {notice}


async def test_one_fault_of_this_machine_is_one_notice_for_all_its_sources(
    directories: Directories, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("entrepot.source.network_causes.has_network", lambda: False)
    sources = ("one.invalid", "two.invalid", "three.invalid")
    upstreams = tuple(
        DeclaredRegistry(each, each, SignIn.OPTIONAL, f"https://{each}") for each in sources
    )
    async with Engine.open(
        directories, Settings(listen="127.0.0.1:0", upstreams=upstreams)
    ) as engine:
        for number, login_server in enumerate(sources):
            await engine.rules.create(
                RuleDraft(f"rule-{number}", f"{login_server}/things/*", f"things{number}/*")
            )
            pull = engine.cache.pulls.get(
                (await engine.pulls.start(f"things{number}/x:1", None, "cli")).id
            )
            await pull.finished.wait()
        assert len((await engine.status.get()).notices) == 1
        assert (
            (await engine.status.get())
            .notices[0]
            .startswith("This machine has no network: no route leads out of it. Connect it.")
        )


async def test_a_credential_helper_that_is_missing(
    directories: Directories,
    settings: Settings,
    source: FakeRegistry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What this machine lacks is no refusal of the source: 503, and not 403."""
    monkeypatch.setenv("PATH", "/nowhere")
    what = "The program docker-credential-none is in no directory of PATH (/nowhere)."
    hint = "Install it, or add its directory to PATH where the engine is started."
    async with (
        FakeRegistry(TokenSignIn({"ann": "s3cret"})) as private,
        Engine.open(directories, replace(settings, upstreams=declared(private.url))) as engine,
    ):
        await engine.credential_sets.create(
            CredentialSetDraft(
                "example-login",
                LOGIN_SERVER,
                "docker-helper:none/username",
                "docker-helper:none/password",
            )
        )
        await engine.rules.create(
            RuleDraft("example-library", f"{LOGIN_SERVER}/library/*", "library/*", "example-login")
        )
        transport = httpx.ASGITransport(registry_app(engine), raise_app_exceptions=False)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://entrepot", timeout=60
        ) as client:
            answer = await client.get("/v2/library/nginx/manifests/1")
        [error] = answer.json()["errors"]
        assert (answer.status_code, error["code"], error["detail"]["atFault"]) == (
            503,
            "UNKNOWN",
            "machine",
        )
        messages = [error["message"]]
        checked = await engine.credential_sets.verify("example-login")
        assert (checked.health, checked.error_code) == (HealthStatus.UNHEALTHY, "SecretUnavailable")
        messages.append(checked.error_message or "")
        messages += [
            notice for notice in (await engine.status.get()).notices if "example-login" in notice
        ]
        messages += [
            f"{each.what} {each.advice}"
            for each in (await engine.doctor().examine()).findings
            if each.check == "sign-in"
        ]
        assert len(messages) >= 4
        assert all(what in each and hint in each for each in messages)


async def test_a_clock_behind_the_stored_times_is_reported_before_any_pull(
    directories: Directories, settings: Settings
) -> None:
    """F69: a machine whose battery is empty starts in 1970 or at the date of its image."""
    async with Engine.open(directories, settings) as engine:
        assert (await engine.status.get()).notices == ()
    future = datetime.now(UTC).timestamp() + 400.2 * 86_400
    os.utime(directories.catalog, (future, future))
    async with Engine.open(directories, settings) as engine:
        [notice] = (await engine.status.get()).notices
        assert notice.startswith(
            f"This machine's clock is 400 days behind ({datetime.now(UTC):%Y-%m-%d}) at least, by what was written here before. Set the clock"
        )
        [finding] = [
            each
            for each in (await engine.doctor().examine()).findings
            if each.cause == "clock-wrong"
        ]
        assert f"{finding.what} {finding.advice}" == notice


async def test_a_client_that_shows_the_status_line_only_shows_what_is_wrong(
    directories: Directories, authority: CertificateAuthority, late: FakeRegistry
) -> None:
    """docker, podman and skopeo show no body of a 5xx."""
    skopeo = require_program("skopeo")
    settings = Settings(listen="127.0.0.1:0", ca_file=authority.path, upstreams=declared(late.url))
    async with Engine.open(directories, settings) as engine, answering(engine):
        await engine.rules.create(
            RuleDraft("example-library", f"{LOGIN_SERVER}/library/*", "library/*")
        )
        arguments = ("inspect", "--tls-verify=false", f"docker://{engine.address}/library/nginx:1")
        process = await asyncio.create_subprocess_exec(
            skopeo, *arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        output, _ = await process.communicate()
    assert process.returncode != 0
    assert "503 Service Unavailable: This machine's clock is 400 days behind" in output.decode()
    assert "Set the clock of this machine" in output.decode()
