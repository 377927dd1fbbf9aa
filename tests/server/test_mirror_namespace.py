"""Which namespace a request gets at a mirror."""

from __future__ import annotations

from typing import Any

import pytest

from entrepot.httpd.asgi import Receive, Scope, Send
from entrepot.server.mirror_namespace import FixedNamespace, NamespaceOfHost
from entrepot.server.request_scope import NAMESPACE


class Recorder:
    """An application that keeps the scopes of its requests."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = []

    async def __call__(self, scope: Scope, _receive: Receive, _send: Send) -> None:
        self.scopes.append(scope)


async def namespace(app: Any, recorder: Recorder, host: bytes | None) -> object:
    scope = {"headers": [] if host is None else [(b"accept", b"*/*"), (b"host", host)]}

    async def unused(*_: object) -> Any:
        raise AssertionError

    await app(scope, unused, unused)
    return recorder.scopes[-1].get(NAMESPACE)


async def test_an_address_of_its_own_has_one_namespace_whatever_the_host() -> None:
    recorder = Recorder()
    app = FixedNamespace(NamespaceOfHost(recorder, {"quay.cache.example": "quay.io"}), "docker.io")
    assert await namespace(FixedNamespace(recorder, "docker.io"), recorder, None) == "docker.io"
    assert await namespace(app, recorder, b"cache.example") == "docker.io"


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        (b"hub.cache.example", "docker.io"),
        (b"HUB.cache.example:5000", "docker.io"),
        (b" hub.cache.example. ", "docker.io"),
        (b"quay.cache.example:443", "quay.io"),
        (b"cache.example", None),
        (b"x.hub.cache.example", None),
        (b"[::1]:5000", None),
        (b"\xff", None),
        (b"", None),
        (None, None),
    ],
)
async def test_the_host_decides_on_a_shared_address(
    host: bytes | None, expected: str | None
) -> None:
    recorder = Recorder()
    namespaces = {"hub.cache.example": "docker.io", "quay.cache.example": "quay.io"}
    assert await namespace(NamespaceOfHost(recorder, namespaces), recorder, host) == expected
