"""Applications that the tests of the HTTP server serve."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from entrepot.httpd.asgi import Application, Receive, Scope, Send
from entrepot.httpd.sendfile import SENDFILE_CHUNK
from tests.httpd.byte_client import body, part, start


@pytest.fixture
def content() -> bytes:
    return os.urandom(2 * SENDFILE_CHUNK + 12_345)


@pytest.fixture
def sends_a_file(tmp_path: Path, content: bytes) -> Application:
    """An application that sends a file, or the part that the path names: ``/OFFSET/COUNT``."""
    path = tmp_path / "file"
    path.write_bytes(content)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        offset, count = (
            map(int, scope["path"].strip("/").split("/"))
            if scope["path"] != "/"
            else (0, len(content))
        )
        with path.open("rb") as file:
            await send(start(content_length=str(count)))
            await send(part(file, offset, count))

    return app


@pytest.fixture
def large_body() -> Application:
    """An application with one copy of a large body for all."""
    content = bytes(30_000_000)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start(content_length=str(len(content))))
        await send(body(content))

    return app


@pytest.fixture
def large_file(tmp_path: Path) -> Application:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(50_000_000)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        with path.open("rb") as file:
            await send(start(content_length="50000000"))
            await send(part(file, 0, 50_000_000))

    return app
