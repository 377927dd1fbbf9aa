"""``Last-Modified`` of tags: when this cache first saw the tag point there.

Update tools look for it, and hardly any registry sends it.
"""

from __future__ import annotations

from email.utils import formatdate

import httpx
import pytest

from entrepot.config.directories import Directories
from entrepot.config.settings import Settings
from entrepot.core.rules import RuleDraft
from entrepot.engine.engine import Engine
from entrepot.server.registry_response import is_unmodified_since
from entrepot.server.run import registry_app
from tests.conftest import LOGIN_SERVER, Clock
from tests.fakes import FakeRegistry, Status

TAG = "/v2/library/nginx/manifests/1"


def date_of(seconds: float) -> str:
    return formatdate(seconds, usegmt=True)


@pytest.mark.parametrize("with_head", [True, False])
async def test_it_is_when_the_tag_came_and_changes_when_the_tag_moves(
    with_head: bool,
    registry: httpx.AsyncClient,
    engine: Engine,
    source: FakeRegistry,
    clock: Clock,
) -> None:
    if not with_head:
        source.fault("/manifests/", Status(405), method="HEAD")
    first = source.add_image("library/nginx", "1", layers=[b"old"])
    came = clock.now
    assert (await registry.get(TAG)).headers["last-modified"] == date_of(came)
    clock.now += 2 * engine.settings.freshness
    for method in ("GET", "HEAD"):
        response = await registry.request(method, TAG)
        assert response.headers["last-modified"] == date_of(came)
    moved = source.add_image("library/nginx", "1", layers=[b"new"])
    assert moved.digest != first.digest
    clock.now += 2 * engine.settings.freshness
    response = await registry.head(TAG)
    assert response.headers["docker-content-digest"] == str(moved.digest)
    assert response.headers["last-modified"] == date_of(clock.now)
    by_digest = await registry.get(f"/v2/library/nginx/manifests/{first.digest}")
    assert "last-modified" not in by_digest.headers


async def test_it_survives_a_restart(
    directories: Directories, settings: Settings, clock: Clock, source: FakeRegistry
) -> None:
    source.add_image("library/nginx", "1", layers=[10])
    came = clock.now
    for has_rule in (False, True):
        async with Engine.open(directories, settings, clock=clock) as engine:
            if not has_rule:
                await engine.rules.create(
                    RuleDraft("example-library", f"{LOGIN_SERVER}/library/*", "library/*")
                )
            transport = httpx.ASGITransport(registry_app(engine))
            async with httpx.AsyncClient(transport=transport, base_url="http://e") as client:
                assert (await client.get(TAG)).headers["last-modified"] == date_of(came)
        clock.now += 86_400


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("etag", "seconds", "status"),
    [
        (None, 0, 304),
        (None, 3600, 304),
        (None, -1, 200),
        ("right", -1, 304),
        ("other", 3600, 200),
        ("right", None, 304),
    ],
)
async def test_if_modified_since_counts_without_if_none_match_only(
    method: str,
    etag: str | None,
    seconds: int | None,
    status: int,
    registry: httpx.AsyncClient,
    source: FakeRegistry,
    clock: Clock,
) -> None:
    image = source.add_image("library/nginx", "1", layers=[10])
    await registry.get(TAG)
    headers = {}
    if seconds is not None:
        headers["If-Modified-Since"] = date_of(clock.now + seconds)
    if etag is not None:
        headers["If-None-Match"] = f'"{image.digest if etag == "right" else "sha256:0"}"'
    response = await registry.request(method, TAG, headers=headers)
    assert response.status_code == status
    assert response.headers["last-modified"] == date_of(clock.now)
    assert response.headers["etag"] == f'"{image.digest}"'
    assert ("content-length" in response.headers) == (status == 200)


async def test_a_time_in_the_future_is_not_sent(
    registry: httpx.AsyncClient, source: FakeRegistry, clock: Clock
) -> None:
    source.add_image("library/nginx", "1", layers=[10])
    await registry.get(TAG)
    clock.now -= 3600
    assert "last-modified" not in (await registry.get(TAG)).headers


@pytest.mark.parametrize("date", ["", "yesterday", "Mon, 01 Jan 2400 25:00:00 GMT", "1"])
def test_a_date_that_can_not_be_read_is_none(date: str) -> None:
    assert not is_unmodified_since(0.0, date)
