"""Errors for responses that are not what was asked for."""

from __future__ import annotations

import pytest

from entrepot.source.client import SourceClient
from entrepot.source.errors import (
    SourceAnswerInvalid,
    SourceError,
    SourceFailed,
    SourceNotFound,
    SourceRateLimited,
    SourceRefused,
)
from tests.fakes import (
    FakeRegistry,
    Status,
)
from tests.source.conftest import LATEST, NGINX


@pytest.mark.parametrize(
    ("fault", "error", "text"),
    [
        (Status(404), SourceNotFound, r"docker\.io has no library/nginx:latest"),
        (
            Status(401),
            SourceRefused,
            r"docker\.io refuses docker\.io/library/nginx:latest without credentials",
        ),
        (
            Status(403),
            SourceRefused,
            r"docker\.io refuses docker\.io/library/nginx:latest without credentials",
        ),
        (Status(429), SourceRateLimited, r"Too many requests to docker\.io"),
        (
            Status(500),
            SourceFailed,
            r"docker\.io fails with status 500 for docker\.io/library/nginx:latest",
        ),
        (
            Status(418),
            SourceAnswerInvalid,
            r"docker\.io answers docker\.io/library/nginx:latest with status 418",
        ),
        (Status(304), SourceAnswerInvalid, "status 304"),
        (Status(204), SourceAnswerInvalid, "status 204"),
    ],
)
async def test_each_refusal_of_a_source_says_what_and_whose_fault(
    client: SourceClient, source: FakeRegistry, fault: Status, error: type[SourceError], text: str
) -> None:
    source.fault("/manifests/", fault)
    with pytest.raises(error, match=text):
        await client.manifest(NGINX, LATEST)
    with pytest.raises(error, match=text):
        await client.head_manifest(NGINX, LATEST)


async def test_what_the_source_itself_says_is_told(
    client: SourceClient, source: FakeRegistry
) -> None:
    message = rb"requested access\u001b[31m to the resource\nis denied"
    body = b'{"errors":[{"code":"DENIED","message":"%b"}]}' % message
    source.fault("/manifests/", Status(403, body=body))
    with pytest.raises(
        SourceRefused, match=r"\(DENIED requested access\\x1b\[31m to the resource is denied\)"
    ):
        await client.manifest(NGINX, LATEST)


@pytest.mark.parametrize(
    "body",
    [b"", b"no JSON", b'{"errors": []}', b'{"errors": "x"}', b'{"errors":[{"code": 5}]}', b"\xff"],
)
async def test_an_error_in_a_form_of_its_own_is_still_an_error(
    client: SourceClient, source: FakeRegistry, body: bytes
) -> None:
    source.fault("/manifests/", Status(404, body=body))
    with pytest.raises(SourceNotFound, match=r"docker\.io has no library/nginx:latest\."):
        await client.manifest(NGINX, LATEST)


async def test_a_place_that_is_no_registry_can_not_be_signed_in_at(
    client: SourceClient, source: FakeRegistry
) -> None:
    source.fault("/v2/", Status(404))
    with pytest.raises(SourceAnswerInvalid, match="it has no /v2/"):
        await client.verify_credentials()
