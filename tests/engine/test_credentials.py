"""Credential sets: created, tried and deleted."""

from __future__ import annotations

import pytest

from entrepot.config.directories import Directories
from entrepot.config.settings import Settings
from entrepot.core.credentials import CredentialSetDraft
from entrepot.core.states import HealthStatus
from entrepot.engine.engine import Engine
from tests.conftest import LOGIN_SERVER
from tests.fakes import BasicSignIn, FakeRegistry


async def test_a_credential_set_is_tried_when_it_is_made(
    directories: Directories,
    settings: Settings,
    source: FakeRegistry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source.sign_in = BasicSignIn({"reader": "right"})
    monkeypatch.setenv("EXAMPLE_USER", "reader")
    monkeypatch.setenv("EXAMPLE_PASSWORD", "wrong")
    async with Engine.open(directories, settings) as engine:
        await engine.credential_sets.create(
            CredentialSetDraft(
                "example-login", LOGIN_SERVER, "env:EXAMPLE_USER", "env:EXAMPLE_PASSWORD"
            )
        )
        await engine.credential_sets.verify("example-login")
        [unhealthy] = engine.credential_sets.list()
        assert (unhealthy.health, unhealthy.error_code) == (HealthStatus.UNHEALTHY, "SourceRefused")
        assert any(
            "example-login is unhealthy" in notice for notice in (await engine.status.get()).notices
        )
        monkeypatch.setenv("EXAMPLE_PASSWORD", "right")
        await engine.credential_sets.verify("example-login")
        assert engine.credential_sets.list()[0].health is HealthStatus.HEALTHY
