"""What a client gets when a source fails, and for how long it gets that."""

from __future__ import annotations

import pytest

from entrepot.cache.failures import REVALIDATION_TIMEOUT, SourceFailures, manifest_key
from entrepot.config.settings import Settings
from entrepot.core.reference import Digest, Repository, Tag
from entrepot.core.rules import Route
from entrepot.errors import ManifestUnknown
from entrepot.source.client import SourceClient
from entrepot.source.errors import (
    SignInUnsafe,
    SourceAvoided,
    SourceFailed,
    SourceNotFound,
    SourceRefused,
    SourceUnreachable,
)
from tests.cache.conftest import ScriptedCache
from tests.conftest import Clock

NGINX = Repository("library/nginx")
DIGEST = Digest.of(b"manifest")
LIFETIME = Settings().negative_freshness


@pytest.fixture
def failures(scripted: ScriptedCache) -> SourceFailures:
    return scripted.cache._failures


@pytest.fixture
def route(scripted: ScriptedCache) -> Route:
    route = scripted.rules.route(NGINX)
    assert route is not None
    return route


def test_an_error_names_the_cache_rule_and_keeps_its_advice(
    failures: SourceFailures, route: Route
) -> None:
    error = failures.for_client(SourceFailed("It failed.", "Try again."), route)
    assert isinstance(error, SourceFailed)
    assert (error.what, error.hint) == ("It failed. (cache rule example-rule)", "Try again.")


@pytest.mark.parametrize("error", [SourceNotFound("No such tag."), SourceRefused("401")])
def test_without_credentials_a_refusal_means_unknown_like_a_missing_image(
    error: SourceNotFound | SourceRefused, failures: SourceFailures, route: Route
) -> None:
    """Docker Hub and GHCR answer so for a repository that does not exist."""
    error.source_message = "as the source put it"
    client_error = failures.for_client(error, route)
    assert isinstance(client_error, ManifestUnknown)
    assert client_error.source_message == "as the source put it"


def test_a_sign_in_that_is_not_safe_is_no_unknown_image(
    failures: SourceFailures, route: Route
) -> None:
    assert isinstance(failures.for_client(SignInUnsafe("Not over HTTP."), route), SignInUnsafe)


def test_what_could_not_be_seen_is_not_called_unknown(
    failures: SourceFailures, route: Route
) -> None:
    error = failures.for_client(SourceNotFound("404"), route, None)
    assert isinstance(error, SourceNotFound)


def test_a_failure_is_remembered_for_its_lifetime(
    failures: SourceFailures, route: Route, clock: Clock
) -> None:
    failures.failed(NGINX, "1", SourceFailed("It failed."), route)
    clock.now += LIFETIME - 1
    with pytest.raises(SourceFailed, match=r"It failed\."):
        failures.check(NGINX, "1")
    clock.now += 1
    failures.check(NGINX, "1")


def test_a_source_that_was_not_asked_may_be_asked_at_once(
    failures: SourceFailures, route: Route
) -> None:
    failures.failed(NGINX, "1", SourceAvoided("It could not be reached a moment ago."), route)
    failures.check(NGINX, "1")


def test_a_failure_of_a_manifest_is_none_of_the_blob_of_its_digest(
    failures: SourceFailures, route: Route
) -> None:
    failures.failed(NGINX, manifest_key(DIGEST), SourceFailed("It failed."), route)
    failures.check(NGINX, str(DIGEST))
    with pytest.raises(SourceFailed):
        failures.check(NGINX, manifest_key(DIGEST))


async def test_a_failure_with_a_copy_does_not_keep_clients_from_the_copy(
    failures: SourceFailures, route: Route
) -> None:
    failures.failed(NGINX, "1", SourceUnreachable("Silent."), route, has_copy=True)
    failures.check_without_copy(NGINX, Tag("1"))
    failures.failed(NGINX, "2", SourceUnreachable("Silent."), route)
    with pytest.raises(SourceUnreachable):
        failures.check_without_copy(NGINX, Tag("2"))


async def test_after_a_source_was_too_slow_no_client_with_a_copy_waits_for_it(
    failures: SourceFailures, route: Route, scripted: ScriptedCache
) -> None:
    client: SourceClient = scripted.cache._manifests._client(route)
    assert failures.timeout(client) == REVALIDATION_TIMEOUT
    error = failures.too_slow(client, route)
    assert "does not answer within 2 s" in error.what
    assert failures.timeout(client) == 0
