"""The bodies of requests to the management API, nearly always JSON."""

from __future__ import annotations

from typing import TypeVar

import msgspec
from starlette.requests import Request

from entrepot.errors import RequestInvalid
from entrepot.formatting import printable

BODY_LIMIT = 1024 * 1024
"""The largest body of a request, in bytes."""

Body = TypeVar("Body")


async def read_bytes(request: Request, limit: int, *, hint: str) -> bytes:
    """The body of a request; raises `RequestInvalid` beyond *limit* bytes."""
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > limit:
            raise RequestInvalid(f"The body has more than {limit:,} bytes.", hint)
    return bytes(content)


async def read_body(
    request: Request,
    kind: type[Body],
    *,
    hint: str = "Send JSON in the shape of ACR's management API.",
) -> Body:
    """The JSON body of a request, of at most `BODY_LIMIT` bytes.

    Raises `RequestInvalid` with *hint* when it is not what was expected.
    """
    content = await read_bytes(
        request, BODY_LIMIT, hint="No rule and no credential set needs that much."
    )
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        # ValueError: a number of more digits than Python reads.
        raise RequestInvalid(
            f"The body can't be read: {printable(str(error), 200)}.", hint
        ) from error
