"""Which rule answers for a repository, and with which sign-in its source is asked."""

from __future__ import annotations

import pytest

from entrepot.core.credentials import CredentialSetDraft
from entrepot.core.reference import Repository, Tag
from entrepot.core.rules import RuleDraft
from entrepot.engine.engine import Engine
from tests.conftest import LOGIN_SERVER
from tests.fakes import BasicSignIn, FakeRegistry


def test_a_repository_without_a_rule_has_no_route(engine: Engine) -> None:
    assert engine.routing.route("other/thing") is None


def test_a_route_follows_the_rules_in_force(engine: Engine) -> None:
    route = engine.routing.route("library/nginx")
    assert route is not None
    assert (route.rule.name, route.source) == (
        "example-library",
        f"{LOGIN_SERVER}/library/nginx",
    )


async def test_a_source_is_asked_with_the_credential_set_of_the_rule(
    engine: Engine, source: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = source.add_image("acme/api", "1")
    source.sign_in = BasicSignIn({"ann": "right"})
    monkeypatch.setenv("EXAMPLE_USER", "ann")
    monkeypatch.setenv("EXAMPLE_PASSWORD", "right")
    await engine.credential_sets.create(
        CredentialSetDraft(
            "example-login", LOGIN_SERVER, "env:EXAMPLE_USER", "env:EXAMPLE_PASSWORD"
        )
    )
    await engine.rules.create(
        RuleDraft("acme-api", f"{LOGIN_SERVER}/acme/api", "acme/api", "example-login")
    )
    route = engine.routing.route("acme/api")
    assert route is not None
    head = await engine.routing.client(route).head_manifest(Repository("acme/api"), Tag("1"))
    assert head.digest == image.digest
