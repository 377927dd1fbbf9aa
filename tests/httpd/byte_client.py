"""A client that speaks HTTP to the server byte by byte, and ASGI messages to answer with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from entrepot.httpd.asgi import Application, Receive, Scope, Send
from entrepot.httpd.sendfile import SENDFILE_CHUNK
from entrepot.httpd.server import bind_tcp, serving

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def start(status: int = 200, **headers: str) -> dict[str, Any]:
    return {
        "type": "http.response.start",
        "status": status,
        "headers": [
            (name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()
        ],
    }


def body(content: bytes, *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": content, "more_body": more}


def part(file: Any, offset: int, count: int) -> dict[str, Any]:
    return {"type": "http.response.zerocopysend", "file": file, "offset": offset, "count": count}


@asynccontextmanager
async def connected(app: Application) -> AsyncIterator[Connection]:
    listener = bind_tcp("127.0.0.1", 0)
    async with serving(app, listener), asyncio.timeout(30):
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        try:
            yield reader, writer
        finally:
            writer.transport.abort()


async def answer(
    reader: asyncio.StreamReader, *, head: bool = False
) -> tuple[int, dict[str, str], bytes]:
    lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
    headers = {name: value for name, _, value in (line.partition(": ") for line in lines[1:])}
    content = b"" if head else await reader.readexactly(int(headers.get("content-length", 0)))
    return int(lines[0].split()[1]), headers, content


async def read_all(reader: asyncio.StreamReader) -> bytes:
    got = b""
    try:
        while piece := await reader.read(SENDFILE_CHUNK):
            got += piece
    except ConnectionResetError:
        pass
    return got


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    got = b""
    while (message := await receive())["type"] == "http.request":
        got += message["body"]
        if not message["more_body"]:
            break
    await send(start())
    await send(body(got))


def as_one_part(send: Send) -> Send:
    """Send messages as one endless body, which can't go out before a client reads it."""
    head_sent = False

    async def send_part(message: Any) -> None:
        nonlocal head_sent
        if message["type"] == "http.response.start":
            if not head_sent:
                head_sent = True
                await send(start(content_length=str(10**12)))
        else:
            await send(message | {"more_body": True})

    return send_part
