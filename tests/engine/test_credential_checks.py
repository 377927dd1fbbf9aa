"""Credential sets that are tried by themselves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from entrepot.config.directories import Directories
from entrepot.config.settings import Settings
from entrepot.core.credentials import CredentialSetDraft
from entrepot.core.states import HealthStatus
from entrepot.engine import credential_checks as module
from entrepot.engine.engine import Engine
from tests.conftest import LOGIN_SERVER, Clock
from tests.fakes import BasicSignIn, FakeRegistry, Headers, Html, Status, TokenSignIn


@dataclass
class Tried:
    """An engine whose timer a test moves."""

    engine: Engine
    source: FakeRegistry
    timer: Clock = field(default_factory=Clock)

    @property
    def events(self) -> list[str]:
        return [
            each.kind
            for each in self.engine.events.recent()
            if each.kind.startswith("credential-set-")
        ]

    def tries(self) -> int:
        return self.source.count("GET", "/v2/")

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not condition():
                await asyncio.sleep(0)

    async def health_is(self, status: HealthStatus, name: str = "example-login") -> None:
        await self.until(lambda: self.engine.credential_sets.health(name).status is status)

    async def nothing_due(self) -> None:
        """Wait until no set is being tried or waits for it. A new one may be tried twice: by a
        look, and because `CredentialChecks.check_soon` was called during that."""
        await self.until(
            lambda: all(
                check.started is not None and not check.under_way
                for check in self.engine.credential_checks._checks.values()
            )
        )

    async def some_looks(self) -> None:
        """Time for anything that is due to be tried."""
        for _ in range(3):
            looked = asyncio.Event()
            asyncio.get_running_loop().call_later(module.POLL_INTERVAL, looked.set)
            await looked.wait()


@pytest.fixture
async def tried(
    directories: Directories,
    settings: Settings,
    source: FakeRegistry,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Tried]:
    """A healthy credential set that no rule uses."""
    monkeypatch.setattr(module, "POLL_INTERVAL", 0.01)
    monkeypatch.setenv("EXAMPLE_USER", "ann")
    monkeypatch.setenv("EXAMPLE_PASSWORD", "right")
    source.sign_in = BasicSignIn({"ann": "right"})
    async with _opened(directories, settings, source) as opened:
        await opened.engine.credential_sets.create(
            CredentialSetDraft(
                "example-login", LOGIN_SERVER, "env:EXAMPLE_USER", "env:EXAMPLE_PASSWORD"
            )
        )
        await opened.health_is(HealthStatus.HEALTHY)
        await opened.nothing_due()
        yield opened


@asynccontextmanager
async def _opened(
    directories: Directories, settings: Settings, source: FakeRegistry
) -> AsyncIterator[Tried]:
    async with Engine.open(directories, settings) as engine:
        opened = Tried(engine, source)
        engine.credential_checks._timer = opened.timer
        yield opened


async def use(tried: Tried) -> None:
    from entrepot.core.rules import RuleDraft

    await tried.engine.rules.create(
        RuleDraft("example-rule", f"{LOGIN_SERVER}/library/*", "library/*", "example-login")
    )


async def test_a_set_that_a_rule_uses_is_tried_every_few_minutes_and_each_change_of_its_health_is_told(
    tried: Tried, monkeypatch: pytest.MonkeyPatch
) -> None:
    await use(tried)
    monkeypatch.setenv("EXAMPLE_PASSWORD", "expired")
    before = tried.tries()
    tried.timer.now += module.INTERVAL * (1 - module.JITTER) - 1
    await tried.some_looks()
    assert tried.tries() == before
    tried.timer.now += module.INTERVAL * 2 * module.JITTER + 1
    await tried.health_is(HealthStatus.UNHEALTHY)
    assert tried.events == ["credential-set-created", "credential-set-unhealthy"]
    tried.timer.now += module.INTERVAL * (1 + module.JITTER)
    await tried.until(lambda: tried.tries() > before + 2)
    monkeypatch.setenv("EXAMPLE_PASSWORD", "right")
    tried.timer.now += module.INTERVAL * (1 + module.JITTER)
    await tried.health_is(HealthStatus.HEALTHY)
    assert tried.events == [
        "credential-set-created",
        "credential-set-unhealthy",
        "credential-set-healthy",
    ]


async def test_a_set_that_no_rule_uses_is_tried_once_an_hour(tried: Tried) -> None:
    before = tried.tries()
    tried.timer.now += module.INTERVAL_UNUSED * (1 - module.JITTER) - 1
    await tried.some_looks()
    assert tried.tries() == before
    tried.timer.now += module.INTERVAL_UNUSED * 2 * module.JITTER + 1
    await tried.until(lambda: tried.tries() > before)


async def test_sets_are_tried_when_the_engine_starts(
    tried: Tried, directories: Directories, settings: Settings
) -> None:
    other = Directories.under(directories.data.parent / "other")
    other.config.mkdir(parents=True)
    other.credentials.write_bytes(directories.credentials.read_bytes())
    async with _opened(other, settings, tried.source) as started:
        await started.health_is(HealthStatus.HEALTHY)


async def test_a_set_that_is_changed_is_tried_at_once_also_where_only_its_secret_changed(
    tried: Tried, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTHER_PASSWORD", "wrong")
    await tried.engine.credential_sets.update("example-login", password_id="env:OTHER_PASSWORD")
    await tried.health_is(HealthStatus.UNHEALTHY)
    monkeypatch.setenv("OTHER_PASSWORD", "right")
    await tried.engine.credential_sets.update("Example-Login", password_id="env:OTHER_PASSWORD")
    await tried.health_is(HealthStatus.HEALTHY)


async def test_the_health_of_a_set_is_not_inherited_by_another_of_its_name(tried: Tried) -> None:
    gate = tried.source.hold("/v2/")
    await tried.engine.credential_sets.delete("EXAMPLE-login")
    await tried.engine.credential_sets.create(
        CredentialSetDraft("Example-Login", LOGIN_SERVER, "env:EXAMPLE_USER", "env:NONE_SUCH")
    )
    assert tried.engine.credential_sets.health("example-login").status is HealthStatus.UNKNOWN
    gate.open()
    await tried.health_is(HealthStatus.UNHEALTHY)


async def test_a_set_that_was_written_by_hand_is_tried(tried: Tried) -> None:
    document = tried.engine.directories.credentials
    document.write_text(document.read_text().replace("env:EXAMPLE_PASSWORD", "env:NONE_SUCH"))
    await tried.health_is(HealthStatus.UNHEALTHY)
    assert "NONE_SUCH is not set" in str(
        tried.engine.credential_sets.health("example-login").error_message
    )


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"ratelimit-limit": "100;w=21600", "ratelimit-remaining": "0;w=21600"},
        {"ratelimit-limit": "unlimited"},
    ],
)
async def test_what_a_source_tells_of_its_rate_limit_or_does_not_is_no_matter_of_health(
    tried: Tried, headers: dict[str, str]
) -> None:
    tried.source.fault("/v2/", Headers(headers))
    credential_set = await tried.engine.credential_sets.verify("example-login")
    assert (credential_set.health, credential_set.error_code) == (HealthStatus.HEALTHY, None)


async def test_the_bad_day_of_a_source_says_nothing_about_the_credentials(tried: Tried) -> None:
    for fault, code in (
        (Status(500), "SourceFailed"),
        (Html(), "SourceAnswerInvalid"),
        (Status(429), "SourceRateLimited"),
    ):
        tried.source.clear_faults()
        tried.source.fault("/v2/", fault)
        credential_set = await tried.engine.credential_sets.verify("example-login")
        assert (credential_set.health, credential_set.error_code) == (HealthStatus.UNKNOWN, code)
        assert credential_set.error_message
    assert (await tried.engine.status.get()).notices == ()
    tried.source.clear_faults()
    assert (
        await tried.engine.credential_sets.verify("example-login")
    ).health is HealthStatus.HEALTHY
    assert tried.events[-1] == "credential-set-healthy"


async def test_an_unhealthy_set_is_used_all_the_same(
    tried: Tried, monkeypatch: pytest.MonkeyPatch
) -> None:
    await use(tried)
    tried.source.sign_in = TokenSignIn({"ann": "right"}, anonymous=False)
    tried.source.add_image("library/nginx", "1.27")
    monkeypatch.setenv("EXAMPLE_PASSWORD", "expired")
    assert (
        await tried.engine.credential_sets.verify("example-login")
    ).health is HealthStatus.UNHEALTHY
    monkeypatch.setenv("EXAMPLE_PASSWORD", "right")
    pull = tried.engine.cache.pulls.get(
        (await tried.engine.pulls.start("library/nginx:1.27", "linux/amd64", "test")).id
    )
    async with asyncio.timeout(30):
        await pull.finished.wait()
    assert pull.state.value == "completed"
    assert tried.engine.credential_sets.health("example-login").status is HealthStatus.UNHEALTHY
