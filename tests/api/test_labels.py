"""The words that the CLI and the dashboard share."""

from __future__ import annotations

import msgspec
import pytest

from entrepot.api import labels
from entrepot.api.models import (
    CredentialSetSnapshot,
    EvictedImage,
    Finding,
    ImageBlob,
    RefreshedTag,
    RuleMatch,
    TagDetail,
    TagImage,
    TagSnapshot,
)
from entrepot.core.states import CachedState, HealthStatus, Outcome

NOW = 1_780_000_000.0
TAG = TagSnapshot(
    name="1.27",
    digest=f"sha256:{'c' * 64}",
    platforms=("linux/amd64",),
    size=1,
    cached=NOW - 7200,
    checked=NOW - 60,
    last_pull=None,
    fresh_until=NOW + 180,
)


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, "fresh, 3 min left"),
        ({"fresh_until": NOW}, "stale, checked 1 min ago"),
        ({"fresh_until": None}, "never expires"),
        ({"gone": True}, "gone at source"),
        ({"gone": True, "locked": True}, "locked, gone at source"),
    ],
)
def test_the_state_of_a_tag(changes: dict[str, object], state: str) -> None:
    assert labels.tag_state(msgspec.structs.replace(TAG, **changes), NOW) == state


@pytest.mark.parametrize(
    ("health", "checked", "label"),
    [
        (HealthStatus.HEALTHY, NOW, "healthy"),
        (HealthStatus.UNHEALTHY, NOW, "unhealthy"),
        (HealthStatus.UNKNOWN, NOW, "unknown"),
        (HealthStatus.UNKNOWN, None, "not checked"),
    ],
)
def test_the_health_of_a_credential_set(
    health: HealthStatus, checked: float | None, label: str
) -> None:
    credential_set = CredentialSetSnapshot(
        name="hub-login",
        login_server="docker.io",
        username_id="env:U",
        password_id="env:P",
        created=NOW,
        health=health,
        checked=checked,
    )
    assert labels.credential_set_health(credential_set) == label


@pytest.mark.parametrize(
    ("tag", "holding", "state"),
    [
        ("1.27", CachedState.CACHED, "cached"),
        ("1.27", CachedState.PARTLY_CACHED, "partly cached"),
        ("1.27", CachedState.NOT_CACHED, "not cached"),
        (None, CachedState.CACHED, "repository cached"),
        (None, CachedState.NOT_CACHED, "repository not cached"),
    ],
)
def test_the_state_of_a_match(tag: str | None, holding: CachedState, state: str) -> None:
    match = RuleMatch(
        image="library/nginx",
        repository="library/nginx",
        tag=tag,
        digest=None,
        rule="hub",
        source_repository="docker.io/library/nginx",
        credential_set=None,
        pull=None,
        cached_state=holding,
    )
    assert labels.match_state(match) == state


@pytest.mark.parametrize(
    ("images", "repositories", "examples", "label"),
    [
        (0, 0, (), "not shared"),
        (1, 1, ("a:1",), "1 image: a:1"),
        (3, 2, ("a:1", "b:1", "c:1"), "3 images: a:1, b:1 and 1 more"),
        (0, 2, (), "2 repositories"),
    ],
)
def test_what_shares_a_blob(
    images: int, repositories: int, examples: tuple[str, ...], label: str
) -> None:
    blob = ImageBlob(
        digest=f"sha256:{'1' * 64}",
        media_type="application/vnd.oci.image.layer.v1.tar+gzip",
        size=1,
        cached=True,
        shared_images=images,
        shared_repositories=repositories,
        shared_with=examples,
    )
    assert labels.sharers(blob) == label


def test_the_check_of_the_rate_limit_has_the_name_that_people_use() -> None:
    finding = Finding(about="docker.io", check="allowance", outcome=Outcome.OK, what="100 left")
    assert labels.check_name(finding) == "rate limit"
    assert labels.check_name(msgspec.structs.replace(finding, check="sign-in")) == "sign-in"


def test_an_attestation_is_named_by_the_platform_of_its_image() -> None:
    image = TagImage(
        digest=f"sha256:{'a' * 64}",
        media_type="application/vnd.oci.image.manifest.v1+json",
        platform="linux/arm64",
        size=1,
        cached_size=1,
        cached_state=CachedState.CACHED,
        last_used=None,
    )
    attestation = msgspec.structs.replace(
        image, digest=f"sha256:{'b' * 64}", platform="unknown/unknown", attests=image.digest
    )
    detail = TagDetail(
        repository="library/nginx",
        tag=TAG,
        media_type="application/vnd.oci.image.index.v1+json",
        is_index=True,
        images=(image, attestation),
        own_size=1,
        shared_size=0,
    )
    assert labels.image_name(image, detail) == "linux/arm64"
    assert labels.image_name(attestation, detail) == "attestation of linux/arm64"
    alone = msgspec.structs.replace(detail, images=(attestation,))
    assert labels.image_name(attestation, alone) == f"attestation of {'a' * 12}"


@pytest.mark.parametrize(
    ("tags", "name"),
    [
        ((), f"library/nginx@sha256:{'a' * 12}"),
        (("1",), "library/nginx:1"),
        (("1", "latest"), "library/nginx:1 and 1 more"),
    ],
)
def test_the_name_of_an_evicted_image(tags: tuple[str, ...], name: str) -> None:
    image = EvictedImage(
        repository="library/nginx",
        tags=tags,
        digest=f"sha256:{'a' * 64}",
        platform=None,
        freed=1,
        last_used=NOW,
    )
    assert labels.evicted_image_name(image) == name


@pytest.mark.parametrize("short", [True, False])
def test_a_refreshed_tag_shows_digests_of_the_wanted_length(short: bool) -> None:
    refreshed = RefreshedTag(
        repository="library/nginx",
        tag="1",
        source_repository="docker.io/library/nginx",
        digest=f"sha256:{'b' * 64}",
        before=f"sha256:{'a' * 64}",
    )
    before, after = ("a" * 12, "b" * 12) if short else (refreshed.before, refreshed.digest)
    text = labels.refreshed_tag_text(refreshed, short=short)
    assert text == f"library/nginx:1 has moved from {before} to {after}."
